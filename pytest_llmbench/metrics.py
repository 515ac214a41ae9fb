"""
Every metric once: its name, unit, direction, how it gates, and its default tolerance.

A new metric is one entry here, plus the place in the worker that fills it in; one of another package is an
entry point for each of the two, see `docs/how-to/extend.md`.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import msgspec

from pytest_llmbench import extensions

__all__ = ["BUILT_IN", "METRICS", "NOTHING_SEEN", "Metric", "Tolerance", "Value", "add_extensions"]

Value = int | float | tuple[int, ...]
"""A number, or one number per device in the order of the devices."""

MIB = 2**20

NOTHING_SEEN = "the counter read 0: it saw nothing of the step, as where the work runs in another thread or process"
"""Why a metric is missing whose counter read 0."""


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    How far a metric may move before it counts as moved: the larger of the two parts.

    `Tolerance(0.02, 64 * MIB)` lets 20 GiB move by 0.4 GiB and 1 GiB by 64 MiB.
    """

    relative: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Fraction of the baseline's value."""
    absolute: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """In the metric's own unit."""


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One measured quantity and the rule by which it is judged."""

    name: str
    """Quantity, unit and denominator, as in `device_busy_seconds_per_sample`."""
    unit: str
    better: Literal["higher", "lower", "same"]
    """Where an improvement lies; `same` where any move is a regression."""
    gate: Literal["statistical", "tolerance", "exact", "advisory"]
    """
    `statistical` fails on what its noise cannot explain, see `judge.compare`; `tolerance` fails
    beyond the tolerance; `exact` does so too across environments but demands equality within one;
    `advisory` is shown and never fails.
    """
    tolerance: Tolerance = Tolerance()
    """None for a statistical metric: one that a user sets takes the place of the statistics."""
    jitter: float = 0.0
    """Of an exact metric: how far it may move within one environment all the same, in its own unit."""
    smallest_effect: float = 0.0
    """Of a statistical metric: the least relative change that matters, as a fraction."""
    never_zero: bool = False
    """Whether a reading of 0 says that the counter saw nothing: it is missing then."""
    margin: float = 0.0
    """Of a statistical metric: it is unchanged if it surely moved by less than this, as a fraction."""
    describe: str
    """One sentence for the documentation and `--help`."""


_BYTES_MOVE = Tolerance(0.02, 64 * MIB)
_COUNT_MOVE = Tolerance(0.02)

_ALL = (
    Metric(
        name="samples_per_second",
        unit="1/s",
        better="higher",
        gate="statistical",
        smallest_effect=0.01,
        margin=0.025,
        describe="Samples of the measured rounds over their wall time; of rounds that do equal work, the median.",
    ),
    Metric(
        name="tokens_per_second",
        unit="1/s",
        better="higher",
        gate="advisory",
        tolerance=Tolerance(0.05),
        describe="Tokens, padding left out, of the measured rounds over their wall time.",
    ),
    Metric(
        name="device_busy_seconds_per_sample",
        unit="s",
        better="lower",
        gate="statistical",
        smallest_effect=0.003,
        margin=0.015,
        never_zero=True,
        describe="Union of kernel, copy and set intervals on the GPU, per sample.",
    ),
    Metric(
        name="kernels_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        tolerance=_COUNT_MOVE,
        never_zero=True,
        describe="Kernel launches per sample.",
    ),
    Metric(
        name="operators_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        tolerance=_COUNT_MOVE,
        never_zero=True,
        describe="ATen operators per sample, nested ones included.",
    ),
    Metric(
        name="python_calls_per_sample",
        unit="1",
        better="lower",
        gate="tolerance",
        tolerance=Tolerance(0.01),
        never_zero=True,
        describe="Calls from Python code per sample, of Python and of C functions.",
    ),
    Metric(
        name="host_instructions_per_sample",
        unit="1",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.02),
        never_zero=True,
        describe="Machine instructions of all threads in user space per sample, where the kernel counts them.",
    ),
    Metric(
        name="synchronisations_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        tolerance=_COUNT_MOVE,
        describe="Times per sample that the host waits for the GPU.",
    ),
    Metric(
        name="host_bound",
        unit="ratio",
        better="same",
        gate="advisory",
        tolerance=Tolerance(0.1),
        never_zero=True,
        describe="Device-busy time over wall time; below 0.9 the row measures Python and launches.",
    ),
    Metric(
        name="straggler_spread",
        unit="ratio",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.0, 0.02),
        describe="How much longer the slowest rank computes than the fastest, for the same samples.",
    ),
    Metric(
        name="trainable_parameters",
        unit="1",
        better="same",
        gate="exact",
        tolerance=Tolerance(),
        describe="Parameters with a gradient.",
    ),
    Metric(
        name="parameters",
        unit="1",
        better="same",
        gate="exact",
        tolerance=Tolerance(),
        describe="All parameters, adapters included.",
    ),
    Metric(
        name="peak_allocated_bytes",
        unit="B",
        better="lower",
        gate="exact",
        tolerance=Tolerance(0.005, 64 * MIB),
        jitter=MIB,
        describe="Peak of live tensors from load to end, per GPU.",
    ),
    Metric(
        name="peak_allocated_steady_bytes",
        unit="B",
        better="lower",
        gate="exact",
        tolerance=Tolerance(0.005, 64 * MIB),
        jitter=MIB,
        describe="Peak of live tensors within the measured rounds, per GPU.",
    ),
    Metric(
        name="peak_reserved_bytes",
        unit="B",
        better="lower",
        gate="tolerance",
        tolerance=_BYTES_MOVE,
        describe="Peak of what torch took from the driver, per GPU: the published page's GPU memory.",
    ),
    Metric(
        name="peak_footprint_bytes",
        unit="B",
        better="lower",
        gate="tolerance",
        tolerance=_BYTES_MOVE,
        describe="What must be free on the card, per GPU: NVML's figure above the idle floor.",
    ),
    Metric(
        name="energy_joules_per_sample",
        unit="J",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.1),
        describe="NVML's energy counter over a window of 10 s or more.",
    ),
    Metric(
        name="loss_first",
        unit="nat",
        better="same",
        gate="tolerance",
        tolerance=Tolerance(0.01, 0.01),
        describe="Loss of the first measured micro-batch.",
    ),
    Metric(
        name="loss_last",
        unit="nat",
        better="same",
        gate="tolerance",
        tolerance=Tolerance(0.02, 0.02),
        describe="Loss of the last measured micro-batch.",
    ),
    Metric(
        name="grad_norm",
        unit="1",
        better="same",
        gate="tolerance",
        tolerance=Tolerance(0.1, 0.01),
        describe="Gradient norm before clipping at the last measured optimizer step.",
    ),
    Metric(
        name="load_seconds",
        unit="s",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.2, 0.5),
        describe="Time to build the model and the optimizer on the device.",
    ),
    Metric(
        name="first_step_seconds",
        unit="s",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.2, 0.5),
        describe="Time of the first micro-batch, forward and backward.",
    ),
)

BUILT_IN = frozenset(metric.name for metric in _ALL)
METRICS = {metric.name: metric for metric in _ALL}
"""By name, in the order in which reports show them; `add_extensions` puts those of other packages at the end."""


@functools.cache
def add_extensions() -> tuple[str, ...]:
    """
    Take the metrics of other packages into `METRICS`, once; a sentence for each that cannot be.

    Whoever judges must not go on then, since it would not be judged.
    """
    broken = []
    for name in extensions.offered("metrics"):
        try:
            metric = extensions.load("metrics", name)
        except extensions.ExtensionError as error:
            broken.append(f"metric {error}")
            continue
        if not isinstance(metric, Metric) or metric.name != name:
            broken.append(f"metric {name}: its entry point is no Metric of this name but {metric!r}")
        elif name in BUILT_IN:
            broken.append(f"metric {name} is one of pytest-llmbench's own, and none of another package's")
        elif metric.gate == "statistical":
            broken.append(f"metric {name}: gate='statistical' is for speeds whose noise is known; use 'tolerance'")
        else:
            METRICS[name] = metric
    return tuple(f"{sentence}; mend or remove that package" for sentence in broken)
