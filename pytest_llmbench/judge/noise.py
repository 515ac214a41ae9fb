"""
How much a speed moves by itself: between processes of one session, and from session to session.

A row that has been calibrated carries its own noise. All others have that of their class, below,
which is what makes one process against one mean anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pytest_llmbench.judge.values import logarithms, typical_value
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import Noise, RowClass, statistical

__all__ = [
    "GUESSED",
    "HOST_BOUND_BELOW",
    "OTHER_CARD_SD",
    "estimate_noise",
    "on_other_cards",
    "pooled",
    "row_class",
    "sum_of_squares",
]

HOST_BOUND_BELOW = 0.9
"""With the GPU busy for less than this share of the wall time, a row measures Python and launches."""

GUESSED: frozenset[RowClass] = frozenset({"CPU"})
"""Classes whose prior no measurement stands behind: it tells how far to doubt a difference, and makes no interval."""

OTHER_CARD_SD = 0.012
"""
Standard deviation of the logarithm of a speed between cards of one kind, where the power limit holds them back.

Thirteen rows over two H200s, each measured on two pairs of cards: rows held back for a fifth of the
rounds or more were 1.9 to 2.9 % slower on the second pair in device-busy time, the others 0.5 %. So
many cards are few; a row that is calibrated goes by its own noise.
"""


def on_other_cards(noise: Noise) -> Noise:
    """The noise of a row that the power limit holds back, from one card to another."""
    return msgspec.structs.replace(noise, session_sd=math.hypot(noise.session_sd, OTHER_CARD_SD))


def row_class(then: Measurement, now: Measurement) -> RowClass:
    """
    What the speed of the row is the noise of.

    The baseline decides where it can: what slows the host down also makes the row host-bound, and
    must not widen the noise that it is held against.
    """
    if then.environment is not None and then.environment.device == "cpu":
        return "CPU"
    for measurement in (then, now):
        busy_share = typical_value(measurement, "host_bound")
        if isinstance(busy_share, int | float):
            return "host-bound" if busy_share < HOST_BOUND_BELOW else "device-bound"
    return "device-bound"


def estimate_noise(sessions: Sequence[Measurement]) -> dict[str, Noise]:
    """
    The noise of one case, by statistical metric, from measurements that should not differ.

    Every measurement is a session of its own: taken apart from the others, with all that comes with
    it. What they say is pooled with the prior of the row's class; a metric that one of them lacks,
    or has no logarithm of, is left out.

    Raises:
        ValueError: no measurement, or not all of one case.
    """
    if not sessions:
        raise ValueError("no measurement to take the noise from; measure the case in two sessions or more")
    if len({session.workload_hash for session in sessions}) > 1:
        raise ValueError("the noise of a case needs measurements of that case only; these did different work")
    kind = row_class(sessions[0], sessions[0])
    found = {}
    for metric in statistical():
        logs = [logarithms(session, metric.name) for session in sessions]
        if all(logs):
            found[metric.name] = pooled([session for session in logs if session], metric.prior[kind])
    return found


def pooled(sessions: Sequence[Sequence[float]], prior: Noise) -> Noise:
    """
    One-way analysis of variance, with the prior as so many observations more.

    A prior makes a case that looks quiet less so, and never a noisy one quieter: the prior is of
    other cases, and a noise taken too low is a false alarm.

    Args:
        sessions: at least one, each with one logarithm per process, at least one.
    """
    counts = [len(session) for session in sessions]
    squares, seen = math.fsum(map(sum_of_squares, sessions)), sum(counts) - len(counts)
    process_df = prior.process_df + seen
    process_variance = (prior.process_sd**2 * prior.process_df + squares) / process_df
    if seen and squares / seen > process_variance:  # the prior is of quieter cases, and says nothing of this one
        process_variance, process_df = squares / seen, max(prior.process_df, seen)
    session_variance, session_df = _of_sessions(sessions, prior, process_variance)
    return Noise(
        process_sd=math.sqrt(process_variance),
        process_df=process_df,
        session_sd=math.sqrt(session_variance),
        session_df=session_df,
    )


def _of_sessions(sessions: Sequence[Sequence[float]], prior: Noise, process_variance: float) -> tuple[float, float]:
    """Variance between sessions and its degrees of freedom."""
    known, more = prior.session_sd**2, len(sessions) - 1
    if more == 0 or known == 0:
        return known, prior.session_df
    means = [math.fsum(session) / len(session) for session in sessions]
    of_processes = process_variance * math.fsum(1 / len(session) for session in sessions) / len(sessions)
    seen = sum_of_squares(means) / more - of_processes
    # What differs between the means is mostly the processes in them where those are noisy: it says little then.
    share = known / (known + of_processes)
    df = prior.session_df + more * share**2
    variance = (known * prior.session_df + seen * more * share**2) / df
    return max(0.0, variance, seen if share > 0.5 else 0.0), df


def sum_of_squares(values: Sequence[float]) -> float:
    """Of the distances from the mean."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)
