"""Every older major of the official clients that installs, with a target of every dialect."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.sdk_targets import PNG, TARGETS, Stage, stage
from tests.e2e.harness import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    groups = [f"{folder}-{caller}" for folder in ("old", "mid") for caller in ("chat", "messages")]
    async with stage(tmp_path_factory.mktemp("targets"), groups=groups) as built:
        yield built


@pytest.mark.parametrize(("folder", "versions"), [("old", ("1.12.0", "0.")), ("mid", ("2.", "1."))])
async def test_older_majors(made: Stage, folder: str, versions: tuple[str, str]) -> None:
    packages = ROOT / f".venv-sdk-{folder}"
    if not (packages / "anthropic").is_dir():
        pytest.skip("needs `make sdk`")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "conformance" / "sdk_older_targets_check.py"),
        made.url,
        PNG,
        folder,
        *TARGETS,
        env={**os.environ, "PYTHONPATH": str(packages)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    report = json.loads(out)
    assert report["openai"].startswith(versions[0])
    assert report["anthropic"].startswith(versions[1])
    assert report["done"] == len(TARGETS) * 2 * 11
