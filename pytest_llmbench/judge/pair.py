"""
Two environments held against each other on one machine, process by process in turn.

What comes with the session, the card and the hour, is the same within a pair and cancels.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pytest_llmbench.judge.compare import Reference, Rules, held_against
from pytest_llmbench.judge.decision import PAIRS
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import Noise, Tolerance

__all__ = ["judge_pair"]

_NO_TOLERANCES: Mapping[str, Tolerance] = {}
_NO_NOISE: Mapping[str, Noise] = {}


def judge_pair(
    a: Measurement,
    b: Measurement,
    overrides: Mapping[str, Tolerance] = _NO_TOLERANCES,
    *,
    noise: Mapping[str, Noise] = _NO_NOISE,
) -> RowVerdict:
    """
    Hold *b* against *a*: process i of one was measured next to process i of the other.

    A pair of which one process did not end well does not count, nor do processes without a partner.
    Packages may differ, they are what is compared; GPU and workload may not.

    Args:
        overrides: as for `compare.judge`.
        noise: what is known of the row's, by metric; only the part between processes matters here.
    """
    pairs = [pair for pair in zip(a.processes, b.processes, strict=False) if {p.outcome for p in pair} == {"ok"}]
    if pairs and a.outcome == b.outcome == "ok":
        a = msgspec.structs.replace(a, processes=tuple(before for before, _ in pairs))
        b = msgspec.structs.replace(b, processes=tuple(now for _, now in pairs))
    return held_against(b, Reference(measurement=a, noise=noise), Rules(overrides, PAIRS))
