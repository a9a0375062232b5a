"""A directory that changes the way the kubelet changes a mounted ConfigMap or Secret (`ecosystem.md` 3.6)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

SAME_TIME_NS = 1_767_225_600_000_000_000
"""Every version of every file has this time of modification: k/k#24215."""


class Mount:
    """A new directory, then a rename over ``..data``, then the old directory goes."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.version = 0

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self, files: dict[str, str]) -> None:
        """Put these files in the place of those before."""
        self.version += 1
        data = self.root / "..data"
        old = os.readlink(data) if data.is_symlink() else None
        new = f"..2026_01_01_00_00_00.{self.version:09d}"
        (self.root / new).mkdir()
        for name, text in files.items():
            path = self.root / new / name
            path.write_text(text)
            os.utime(path, ns=(SAME_TIME_NS, SAME_TIME_NS))
        os.symlink(new, self.root / "..data_tmp")
        os.replace(self.root / "..data_tmp", data)
        for name in files:
            if not (self.root / name).is_symlink():
                os.symlink(f"..data/{name}", self.root / name)
        if old:
            shutil.rmtree(self.root / old)

    def config(self, tree: dict[str, Any]) -> str:
        """Mount a file; its text."""
        text = yaml.safe_dump(tree, sort_keys=False)
        self.write({"config.yaml": text})
        return text
