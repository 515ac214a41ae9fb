"""
The results as Markdown for a pull request or a CI job's summary: the verdict first, details folded.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pytest_llmbench.reports.table import ORDER, SYMBOLS, Line, ReportTable, report_tables
from pytest_llmbench.schema.units import counted
from pytest_llmbench.store.results import Result

__all__ = ["MAX_CHARACTERS", "escaped", "markdown_report", "markdown_table", "write_step_summary"]

MAX_CHARACTERS = 60_000
"""GitHub refuses a comment of more than 65,536 characters."""

_NUMBERS = ("baseline", "now", "change", "limit")
_FAILED_ROWS = 20
_SPECIAL = re.compile(r"[\\`*\[\]<>|#~&@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINKED = re.compile(r"&#64;|&#35;(?=\d)|:(?=//)|www(?=\.)|gh(?=-\d)", re.IGNORECASE)
"""What GitHub makes a link of, up to where it is parted."""
_NO_WIDTH = "&#8203;"
_MOST = 600
"""Characters of one sentence of others, so that no one of them takes all the room."""
_MOST_NEWS = 2000


def markdown_report(
    results: Sequence[Result], *, heading: str = "llmbench", max_characters: int = MAX_CHARACTERS
) -> str:
    """
    A heading with the verdict, what failed and what is new, and all tables folded.

    Tables that would make it longer than *max_characters* are left out, and it says so.
    """
    parts = [f"### {heading}: {_verdict(results)}", _where(results), *_failed(results), *_news(results)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    left_out = []
    for table in report_tables(results):
        folded = f"\n{_folded(table, results)}\n"
        if len(text) + len(folded) > max_characters - 500:
            left_out.append(table.name)
        else:
            text += folded
    if left_out:
        text += f"\nToo long to show here: {escaped(', '.join(left_out), _MOST)}; `llmbench show` prints them.\n"
    return text


def write_step_summary(results: Sequence[Result], environ: Mapping[str, str]) -> str | None:
    """
    Append the report to the file that GITHUB_STEP_SUMMARY names; nothing is done without that, or without results.

    Returns:
        Why it could not be written, or None.
    """
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path or not results:
        return None
    try:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(markdown_report(results) + "\n")
    except OSError as error:
        return f"GITHUB_STEP_SUMMARY={path} cannot be written: {error.strerror}"
    return None


def markdown_table(headers: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: Collection[str] = ()) -> str:
    """Cells that are escaped already, as a table; the columns of *numbers* to the right."""
    names = tuple(headers)
    ruler = ("--:" if name in numbers else "---" for name in names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ruler, *rows))


def _verdict(results: Sequence[Result]) -> str:
    """As "2 of 43 rows failed: 2 regressed"."""
    counts = Counter(result.told for result in results)
    told = ", ".join(f"{SYMBOLS[word]} {counts[word]} {word}" for word in ORDER if counts[word])
    failed = sum(result.decision == "fail" for result in results)
    rows = counted(len(results), "row")
    if not results:
        return "no case was measured"
    if failed:
        return f"{failed} of {rows} failed ({told})"
    passed = sum(result.decision == "pass" for result in results)
    return f"{rows} passed ({told})" if passed == len(results) else f"{passed} of {rows} passed ({told})"


def _where(results: Sequence[Result]) -> str:
    devices = {now.device: None for result in results if (now := result.measurement.environment)}
    scales = {result.measurement.workload.scale: None for result in results}
    planted = {one.text: None for result in results if (one := result.measurement.workload.injection)}
    parts = [escaped(", ".join(devices), _MOST), *(f"{scale} scale" for scale in scales)]
    return ", ".join(filter(None, parts)) + (
        f". Planted on purpose: {escaped(', '.join(planted), _MOST)}." if planted else ""
    )


def _failed(results: Sequence[Result]) -> Iterator[str]:
    failed = sorted((one for one in results if one.decision == "fail"), key=lambda one: ORDER.index(one.told))
    lines = []
    for result in failed[:_FAILED_ROWS]:
        told = result.why
        name = escaped(result.name, _MOST)
        lines.append(f"- {SYMBOLS[result.told]} **{name}** {result.told}: {escaped(told, _MOST)}")
    if len(failed) > _FAILED_ROWS:
        lines.append(f"- and {len(failed) - _FAILED_ROWS} more")
    if lines:
        yield "\n".join(lines)


def _news(results: Iterable[Result]) -> Iterator[str]:
    new = dict.fromkeys(str(change) for result in results for change in result.verdict.package_changes)
    if new:
        yield f"New since the baseline: {escaped('; '.join(new), _MOST_NEWS)}"


def _folded(table: ReportTable, results: Sequence[Result]) -> str:
    of_table = [result for result in results if result.table == table.name]
    failed = sum(result.decision == "fail" for result in of_table)
    told = counted(len(of_table), "row") + (f", {failed} failed" if failed else "")
    rows = (map(escaped, _cells(line)) for line in table.lines)
    text = markdown_table((*table.columns, "metric", *_NUMBERS, "verdict"), rows, numbers=_NUMBERS)
    # Without the empty line GitHub shows the table as text.
    return f"<details><summary>{escaped(table.title, _MOST)}: {told}</summary>\n\n{text}\n\n</details>"


def _cells(line: Line) -> Iterator[str]:
    yield from line.row
    yield from (line.metric, line.baseline, line.now, line.change, line.limit)
    symbol = SYMBOLS.get(line.verdict, "")
    yield f"{symbol} {line.verdict}".strip()


def escaped(text: str, most: int | None = None) -> str:
    """
    Text that shows as it is on one line, links nowhere and mentions nobody, whatever a test is called.

    GitHub makes links of addresses, names and numbers after entities are read, so a space without width parts them.

    Args:
        text: whatever somebody wrote.
        most: characters of it that are shown.
    """
    line = " ".join(text.split())
    if most is not None and len(line) > most:
        line = f"{line[:most]}..."
    shown = _SPECIAL.sub(lambda match: html.escape(match[0]) if match[0] in "<>&" else f"&#{ord(match[0])};", line)
    return _LINKED.sub(lambda match: f"{match[0]}{_NO_WIDTH}", shown)
