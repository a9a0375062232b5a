"""What the tests of `k8s/` share: the directories as kustomize renders them, and pod specs wherever they hang."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import all_versions, major_minor

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "k8s"
RELEASES = [v for v in dict.fromkeys(map(major_minor, all_versions())) if tuple(map(int, v.split("."))) >= (1, 29)]

VARIANTS = (
    "base",
    "config",
    "inject",
    "monitoring",
    "network",
    "examples/deployment",
    "examples/job",
    "examples/plain",
)
"""Everything that can be applied as it is. `component` and `readiness` are parts of others."""

LABEL = {"outrider/inject": "enabled"}

Json = dict[str, Any]


def needed(*names: str) -> str:
    """The first of these programs that is installed. Without any the test is skipped, but never in CI."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        told = f"none of these programs is installed: {', '.join(names)} (.ci/run installs them)"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    return found


def built(directory: Path) -> list[Json]:
    """The documents that kustomize makes of a directory; kubectl has it built in."""
    tool = needed("kustomize", "kubectl")
    verb = "build" if Path(tool).name == "kustomize" else "kustomize"
    done = subprocess.run([tool, verb, str(directory)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # A warning of kustomize is a fault of ours: a deprecated field, a patch that matched nothing.
    assert done.stderr == ""
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@functools.cache
def _rendered(variant: str) -> tuple[Json, ...]:
    return tuple(built(K8S / variant))


def rendered(variant: str) -> list[Json]:
    """The documents of one variant, rendered once; the caller may change what it gets."""
    return copy.deepcopy(list(_rendered(variant)))


def the(variant: str, kind: str) -> Json:
    [found] = [document for document in rendered(variant) if document["kind"] == kind]
    return found


def template(document: Json) -> Json | None:
    """The pod (metadata and spec) that a document describes, if it does."""
    match document:
        case {"kind": "Pod"}:
            return document
        case {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": found}}}}:
            return dict(found)
        case {"spec": {"template": {"spec": _} as found}}:
            return dict(found)
    return None


def templates(variant: str) -> Iterator[Json]:
    yield from filter(None, map(template, rendered(variant)))


def named(items: list[Json], name: str) -> Json:
    [found] = [item for item in items if item["name"] == name]
    return found


def values(container: Json) -> dict[str, str | None]:
    """The environment of a container by name; None where the value comes from elsewhere."""
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


# The image ------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (INSTRUCTION, rest), comments dropped and continued lines joined."""
    lines = [line for line in (K8S / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.split("\n") if line)
    ]


def last_stage() -> list[tuple[str, str]]:
    everything = instructions()
    return everything[max(i for i, (word, _) in enumerate(everything) if word == "FROM") :]
