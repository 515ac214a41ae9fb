"""`llmbench reference`: the pages of the reference, made from the code that they describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from pytest_llmbench.cli import console
from pytest_llmbench.plugin.options import OPTIONS, Option
from pytest_llmbench.schema.metrics import METRICS, Metric, Tolerance
from pytest_llmbench.schema.units import percent, size
from pytest_llmbench.store.baseline import BaselineFile
from pytest_llmbench.store.results import Result

__all__ = ["PAGES", "reference"]

Page = Literal["options", "metrics", "results", "baselines"]


def reference(
    page: Annotated[
        Page | None,
        typer.Argument(help="options, metrics, or the JSON schema of result files or of baseline files."),
    ] = None,
    write: Annotated[Path | None, typer.Option(metavar="DIR", help="Write all pages into this folder.")] = None,
) -> None:
    """Print a page of the reference, as it is true of this version."""
    if page is None and write is None:
        console.stop("name a page, or a folder with --write DIR")
    if page is not None:
        [(_, make)] = [(name, make) for name, make in PAGES.items() if name.startswith(page)]
        typer.echo(make(), nl=False)
    if write is not None:
        for name, make in PAGES.items():
            console.write(write / name, make())


def _options() -> str:
    lines = [
        "# Options",
        "A flag on the command line beats the ini setting, the ini setting beats the default. Everything but the "
        "first counts only where that is given. Write a value after `=`: pytest takes a path after a space for a path "
        "to tests, and may look for its root directory there.",
        "| flag | ini setting | default | |\n| --- | --- | --- | --- |\n" + "\n".join(map(_option, OPTIONS)),
    ]
    return _made("options", lines)


def _option(option: Option) -> str:
    value = f"={option.metavar or '|'.join(option.choices)}" if option.kind != "flag" else ""
    flag = f"`{option.flag}{value}`".replace("|", "\\|")
    default = f"`{option.default}`" if option.default else ""
    return f"| {flag} | `{option.setting}` | {default} | {option.describe} |"


def _metrics() -> str:
    lines = [
        "# Metrics",
        "Names carry quantity, unit and denominator. A metric that could not be measured is absent, with "
        "the reason. Of two limits the larger holds.",
        "| metric | unit | better | gate | limit | |\n| --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(map(_metric, METRICS.values())),
    ]
    return _made("metrics", lines)


def _metric(metric: Metric) -> str:
    cells = (f"`{metric.name}`", metric.unit, metric.better, metric.gate, _limit(metric), metric.describe)
    return f"| {' | '.join(cells)} |"


def _limit(metric: Metric) -> str:
    if metric.gate == "statistical":
        return f"by its noise; a change below {_share(metric.smallest_effect)} does not matter"
    limit = _tolerance(metric.tolerance, in_bytes=metric.unit == "B")
    if metric.gate == "exact":
        return f"equal within one environment, {limit} across" if limit else "equal"
    return f"{limit}, never fails" if metric.gate == "advisory" else limit


def _tolerance(tolerance: Tolerance, *, in_bytes: bool) -> str:
    parts = [_share(tolerance.relative)] if tolerance.relative else []
    if tolerance.absolute:
        parts.append(size(tolerance.absolute) if in_bytes else f"{tolerance.absolute:g}")
    return " or ".join(parts)


def _share(fraction: float) -> str:
    return percent(fraction).lstrip("+")


def _made(page: str, parts: list[str]) -> str:
    note = f"<!-- Made by `llmbench reference {page}`; change the code, not this page. -->"
    return "\n\n".join([note, *parts]) + "\n"


def _schema(of: Any, title: str) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **msgspec.json.schema(of)}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "options.md": _options,
    "metrics.md": _metrics,
    "results.schema.json": lambda: _schema(Result, "One line of a result file"),
    "baselines.schema.json": lambda: _schema(BaselineFile, "A baseline file"),
}
"""File below `docs/reference` to what makes it."""
