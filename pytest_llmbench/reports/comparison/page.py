"""A comparison as Markdown, for the summary of a CI job or a comment."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_llmbench.reports.comparison.lines import HEADERS, compare_tables, one_sided, stories
from pytest_llmbench.trials.comparison import Comparison, summary

__all__ = ["markdown"]

_RIGHT = ("A", "B", "change", "95 % interval")


def markdown(comparison: Comparison, *, every_metric: bool = False) -> str:
    """The verdicts first, then packages and tables."""
    return "\n".join(_lines(comparison, every_metric))


def _lines(comparison: Comparison, every_metric: bool) -> Iterator[str]:
    yield f"**A** `{comparison.a}` against **B** `{comparison.b}`"
    yield ""
    if comparison.measured_on:
        yield f"Measured on {comparison.measured_on}."
        yield ""
    for sentence in (*summary(comparison.rows), *comparison.left_out):
        yield f"- {sentence}"
    yield ""
    if comparison.changes:
        yield f"Packages that differ ({comparison.num_unchanged} {comparison.same}):"
        yield ""
        changed = [one for one in comparison.changes if one.before and one.after]
        yield from _table(("package", "A", "B"), [(one.name, one.before or "", one.after_text) for one in changed])
        for only in one_sided(comparison.changes):
            yield f"- {only}"
        yield ""
    else:
        yield f"All {comparison.num_unchanged} packages {comparison.same}."
        yield ""
    for table in compare_tables(comparison.rows, every_metric=every_metric):
        yield f"### {table.title}"
        yield ""
        yield from _table(HEADERS, [line.cells for line in table.lines])
    for name, text in stories(comparison.rows):
        yield f"- `{name}`: {_escaped(text)}"


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield f"|{'|'.join('--:' if header in _RIGHT else '---' for header in headers)}|"
    for row in rows:
        yield f"| {' | '.join(map(_escaped, row))} |"
    yield ""


def _escaped(text: str) -> str:
    """A reason may hold several lines and anything else."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
