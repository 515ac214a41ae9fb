"""The sentences for what a measuring process can no longer say itself."""

from __future__ import annotations

from pytest_llmbench.executors.log import Log
from pytest_llmbench.schema.protocol import ended
from pytest_llmbench.schema.units import seconds

__all__ = ["not_imported", "overdue", "without_answer"]


def without_answer(exit_status: int, log: Log) -> str:
    """Why a case has crashed whose process went without a measurement."""
    how = ended(exit_status)
    return _with_log(f"{how} without an answer" if exit_status >= 0 else how, log)


def not_imported(limit_seconds: float, log: Log) -> str:
    """Why a case has timed out whose process did not get as far as to measure."""
    return _with_log(f"its process did not import what measures within {seconds(limit_seconds)}", log)


def overdue(limit_seconds: float, phase: str | None, phase_seconds: float, log: Log) -> str:
    """Why a case has timed out; *phase_seconds* is the time spent in *phase* until then."""
    where = f"{seconds(phase_seconds)} of them in phase {phase!r}" if phase else "before its first phase"
    return _with_log(f"no answer within {seconds(limit_seconds)}, {where}", log)


def _with_log(reason: str, log: Log) -> str:
    stack, lines = log.stack(), log.last_lines()
    if stack:
        reason += f"; it was at {stack}"
    if lines:
        reason += f"; its last output:\n{lines}"
    if flood := log.flood():
        reason += f"\nof {flood}"
    return reason
