"""A small library as an installer leaves it: a package, its metadata, and a RECORD of its files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["commit", "edit", "git", "install", "write_metadata"]

FILES = {"__init__.py": "rank = 8\n", "tuners/lora.py": "alpha = 32\n"}


def install(site: Path, name: str = "peft", version: str = "0.19.2.dev0", **direct_url: Any) -> Path:
    """The folder of a package with two files, installed in *site*."""
    folder = site / name
    about = write_metadata(site, name, version, **direct_url)
    rows = []
    for file, text in FILES.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        rows.append(f"{name}/{file},sha256={digest},{len(text)}")
    (about / "RECORD").write_text("\n".join([*rows, f"{about.name}/RECORD,,", ""]))
    return folder


def write_metadata(site: Path, name: str, version: str, **direct_url: Any) -> Path:
    """The folder of metadata, without a RECORD."""
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if direct_url:
        (about / "direct_url.json").write_text(json.dumps(direct_url))
    return about


def edit(file: Path, text: str) -> None:
    """Write a file, some time after it was installed."""
    file.write_text(text)
    now = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(now, now))


def git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """What git prints in a folder, as somebody who may commit."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, input=stdin, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path, subject: str = "x") -> str:
    """Commit all that is in a folder, of which a repository is made if it is none; the commit."""
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "--allow-empty", "-qm", subject)
    return git(folder, "rev-parse", "HEAD")
