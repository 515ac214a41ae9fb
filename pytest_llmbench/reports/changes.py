"""What differs between two folders of baselines, as a review of the change: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from pytest_llmbench.judge.values import number_text
from pytest_llmbench.reports.markdown import MAX_CHARACTERS, escaped, markdown_table
from pytest_llmbench.reports.terminal import Page
from pytest_llmbench.schema.metrics import METRICS, Noise, Tolerance, title
from pytest_llmbench.schema.units import apart, counted, percent, size
from pytest_llmbench.store.changes import Changed, Changes, Moved

__all__ = ["markdown_changes", "render_changes", "sentence_on", "summary_of", "to_json"]

_HEADERS = ("row", "what", "before", "after", "change")
_NUMBERS = ("before", "after", "change")
_MOST = 1000
"""Characters of one sentence in Markdown."""
_SMALL = 0.001
"""A change of a speed or a time below which it is counted and not shown."""
_KINDS = {
    "removed": "removed",
    "renamed": "renamed",
    "added": "added",
    "recorded": "recorded again",
    "changed": "changed, the values are as before",
    "edited": "edited by hand, under the date of before",
}
_STYLES = {
    "removed": "bold red",
    "edited": "bold red",
    "renamed": "yellow",
    "added": "green",
    "recorded": "bold",
    "changed": "bold",
}
_WORDS = {
    "removed": "removed",
    "renamed": "renamed",
    "added": "added",
    "changed": "changed",
    "edited": "edited by hand",
}


class _Line(NamedTuple):
    """One thing that differs, as text by `_HEADERS`."""

    row: str = ""
    what: str = ""
    before: str = ""
    after: str = ""
    change: str = ""


def render_changes(found: Changes, *, width: int, color: bool) -> str:
    """The rows by table, and a summary, at most *width* columns wide."""
    page = Page(width=width, color=color)
    for (folder, table), rows in _by_table(found):
        rendered = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
        for header in _HEADERS:
            rendered.add_column(Text(header), justify="right" if header in _NUMBERS else "left", overflow="fold")
        for row in rows:
            for line in _lines(row):
                style = _STYLES[row.kind] if line.row else ""
                rendered.add_row(Text(line.row, style=style), *map(Text, line[1:]))
        page.console.print(Text(f"{folder}/{table}", style="bold"), rendered, "", sep="\n")
        for row in rows:
            page.console.print(Text(f"{row.name}: {_why(row)}"))
        page.console.print()
    for sentence in summary_of(found):
        page.console.print(Text(f"llmbench: {sentence}"))
    return page.text()


def markdown_changes(found: Changes, *, max_characters: int = MAX_CHARACTERS) -> str:
    """A heading with the summary, then the rows by table, folded; tables that would make it too long are named."""
    first, *others = summary_of(found)
    text = f"### Baselines: {escaped(first, _MOST)}\n\n" + "".join(f"- {escaped(one, _MOST)}\n" for one in others)
    left_out = []
    for (folder, table), rows in _by_table(found):
        lines = (map(escaped, line) for row in rows for line in _lines(row))
        shown = markdown_table(_HEADERS, lines, numbers=_NUMBERS)
        why = "\n".join(f"- {escaped(row.name, _MOST)}: {escaped(_why(row), _MOST)}" for row in rows)
        told = f"{escaped(f'{folder}/{table}', _MOST)}: {counted(len(rows), 'row')}"
        folded = f"\n<details><summary>{told}</summary>\n\n{shown}\n\n{why}\n\n</details>\n"
        if len(text) + len(folded) > max_characters - 500:
            left_out.append(f"{folder}/{table}")
        else:
            text += folded
    if left_out:
        text += f"\nToo long to show here: {escaped(', '.join(left_out), _MOST)}\n"
    return text


def to_json(found: Changes) -> str:
    """Every difference, indented. Changes are relative: 0.02 is 2 %."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def summary_of(found: Changes) -> list[str]:
    """Sentences: how many rows differ, in which way, and which files cannot be read."""
    counts: Counter[str] = Counter(row.kind for row in found.rows)
    told = ", ".join(f"{counts[kind]} {word}" for kind, word in _WORDS.items() if counts[kind])
    first = f"{counted(len(found.rows), 'row')} of {found.after} differ from {found.before}: {told}"
    sentences = [first if found.rows else f"no row of {found.after} differs from {found.before}"]
    outcomes = [row.name for row in found.rows if None not in row.outcomes and len(set(row.outcomes)) > 1]
    for words, names in (
        ("another outcome", outcomes),
        ("metrics lost", [row.name for row in found.rows if row.lost]),
        ("other tolerances", [row.name for row in found.rows if row.tolerances and row.kind != "removed"]),
        ("edited by hand", [row.name for row in found.rows if row.kind == "edited"]),
    ):
        if names:
            sentences.append(f"{words}: {', '.join(names)}")
    return [*sentences, *(f"not compared: {sentence}" for sentence in found.unreadable)]


