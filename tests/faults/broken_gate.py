"""
A plugin that breaks the gate in one way, named by LLMBENCH_TEST_BROKEN, before a test has imported it.

It takes hold of public functions and values only, so that it breaks whatever stands behind them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pytest_llmbench.judge import compare, verdict
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema import metrics
from pytest_llmbench.store import update

Judge = Callable[..., RowVerdict]

right: Judge = compare.judge


def put(where: object, name: str, what: object) -> None:
    """In the place of something public."""
    assert hasattr(where, name)
    setattr(where, name, what)


def judge_with(change: Callable[[RowVerdict], RowVerdict]) -> None:
    """Let every verdict go through *change*."""

    def judge(*arguments: Any, **options: Any) -> RowVerdict:
        return change(right(*arguments, **options))

    put(compare, "judge", judge)


def turned(table: Mapping[str, str]) -> Callable[[RowVerdict], RowVerdict]:
    """Exchanges the status of rows and metrics."""

    def change(row: RowVerdict) -> RowVerdict:
        changed = tuple(msgspec.structs.replace(one, status=table.get(one.status, one.status)) for one in row.metrics)
        return msgspec.structs.replace(row, status=table.get(row.status, row.status), metrics=changed)

    return change


def every_metric(change: Callable[[metrics.Metric], metrics.Metric]) -> None:
    metrics.METRICS.update({name: change(metric) for name, metric in metrics.METRICS.items()})


def nothing() -> None:
    """The gate as it is."""


def the_verdict() -> None:
    judge_with(turned({"unchanged": "regressed", "regressed": "unchanged"}))


def the_limits() -> None:
    """Nothing is ever worse."""
    judge_with(turned({"regressed": "unchanged"}))


def the_tolerances_of_the_run() -> None:
    def judge(now: Any, against: Any, overrides: Any = None, **options: Any) -> RowVerdict:
        return right(now, against, {}, **options)

    put(compare, "judge", judge)


def the_tolerances_of_the_row() -> None:
    def judge(now: Any, against: Any, *arguments: Any, **options: Any) -> RowVerdict:
        bare = None if against is None else msgspec.structs.replace(against, tolerances={})
        return right(now, bare, *arguments, **options)

    put(compare, "judge", judge)


def the_direction() -> None:
    turn = {"higher": "lower", "lower": "higher", "same": "same"}
    every_metric(lambda metric: msgspec.structs.replace(metric, better=turn[metric.better]))


def equality() -> None:
    every_metric(lambda metric: msgspec.structs.replace(metric, gate="tolerance") if metric.gate == "exact" else metric)


def gating() -> None:
    """Whatever fails a row is advice."""
    every_metric(lambda metric: msgspec.structs.replace(metric, gate="advisory"))


def comparing_like_with_like() -> None:
    judge_with(turned({"not comparable": "unchanged"}))


def doubt() -> None:
    """What is not known is taken for good."""
    judge_with(turned({"undecided": "unchanged", "unmeasured": "unchanged"}))


def outcomes() -> None:
    """A process that crashed is as good as one that measured."""

    def change(row: RowVerdict) -> RowVerdict:
        return row if row.metrics or row.differing else msgspec.structs.replace(row, status="unchanged")

    judge_with(change)


def failing() -> None:
    put(verdict.RowVerdict, "failed", property(lambda row: row.status == "regressed"))


def the_row_without_a_baseline() -> None:
    judge_with(turned({"no baseline": "unchanged"}))


def the_list_of_rows_not_run() -> None:
    from pytest_llmbench.reports import summary

    put(summary, "not_run", lambda store, results: [])


def the_strict_run() -> None:
    from pytest_llmbench.plugin.run import Run

    put(Run, "unjudged", lambda run: [])


def the_choice_of_what_is_recorded() -> None:
    put(update, "should_record", lambda mode, verdict: True)


def the_refusal_to_record() -> None:
    put(update, "why_refused", lambda measurement: None)


def the_evidence() -> None:
    """A GPU that others used, or that slowed itself down, is as good as any."""
    from pytest_llmbench.judge import validity

    put(validity, "why_invalid", lambda process, shared=False, on_gpu=True: None)


def the_confirmation() -> None:
    """A suspect fails at once, whatever fresh processes would say."""
    from pytest_llmbench.judge import plan

    put(plan, "is_suspect", lambda verdict, repeats=0: False)


def the_suspicion() -> None:
    """No row is a suspect, and what is confirmed is let go."""
    from pytest_llmbench.judge import plan

    settle = plan.settle

    def let_go(*given: Any) -> Any:
        found = settle(*given)
        if isinstance(found, plan.Wanted):
            return found
        return found._replace(verdict=msgspec.structs.replace(found.verdict, status="unchanged"))

    put(plan, "settle", let_go)


def the_decision() -> None:
    """Whatever the verdict, the test passes."""
    from pytest_llmbench.trials.gate import Gate

    check = Gate.check

    def lenient(*arguments: Any, **options: Any) -> Any:
        return msgspec.structs.replace(check(*arguments, **options), decision="pass")

    put(Gate, "check", lenient)


globals()[os.environ["LLMBENCH_TEST_BROKEN"]]()
