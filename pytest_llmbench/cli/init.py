"""`llmbench init`: what a repository needs to measure its own model, every night and for every pull request."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from pytest_llmbench.cli.console import stop
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.store.files import leads_out

__all__ = ["FILES", "VALUES", "init", "scaffold"]

FILES = {
    "tests/llmbench/test_finetuning.py": "test_finetuning.py.txt",
    "baselines/.gitignore": "gitignore.txt",
    ".github/workflows/llmbench.yml": "nightly.yml.txt",
    ".github/workflows/llmbench-pull-request.yml": "pull-request.yml.txt",
    ".github/workflows/llmbench-comment.yml": "comment.yml.txt",
    "tox-llmbench.ini": "tox.ini.txt",
    "constraints-llmbench.txt": "constraints.txt",
}
"""Path in the repository to the template of `cli/scaffold`."""

VALUES = {
    "@TESTS@": "tests/llmbench",
    "@INSTALL@": "-c constraints-llmbench.txt 'pytest-llmbench[train]'",
    "@PACKAGE@": "pytest-llmbench",
}
"""What stands in the templates of workflows, in a repository other than that of this package."""


def scaffold(template: str, values: Mapping[str, str]) -> str:
    """A template of `cli/scaffold` with *values* in place of what stands for them."""
    text = resources.files("pytest_llmbench.cli").joinpath("scaffold", template).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The repository.")] = Path(),
    model: Annotated[
        str, typer.Option(help="A published model, an id of the Hugging Face hub, or a directory with a config.json.")
    ] = "qwen-7b-chat",
) -> None:
    """
    Write a test with two rows of a model, a folder of baselines, three workflows and tox environments.

    The workflows: every night on a GPU; for each pull request without one; and the comment on it.
    """
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
    values = {**VALUES, "@MODEL@": model}
    try:
        for path, template in FILES.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as stream:
                stream.write(scaffold(template, values))
            typer.echo(f"wrote {target}")
    except OSError as error:
        stop(f"{error.filename}: cannot be written: {error.strerror}")
    typer.echo(
        "next: pytest tests/llmbench --llmbench --llmbench-scale=smoke --llmbench-missing=record  (no GPU needed)\n"
        "and:  pytest tests/llmbench --llmbench --llmbench-device=fake --llmbench-missing=record  (for pull requests)\n"
        "then: pytest tests/llmbench -m gpu --llmbench --llmbench-update=missing, and commit baselines/"
    )