def sentence_on(found: Changes, *, command: str) -> Iterator[str]:
    """
    How many rows differ from those that count.

    Args:
        found: what differs between a commit and the working tree.
        command: what shows it.
    """
    if found.rows:
        num = counted(len(found.rows), "row")
        yield f"baselines of {found.after} differ in {num} from those of {found.before}, which count; `{command}` shows how"
    yield from (f"not compared with {found.before}: {sentence}" for sentence in found.unreadable)


def _by_table(found: Changes) -> Iterator[tuple[tuple[str, str], list[Changed]]]:
    for place, rows in itertools.groupby(found.rows, key=lambda row: (row.folder, row.table)):
        yield place, list(rows)


def _why(row: Changed) -> str:
    """When and why the row was recorded, and with which other packages."""
    was = "was recorded" if row.kind == "removed" else "recorded"
    told = f"{was} {row.recorded_at}: {row.reason}"
    return told + (f"; {'; '.join(row.packages)}" if row.packages else "")


def _lines(row: Changed) -> Iterator[_Line]:
    yield _Line(row.row, _KINDS[row.kind])
    if row.former:
        yield _Line("", "name", row.former, row.name)
    if row.outcomes[0] != row.outcomes[1] or "oom" in row.outcomes:
        yield _Line("", "outcome", *(outcome or "" for outcome in row.outcomes))
    for name, sides in row.fields.items():
        yield _Line("", name, *sides)
    if 0 not in row.processes and len(set(row.processes)) > 1:
        yield _Line("", "processes", *map(str, row.processes))
    elif 0 not in row.processes and not (row.same_values or row.moved or row.fields):
        yield _Line("", "values of single processes, or the profile")
    yield from _metrics(row)
    for metric, limits in row.tolerances.items():
        yield _Line("", f"tolerance of {metric}", *(_limit(metric, limit) for limit in limits))
    for metric, noises in row.noise.items():
        yield _Line("", f"noise of {metric}", *map(_noise, noises))


def _metrics(row: Changed) -> Iterator[_Line]:
    """Metrics that moved; of a row on one side only those that head a row."""
    small = 0
    for moved in row.moved:
        metric = METRICS[moved.metric]
        if row.kind in ("added", "removed") and not metric.heads_row:
            continue
        is_small = (
            moved.change is not None and abs(moved.change) < _SMALL and metric.gate in ("statistical", "advisory")
        )
        if is_small:
            small += 1
            continue
        before, after = apart(moved.before, moved.after, partial(number_text, moved.metric))
        yield _Line("", title(moved.metric), before, _lost(row, moved) or after, _change(moved))
    if small:
        yield _Line("", f"{counted(small, 'metric')} more, each by less than {percent(_SMALL).lstrip('+')}")


def _lost(row: Changed, moved: Moved) -> str:
    return "lost" if moved.metric in row.lost else ""


def _change(moved: Moved) -> str:
    if moved.change is None or moved.change == 0:
        return ""
    better = METRICS[moved.metric].better
    if better == "same":
        return percent(moved.change)
    is_better = (moved.change > 0) == (better == "higher")
    return f"{percent(moved.change)} {'better' if is_better else 'worse'}"


def _limit(metric: str, limit: Tolerance | None) -> str:
    if limit is None:
        return "not set"
    in_bytes = metric in METRICS and METRICS[metric].unit == "B"
    absolute = size(limit.absolute) if in_bytes else f"{limit.absolute:g}"
    parts = [percent(limit.relative).lstrip("+")] if limit.relative or not limit.absolute else []
    return " or ".join([*parts, absolute] if limit.absolute else parts)


def _noise(noise: Noise | None) -> str:
    if noise is None:
        return "not set"
    return f"{_share(noise.process_sd)} a process, {_share(noise.session_sd)} a session"


def _share(fraction: float) -> str:
    return percent(fraction).lstrip("+")
