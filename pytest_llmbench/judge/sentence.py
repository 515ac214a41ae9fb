"""Why a row failed, or is open, in the words of a test report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import msgspec

from pytest_llmbench.judge.values import move_text
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.schema.environment import REPOSITORY, PackageChange
from pytest_llmbench.schema.metrics import METRICS, Metric
from pytest_llmbench.schema.units import apart, gib, percent

__all__ = ["FOLDERS", "failure_sentence", "headline", "next_movers"]

_NAMED_IF_UNCHANGED = ("torch", "transformers", "peft", "driver")
_NAMED_MOVERS = 4
_COUNTED = re.compile(r"^([+-][\d,]+) \w+ a step")
FOLDERS = re.compile(r"(?<=/)\S+/(?=[^/\s]+:)")
"""The folders of a place between its package and its file."""
_FUNCTION = re.compile(r" in \S+\.py:\S+$")
_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "same": "must not move"}


MOST_CHARACTERS = 160
"""The headline has no more, the row's name included."""


def failure_sentence(name: str, verdict: RowVerdict) -> str:
    """
    A headline where it is known which code moved; then a line for each metric that failed, or one for the row.

    Where the difference sits and which packages are new stand last. Of a row that noise leaves open, the metrics
    that are, and what would settle them.

    >>> failure_sentence("lora_rank[rank-8]", verdict)  # doctest: +SKIP
    'lora_rank[rank-8]: GPU work +10.0 % (limit 2.6 %), 230.10 ms -> 253.20 ms: clone +192 a step in
    peft/tuners/lora/layer.py:Linear.forward; peft 0.17.0 -> 0.18.0
    lora_rank[rank-8]: device_busy_seconds_per_sample 0.2301 -> 0.2532 s, +10.0 % (95 % interval +8.9 % to
    +11.2 %, limit +2.6 %), lower is better. Packages: peft 0.17.0 -> 0.18.0; torch, transformers unchanged.'
    """
    to_tell = _to_tell(verdict)
    told = [_metric_text(metric) for metric in to_tell] or [verdict.reason]
    lines = [f"{name}: {text.rstrip('.')}." for text in told]
    aside = [f"{verdict.explanation}."] if verdict.explanation else []
    aside += filter(None, [_packages_text(verdict)])
    whole = "\n".join([*lines, *aside]) if len(lines) > 1 else " ".join([*lines, *aside])
    first = headline(verdict, MOST_CHARACTERS - len(name) - 2)
    return "\n".join([f"{name}: {first}", *next_movers(verdict), whole]) if first else whole


def headline(verdict: RowVerdict, most_characters: int = MOST_CHARACTERS) -> str:
    """
    The number, the limit, the place and the package of what failed most clearly; empty where no place is known.

    What must not move goes before what got worse or better with it, and has the place of that.
    Where room is short the packages after the first give way, then the two values, the folders of the place, and the
    package.
    """
    leading = _leading(verdict)
    if leading is None:
        return ""
    chosen, where = _other_arithmetic(verdict) or leading[0], leading[1]
    change, values = _change_text(chosen), f", {move_text(chosen)}"
    packages = list(_packages(verdict.package_changes)) or [""]
    if chosen is leading[0]:
        where = _COUNTED.sub(r"\1 a step", where)  # the metric's words say what
    places = (where, FOLDERS.sub(".../", where))
    lines = [f"{change}{shown}: {place}{told}" for place in places for shown in (values, "") for told in packages]
    lines += [f"{change}: {place}" for place in places]
    return next((line for line in lines if len(line) <= most_characters), f"{lines[-1][: most_characters - 3]}...")


def _leading(verdict: RowVerdict) -> tuple[MetricVerdict, str] | None:
    """The metric and the mover that stand first: of those that name a function the dearest, else of the others."""
    told = [(metric, *mover) for metric in _to_tell(verdict) for mover in _priced(metric)]
    first = min(
        told,
        key=lambda one: (METRICS[one[0].metric].told_across, _FUNCTION.search(one[1]) is None, -one[2]),
        default=None,
    )
    return first and first[:2]


def _priced(metric: MetricVerdict) -> list[tuple[str, float]]:
    """Movers with their costs; 0 where a file of before has none."""
    return [*zip(metric.movers, metric.mover_costs or (0.0,) * len(metric.movers), strict=True)]


def _other_arithmetic(verdict: RowVerdict) -> MetricVerdict | None:
    """The first metric that says that something else is computed: less work is no improvement, whatever it saves."""
    for metric in _to_tell(verdict):
        if metric.status == "regressed" and METRICS[metric.metric].better == "same":
            return metric
    return None


