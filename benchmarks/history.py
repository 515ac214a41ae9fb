"""
A git repository of an installed library: one commit that plants a regression among harmless ones.

    python -m benchmarks.history FOLDER [--plant NAME] [--commits 64] [--at 41] [--broken 30,31]

The plant is one of `benchmarks.plants.catalogue`. The first commit has the library as it is installed; each of
`--commits` that follow it adds a comment to a file, and the one numbered `--at` also has the plant. From the first to
the last of `--broken` the library does not import. `llmbench bisect --package NAME --repo FOLDER --good first --bad main`
has to name it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
from pathlib import Path

from benchmarks.plants.catalogue import PLANTS, Plant
from benchmarks.plants.overlay import edited

_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "{version}"

[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
"*" = ["**"]
"""
_WHO = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main")


def make_history(folder: Path, plant: Plant, commits: int, at: int, broken: range) -> str:
    """
    Make the repository.

    Returns:
        The commit that has the plant first.
    """
    library = plant.library
    package = folder / "src" / library
    origin = importlib.metadata.distribution(library).locate_file(library)
    shutil.copytree(str(origin), package, ignore=shutil.ignore_patterns("__pycache__"))
    version = importlib.metadata.version(library)
    (folder / "pyproject.toml").write_text(_PROJECT.format(name=library, version=version))
    _git(folder, "init", "--quiet")
    _commit(folder, f"{library} {version}")
    _git(folder, "tag", "first")
    begins = package / "__init__.py"
    whole = begins.read_text()
    files = sorted(file for file in package.rglob("*.py") if file != begins)
    planted = ""
    for number in range(1, commits + 1):
        file = files[number * len(files) // (commits + 1)]
        if number == at:
            (folder / "src" / plant.file).write_text(edited(plant))
        with file.open("a") as added:
            added.write(f"\n# Note {number}.\n")
        begins.write_text(f"import gone\n\n{whole}" if number in broken else whole)
        commit = _commit(folder, f"Note {number} on {file.relative_to(package)}")
        planted = commit if number == at else planted
    return planted


def _commit(folder: Path, subject: str) -> str:
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", subject)
    return _git(folder, "rev-parse", "HEAD")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *_WHO, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plant", default="lora_python_loop", choices=[plant.name for plant in PLANTS])
    parser.add_argument("--commits", type=int, default=64)
    parser.add_argument("--at", type=int, default=41)
    parser.add_argument("--broken", default="", help="FIRST,LAST")
    given = parser.parse_args()
    first, _, last = given.broken.partition(",")
    gaps = range(int(first), int(last or first) + 1) if first else range(0)
    chosen = next(plant for plant in PLANTS if plant.name == given.plant)
    print(make_history(given.folder, chosen, given.commits, given.at, gaps))
