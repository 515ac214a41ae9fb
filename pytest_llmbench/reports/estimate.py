"""Estimates of memory as text for a terminal, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from pytest_llmbench.reports.terminal import Page
from pytest_llmbench.schema.estimate import CARDS, Estimate
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.units import gib
from pytest_llmbench.tables.selection import Selected

__all__ = ["FORMAT", "MODEL", "Estimated", "Named", "render", "to_json"]

FORMAT = 1
"""Of the JSON."""

MODEL = "model"
"""Table of a model that was named."""
_OTHER = "other"
_SHOWN_BYTES = 2**30 // 200
"""What is less in every row is shown as `_OTHER`."""
_NAME_WIDTH = 44


class Named(NamedTuple):
    """The card that the user named."""

    name: str
    bytes_for_tensors: int


class Estimated(NamedTuple):
    """A case, and what its estimating process gave."""

    selected: Selected
    measurement: Measurement

    @property
    def name(self) -> str:
        """Table and row, or the model alone that was named."""
        return self.selected.row if self.selected.table == MODEL else self.selected.name

    @property
    def estimate(self) -> Estimate | None:
        """None for a case of which nothing could be told."""
        found = self.measurement.processes[-1].estimate
        return found if isinstance(found, Estimate) and self.measurement.outcome == "ok" else None

    @property
    def why(self) -> str:
        """What became of a case without an estimate."""
        return f"{self.measurement.outcome}: {self.measurement.reason}"


def render(rows: Sequence[Estimated], card: Named | None, *, width: int, color: bool) -> str:
    """What each row takes, on which cards it fits, and what its peak is made up of; at most *width* columns wide."""
    page = Page(width=width, color=color)
    told = [(row.name, row.estimate) for row in rows]
    found = [(name, estimate) for name, estimate in told if estimate is not None]
    if found:
        page.console.print(Text("GiB of each GPU, and the cards on which it fits", style="bold"), _memory(found, card))
        page.console.print("", Text("What the peak of allocated memory is made up of, GiB", style="bold"), sep="\n")
        page.console.print(_made_of(found), "")
    for sentence in _sentences(rows, card):
        page.console.print(f"llmbench: {sentence}", soft_wrap=True)
    return page.text()


def to_json(rows: Sequence[Estimated], card: Named | None, length: int | str | None) -> str:
    """
    Cards, and every row with its case and its estimate, indented. Sizes are in bytes.

    Args:
        length: of all samples, as it was asked for; None for those of a measurement.
    """
    document = {
        "format": FORMAT,
        "length": length,
        "cards": CARDS,
        "card": None if card is None else card._asdict(),
        "rows": [
            {
                "table": row.selected.table,
                "row": row.selected.row,
                "case": row.measurement.case,
                "outcome": row.measurement.outcome,
                "reason": row.measurement.reason,
                "estimate": row.estimate,
                "ran": row.measurement.processes[-1].ran,
            }
            for row in rows
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _memory(found: Sequence[tuple[str, Estimate]], card: Named | None) -> Table:
    own = () if card is None or card.name in CARDS else (card.name,)
    largest = () if card is None else ("largest max_length", "largest batch_size")
    table = _table([name for name, _ in found], ("allocated", "reserved", *CARDS, *own, *largest))
    for name, estimate in found:
        cells = [_per_gpu(estimate.allocated_bytes), _per_gpu(estimate.reserved_bytes)]
        cells += [_mark(fits=estimate.fits[label]) for label in CARDS]
        cells += [_mark(fits=bool(estimate.fits_card)) for _ in own]
        cells += [_count(estimate.largest_length), _count(estimate.largest_batch)][: len(largest)]
        table.add_row(Text(name), *map(Text, cells))
    return table


def _made_of(found: Sequence[tuple[str, Estimate]]) -> Table:
    together: Counter[str] = Counter()
    for _, estimate in found:
        together.update({part: size for part, size in estimate.made_of.items() if size >= _SHOWN_BYTES})
    parts = [part for part, _ in together.most_common() if part != _OTHER]
    table = _table([name for name, _ in found], (*parts, _OTHER, "sum"))
    for name, estimate in found:
        total = sum(estimate.made_of.values())
        sizes = [estimate.made_of.get(part, 0) for part in parts]
        table.add_row(Text(name), *(Text(gib(size)) for size in (*sizes, total - sum(sizes), total)))
    return table


def _table(names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column(Text("row"), overflow="fold", min_width=min(max(map(len, names)), _NAME_WIDTH))
    for header in numbers:
        table.add_column(Text(header.replace(" ", "\n")), justify="right")
    return table


def _per_gpu(sizes: Sequence[int]) -> str:
    return "+".join(map(gib, sizes))


def _mark(*, fits: bool) -> str:
    return "yes" if fits else "no"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _sentences(rows: Sequence[Estimated], card: Named | None) -> Iterator[str]:
    for row in rows:
        if (estimate := row.estimate) is None:
            yield f"{row.name}: {row.why}"
            continue
        for name, reason in estimate.notes.items():
            yield f"{row.name}: largest {name}: {reason}"
    if card is not None:
        yield (
            f"{card.name} has {gib(card.bytes_for_tensors)} GiB for tensors; max_length if all samples have so many "
            "tokens, batch_size if all have max_length, without padding"
        )