def _packages(changes: Sequence[PackageChange]) -> Iterator[str]:
    """All that changed; then the first, and how many more. Where versions tell two sides apart, files are left out."""
    told = [
        str(change if change.before == change.after else msgspec.structs.replace(change, files=None))
        for change in changes
    ]
    if told:
        yield f"; {'; '.join(told)}"
    if len(told) > 1:
        yield f"; {told[0]} and {len(told) - 1} more"


def _change_text(verdict: MetricVerdict) -> str:
    """`moved bytes +9.2 % (limit 1.0 %)`."""
    words = METRICS[verdict.metric].words
    if verdict.change is None or verdict.limit is None:
        return words
    limit = "exact" if verdict.limit == 0 else f"limit {percent(verdict.limit).removeprefix('+')}"
    return f"{words} {percent(verdict.change)} ({limit})"


def next_movers(verdict: RowVerdict) -> list[str]:
    """What else moved than the headline says, a line each, the dearest first."""
    leading = _leading(verdict)
    costs: dict[str, float] = {}
    for metric in _to_tell(verdict):
        for mover, cost in _priced(metric):
            costs[mover] = max(cost, costs.get(mover, cost))
    if leading is not None:
        costs.pop(leading[1], None)
    dearest = sorted(costs, key=lambda mover: -costs[mover])
    return [f"  {mover}" for mover in dearest[:_NAMED_MOVERS]]


def _to_tell(verdict: RowVerdict) -> list[MetricVerdict]:
    """What regressed first: it is what a reader acts on. What is merely open is told of a row that is."""
    gating = [metric for metric in verdict.metrics if metric.gates]
    regressed = [metric for metric in gating if metric.status == "regressed"]
    beside = "undecided" if verdict.status == "undecided" else "unmeasured"
    return regressed + [metric for metric in gating if metric.status == beside]


def _metric_text(verdict: MetricVerdict) -> str:
    where = verdict.metric if verdict.device is None else f"{verdict.metric} of GPU {verdict.device}"
    if verdict.status == "unmeasured":
        return f"{where} unmeasured: {verdict.reason.removeprefix('not measured: ')}"
    metric = METRICS[verdict.metric]
    told = f"{where} {_move_text(metric, verdict)}, {_limit_text(verdict)}, {_DIRECTIONS[metric.better]}"
    return f"{told}: {verdict.reason}" if verdict.status == "undecided" else told


def _move_text(metric: Metric, verdict: MetricVerdict) -> str:
    before, after = _number(verdict.baseline, verdict.device), _number(verdict.now, verdict.device)
    unit = "GiB" if metric.unit == "B" else metric.unit
    old, new = apart(before, after, gib if metric.unit == "B" else _short)
    return f"{old} -> {new}" + ("" if unit in ("1", "ratio") else f" {unit}")


def _number(value: object, device: int | None) -> float:
    chosen = value[device or 0] if isinstance(value, tuple) else value
    assert isinstance(chosen, int | float)
    return chosen


def _short(number: float, more: int) -> str:
    return f"{number:.{(4 if abs(number) < 1000 else 10) + more}g}"


def _limit_text(verdict: MetricVerdict) -> str:
    if verdict.change is None or verdict.limit is None:
        return verdict.reason
    change = percent(verdict.change)
    if verdict.limit == 0:
        return f"{change} (limit 0, {verdict.reason})"
    # The limit on the side to which it moved.
    limit = f"limit {percent(math.copysign(verdict.limit, verdict.change))}"
    if verdict.interval is None:
        return f"{change} ({limit})"
    low, high = map(percent, verdict.interval)
    return f"{change} (95 % interval {low} to {high}, {limit})"


def _packages_text(verdict: RowVerdict) -> str:
    if not verdict.package_changes and not verdict.unchanged_packages:
        return ""
    same = "unchanged" if verdict.code_known else "of the same version"
    parts = [str(change) for change in verdict.package_changes if change.name != REPOSITORY]
    if parts:
        unchanged = [name for name in _NAMED_IF_UNCHANGED if name in verdict.unchanged_packages]
        parts += [f"{', '.join(unchanged)} {same}"] if unchanged else []
    else:
        parts = [f"all {same}" + ("" if verdict.code_known else ", and whether their files are the same is not known")]
    parts += [str(change) for change in verdict.package_changes if change.name == REPOSITORY]
    return f"Packages: {'; '.join(parts)}."
