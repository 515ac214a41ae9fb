"""`llmbench report`: results as an HTML page or as Markdown, and the stored baselines of a device as a document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_llmbench.cli.console import newest, read, stop, write
from pytest_llmbench.reports.reproduction import reproduction
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.published import PublishedError, load_published
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables import TABLES

__all__ = ["report"]


def report(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="DEVICE | RESULTS.jsonl...",
            help="A folder below the baselines, as nvidia-h200; with --html or --markdown the result files of runs.",
        ),
    ],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as one HTML page.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the results as Markdown.")] = False,
    baselines: Annotated[Path, typer.Option(help="Folder of the baselines.")] = Path("baselines"),
) -> None:
    """
    Results as an HTML page or as Markdown; or the published tables with a device's baselines beside them.

    Of results for the same row the newest counts; several files also make a trend.
    """
    try:
        if html is None and not markdown:
            _print_device(what, baselines)
            return
        paths = [Path(one) for one in what]
        found = read(paths)
        if html is not None:
            _write_html(html, paths, found, baselines)
        if markdown:
            from pytest_llmbench.reports.markdown import markdown_report

            typer.echo(markdown_report(newest(found)), nl=False)
    except (BaselineError, PublishedError) as error:
        stop(str(error))


def _write_html(file: Path, paths: list[Path], found: tuple[tuple[Result, ...], ...], baselines: Path) -> None:
    from pytest_llmbench.reports.html import HtmlReportUnavailable, ResultFile, html_report

    runs = [ResultFile(path.stem, results) for path, results in zip(paths, found, strict=True) if results]
    try:
        page = html_report(runs, store=BaselineStore(baselines), published=load_published(baselines))
    except HtmlReportUnavailable as error:
        stop(str(error))
    write(file, page)
    typer.echo(f"llmbench: {file}", err=True)


def _print_device(what: list[str], baselines: Path) -> None:
    if len(what) != 1 or what[0].endswith(".jsonl"):
        stop(f"{what[0]}: to show results add --html FILE or --markdown; without them give one device")
    [device] = what
    store = BaselineStore(baselines)
    published = load_published(baselines)
    loaded = {name: store.load(device, name) for name in TABLES}
    measured = {name: file for name, file in loaded.items() if file is not None}
    if set(published) < set(TABLES) or not measured:
        missing = "published numbers" if set(published) < set(TABLES) else f"baselines of {device}"
        stop(f"{baselines}: no {missing} here")
    typer.echo(reproduction(published, measured), nl=False)
