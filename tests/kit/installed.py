"""A package as pip would have installed it, without pip: its files, and what its pyproject.toml declares."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

__all__ = ["install"]


def install(project: Path, site: Path) -> None:
    """Copy *project* into *site*, which is to be on the path of imports, with its entry points."""
    shutil.copytree(project, site, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    declared = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = declared["name"], declared["version"]
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    sections = [
        f"[{group}]\n" + "".join(f"{entry} = {value}\n" for entry, value in entries.items())
        for group, entries in declared["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(sections))
