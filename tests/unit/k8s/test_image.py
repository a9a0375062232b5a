"""The image: what the Dockerfile promises by its text; `make image` finds a builder or says that there is none.

Nothing is built here: that needs a builder and a base image from a registry.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.unit.k8s.rendering import K8S, ROOT, instructions, last_stage


def test_image_runs_as_a_number_and_as_process_one() -> None:
    stage = dict(last_stage())
    assert stage["USER"] == "65532:65532"
    assert stage["ENTRYPOINT"] == '["outrider"]'
    assert stage["CMD"] == '["run"]'
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert last_stage().index(("USER", "65532:65532")) > max(
        i for i, (word, _) in enumerate(last_stage()) if word in {"RUN", "COPY"}
    )


def test_image_installs_by_hash_and_leaves_the_tools_behind() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    installs = [part.strip() for run in runs for part in run.split("&&") if re.search(r"\bpip\b.* install ", part)]
    assert len(installs) == 3
    for command in installs:
        words = shlex.split(command)
        assert "--require-hashes" in words or {"--no-deps", "--no-index"} <= set(words), command
    assert any("compileall" in run and "unchecked-hash" in run for run in runs)
    [clearing] = [rest for word, rest in last_stage() if word == "RUN"]
    assert "pip uninstall" in clearing
    assert not re.search(r"apt|gcc|pip install", clearing)
    assert [rest for word, rest in last_stage() if word == "COPY"] == ["--from=build /opt/outrider /opt/outrider"]


def test_image_copies_only_what_exists() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    assert copied
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []


def test_image_is_the_same_for_the_same_commit() -> None:
    text = " ".join(rest for _, rest in instructions())
    assert "PYTHONHASHSEED=0" in text
    [compiling] = [rest for word, rest in instructions() if word == "RUN" and "compileall" in rest]
    parts = [part.strip() for part in compiling.split("&&")]
    # Several processes write byte code in an order of their own; the times are set after everything else.
    assert not any(re.search(r"compileall.* -j", part) for part in parts)
    # Without -f what pip compiled for itself would stay, by time stamps, and be stale once the times are set.
    assert any(re.search(r"compileall.* -f .*unchecked-hash", part) for part in parts)
    assert "--date=@${SOURCE_DATE_EPOCH}" in parts[-1]
    froms = [i for i, (word, _) in enumerate(instructions()) if word == "FROM"]
    epochs = [i for i, step in enumerate(instructions()) if step == ("ARG", "SOURCE_DATE_EPOCH=0")]
    assert [sum(i > start for i in epochs) for start in froms] == [2, 1]


def tools(directory: Path, **scripts: str) -> dict[str, str]:
    """An environment in which only these builders, and the ordinary programs, are installed."""
    for name in ("bash", "sed", "head", "git", "dirname", "echo"):
        (directory / name).symlink_to(next(Path(at) / name for at in os.get_exec_path() if (Path(at) / name).exists()))
    for name, text in scripts.items():
        (directory / name).write_text(f"#!/bin/bash\n{text}\n")
        (directory / name).chmod(0o755)
    return {"PATH": str(directory)}


def image(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(K8S / "image.sh"), *arguments], env=env, capture_output=True, text=True, timeout=30
    )  # fmt: skip


@pytest.mark.parametrize("scripts", [{}, {"docker": "exit 1"}], ids=["none", "docker without its daemon"])
def test_without_a_builder_it_says_so(tmp_path: Path, scripts: dict[str, str]) -> None:
    done = image(tools(tmp_path, **scripts))
    assert done.returncode == 1
    assert done.stderr.startswith("make image: no builder here.")


@pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
def test_the_builder_gets_name_and_time(tmp_path: Path, builder: str) -> None:
    calls = tmp_path / "calls"
    env = tools(tmp_path, **{builder: f'echo "$*" >> {calls}'})
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for arguments, tag in (((), f"outrider:{version}"), (("reg.example.com/o:2",), "reg.example.com/o:2")):
        calls.write_text("")
        done = image(env | {"SOURCE_DATE_EPOCH": "1700000000"}, *arguments)
        assert done.returncode == 0, done.stderr
        [build] = [line for line in calls.read_text().splitlines() if line.startswith("build ")]
        words = shlex.split(build)
        assert words[words.index("--tag") + 1] == tag
        assert words[words.index("--file") + 1] == "k8s/Dockerfile"
        assert "SOURCE_DATE_EPOCH=1700000000" in words
        assert builder == "docker" or words[words.index("--timestamp") + 1] == "1700000000"
