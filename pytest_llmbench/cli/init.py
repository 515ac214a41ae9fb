"""`llmbench init`: what a repository needs to measure its own model every night."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from pytest_llmbench.cli.terminal import stop
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.store.files import leads_out

__all__ = ["FILES", "init"]

FILES = {
    "tests/llmbench/test_finetuning.py": "test_finetuning.py.txt",
    "baselines/.gitignore": "gitignore.txt",
    ".github/workflows/llmbench.yml": "nightly.yml.txt",
    "tox-llmbench.ini": "tox.ini.txt",
    "constraints-llmbench.txt": "constraints.txt",
}
"""Path in the repository to the template of `cli/scaffold`."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The repository.")] = Path(),
    model: Annotated[
        str, typer.Option(help="A published model, an id of the Hugging Face hub, or a directory with a config.json.")
    ] = "qwen-7b-chat",
) -> None:
    """Write a test with two rows of a model, a folder of baselines, a nightly workflow and tox environments."""
    try:
        Case(model=model)
    except CaseError as error:
        stop(f"--model: {error}")
    there = [path for path in FILES if (folder / path).exists()]
    if there:
        stop(f"{folder}: {', '.join(there)} exist already, and nothing was written; move them away")
    links = [path for path in FILES if leads_out(folder / path, folder)]
    if links:
        stop(f"{folder}: links lead {', '.join(links)} out of the folder, and nothing was written; remove them")
    templates = resources.files("pytest_llmbench.cli").joinpath("scaffold")
    try:
        for path, template in FILES.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            text = templates.joinpath(template).read_text(encoding="utf-8").replace("@MODEL@", model)
            with target.open("x", encoding="utf-8") as stream:
                stream.write(text)
            typer.echo(f"wrote {target}")
    except OSError as error:
        stop(f"{error.filename}: cannot be written: {error.strerror}")
    typer.echo(
        "next: pytest tests/llmbench --llmbench --llmbench-scale=smoke --llmbench-missing=record  (no GPU needed)\n"
        "then: pytest tests/llmbench -m gpu --llmbench --llmbench-update=missing, and commit baselines/"
    )
