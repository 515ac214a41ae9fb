"""
Every metric once: its name, unit, direction, how it gates, and its default tolerance.

A new metric is one entry here, plus the place in the worker that fills it in; one of another package is an
entry point for each of the two, see `docs/how-to/extend.md`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from pytest_llmbench.schema import extensions

__all__ = [
    "BUILT_IN",
    "METRICS",
    "NOTHING_SEEN",
    "Metric",
    "Noise",
    "Quantity",
    "RowClass",
    "Tolerance",
    "Value",
    "add_extensions",
    "headlines",
    "statistical",
    "title",
]

Value = int | float | Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
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


RowClass = Literal["device-bound", "host-bound", "CPU"]

Quantity = Literal["operators", "moved_bytes", "flops", "reads", "calls", "instructions", "live", "retained"]
"""What a profile says of each operator and place."""

Weight = Annotated[float, msgspec.Meta(ge=1)]


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Standard deviations of the logarithm of a metric: 0.002 is 0.2 %.

    Degrees of freedom are the weight of what is known: that of a standard deviation of one more
    observation than that.
    """

    process_sd: Annotated[float, msgspec.Meta(gt=0)]
    """Between fresh processes of one session: one machine, minutes apart."""
    process_df: Weight
    session_sd: Annotated[float, msgspec.Meta(ge=0)]
    """Between sessions of one environment: other hours, other machines of the same kind."""
    session_df: Weight


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """
    One measured quantity: the rule by which it is judged, and how it is shown.

    Raises:
        ValueError: it is judged by its noise, and no prior says what that is.
    """

    name: str
    """Quantity, unit and denominator, as in `device_busy_seconds_per_sample`."""
    unit: str
    better: Literal["higher", "lower", "same"]
    """Where an improvement lies; `same` where any move is a regression."""
    gate: Literal["statistical", "tolerance", "exact", "advisory", "workload"]
    """
    `statistical` fails on what its noise cannot explain, see `judge.compare`; `tolerance` fails
    beyond the tolerance; `exact` does so too across environments but demands equality within one;
    `advisory` is shown and never fails; one of the `workload` says how much work was done, so that rows with
    another value do not compare.
    """
    told_across: bool = False
    """Whether another environment may move it without failing: it counts things, and others say what they cost."""
    of_python: bool = False
    """Whether another minor version of Python counts otherwise, so that the two do not compare."""
    explained_by: Quantity | None = None
    """What of a profile makes up the metric, by which its movers are found."""
    tolerance: Tolerance = Tolerance()
    """None for a statistical metric: one that a user sets takes the place of the statistics."""
    near_zero: Tolerance | None = None
    """
    The most that the absolute part of the tolerance is of a value above 0: so that a small value is not free to
    become many times as much. None where the absolute part stands for itself.
    """
    jitter: float = 0.0
    """Of an exact metric: how far it may move within one environment all the same, in its own unit."""
    smallest_effect: float = 0.0
    """Of a statistical metric: the least relative change that matters, as a fraction."""
    never_zero: bool = False
    """Whether a reading of 0 says that the counter saw nothing: it is missing then."""
    margin: float = 0.0
    """Of a statistical metric: it is unchanged if it surely moved by less than this, as a fraction."""
    prior: Mapping[RowClass, Noise] = {}
    """Noise of a statistical metric in a row that has not been calibrated, by the row's class."""
    over_ranks: Literal["each", "mean", "largest", "same", "rounds"] | None = None
    """
    How the ranks of a case come together: an entry of each, their mean, the largest, the one value that all have,
    or from the rounds of all. A metric that does not say so is missing where there are ranks.
    """
    label: str = ""
    """Words that a column has room for, with the unit in which the metric is shown; its name if empty."""
    in_words: str = ""
    """Words for what it counts or measures, within a sentence; its name if empty."""
    heads_row: bool = False
    """Whether every row shows it; others are shown where they moved."""
    sums_up: bool = False
    """Whether a summary of many rows names its mean change."""
    has_trend: bool = False
    """Whether the report of several runs draws it, beside those that head a row."""
    describe: str
    """One sentence for the documentation and `--help`."""

    def __post_init__(self) -> None:
        if self.gate == "statistical" and not self.prior:
            raise ValueError(f"metric {self.name}: gate='statistical' needs a prior, the noise of each class of rows")

    @property
    def title(self) -> str:
        """Its label, or its name."""
        return self.label or self.name

    @property
    def words(self) -> str:
        """Its words within a sentence, or its name."""
        return self.in_words or self.name


_QUIET = Noise(process_sd=0.002, process_df=6, session_sd=0.003, session_df=20)
_ON_CPU = Noise(process_sd=0.05, process_df=4, session_sd=0.12, session_df=4)
_BUSY_NOISE: Mapping[RowClass, Noise] = {"device-bound": _QUIET, "host-bound": _QUIET, "CPU": _ON_CPU}
_WALL_NOISE: Mapping[RowClass, Noise] = {
    "device-bound": Noise(process_sd=0.003, process_df=6, session_sd=0.005, session_df=6),
    "host-bound": Noise(process_sd=0.05, process_df=6, session_sd=0.12, session_df=10),
    "CPU": _ON_CPU,
}
"""
Noise by class of row, for one NVIDIA H200, rather too wide than too narrow.

Device-busy time: four cases of eight processes each had a standard deviation of 0.04, 0.17, 0.27 and
0.33 % between processes; two sessions of 43 rows were at most 0.89 % apart, 37 of them at most 0.3 %.
Wall time where the GPU is busy: 0.16 and 0.18 % between processes at batch size 4, 0.2 to 1 % between
two sessions. Wall time where it waits for the host: 1.1, 1.7 and 7.6 % between processes, -30 to +34 %
between two sessions of 35 rows. The degrees of freedom are fewer than those observations would give,
since rows of one class differ. No figure stands behind the entries for a CPU but that others share
it; wall time never fails a row there.
"""

_BYTES_MOVE = Tolerance(0.02, 64 * MIB)
_COUNT_MOVE = Tolerance(0.02)
_COST_MOVE = Tolerance(0.005)
_LOSS_NEAR_ZERO = Tolerance(1 / 16, 2**-17)
"""
What rounding makes of a cross-entropy L near zero.

A move of the logits by d moves it by (1 - exp(-L)) d, so by at most d L. Half a step of bf16 is 1/16 for logits of 16
to 32. There the float32 of the logarithm of their sum has steps of 2**-19; four of them are the least that is judged.
"""
_NORM_NEAR_ZERO = Tolerance(0.2, 2**-17)
"""Gradients shrink with the loss. Twice the relative part: near zero a few tokens have all of them."""

_ALL = (
    Metric(
        name="samples_per_second",
        unit="1/s",
        better="higher",
        gate="statistical",
        smallest_effect=0.01,
        margin=0.025,
        prior=_WALL_NOISE,
        explained_by="instructions",
        over_ranks="rounds",
        label="samples/s",
        in_words="samples/s",
        heads_row=True,
        sums_up=True,
        describe="Samples of the measured rounds over their wall time; of rounds that do equal work, the median.",
    ),
    Metric(
        name="tokens_per_second",
        unit="1/s",
        better="higher",
        gate="advisory",
        tolerance=Tolerance(0.05),
        over_ranks="rounds",
        label="tokens/s",
        has_trend=True,
        describe="Tokens, padding left out, of the measured rounds over their wall time.",
    ),
    Metric(
        name="device_busy_seconds_per_sample",
        unit="s",
        better="lower",
        gate="statistical",
        smallest_effect=0.003,
        margin=0.015,
        prior=_BUSY_NOISE,
        explained_by="moved_bytes",
        over_ranks="mean",
        label="GPU ms/sample",
        in_words="GPU work",
        heads_row=True,
        sums_up=True,
        never_zero=True,
        describe="Union of kernel, copy and set intervals on the GPU, per sample.",
    ),
    Metric(
        name="kernels_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        tolerance=_COUNT_MOVE,
        told_across=True,
        explained_by="operators",
        over_ranks="mean",
        label="kernels/sample",
        in_words="kernels",
        has_trend=True,
        never_zero=True,
        describe="Kernel launches per sample.",
    ),
    Metric(
        name="operators_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        tolerance=_COUNT_MOVE,
        told_across=True,
        explained_by="operators",
        over_ranks="mean",
        label="operators/sample",
        in_words="operators",
        sums_up=True,
        never_zero=True,
        describe="ATen operators per sample, nested ones included.",
    ),
    Metric(
        name="python_calls_per_sample",
        unit="1",
        better="lower",
        gate="tolerance",
        tolerance=Tolerance(0.01),
        told_across=True,
        of_python=True,
        explained_by="calls",
        over_ranks="mean",
        label="calls/sample",
        in_words="Python calls",
        sums_up=True,
        never_zero=True,
        describe="Calls from Python code per sample, of Python and of C functions.",
    ),
    Metric(
        name="python_instructions_per_sample",
        unit="1",
        better="lower",
        gate="tolerance",
        tolerance=_COUNT_MOVE,
        of_python=True,
        explained_by="instructions",
        over_ranks="mean",
        label="bytecodes/sample",
        in_words="Python instructions",
        never_zero=True,
        describe="Bytecode instructions of Python per sample, those of the measuring loop left out.",
    ),
    Metric(
        name="host_reads_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        explained_by="reads",
        over_ranks="mean",
        label="host reads/sample",
        in_words="host reads",
        describe="Values that the host reads from a tensor, per sample: on a GPU it waits for each.",
    ),
    Metric(
        name="flops_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        tolerance=Tolerance(0.005),
        explained_by="flops",
        over_ranks="mean",
        label="flops/sample",
        in_words="flops",
        never_zero=True,
        describe="Floating-point operations of matrix products and attention, per sample.",
    ),
    Metric(
        name="moved_bytes_per_sample",
        unit="B",
        better="lower",
        gate="exact",
        tolerance=_COST_MOVE,
        explained_by="moved_bytes",
        over_ranks="mean",
        label="moved GiB/sample",
        in_words="moved bytes",
        never_zero=True,
        describe="Bytes that operators read and write, by the shapes of their tensors, per sample.",
    ),
    Metric(
        name="roofline_seconds_per_sample",
        unit="s",
        better="lower",
        gate="exact",
        tolerance=_COST_MOVE,
        explained_by="moved_bytes",
        over_ranks="mean",
        label="roofline ms/sample",
        in_words="roofline time",
        never_zero=True,
        describe="Sum over operators of the larger of flops over peak and bytes over bandwidth, on the card that `ran` names.",
    ),
    Metric(
        name="host_instructions_per_sample",
        unit="1",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.02),
        over_ranks="mean",
        label="instructions/sample",
        never_zero=True,
        describe="Machine instructions of all threads in user space per sample, where the kernel counts them.",
    ),
    Metric(
        name="synchronisations_per_sample",
        unit="1",
        better="lower",
        gate="exact",
        tolerance=_COUNT_MOVE,
        explained_by="reads",
        over_ranks="mean",
        label="waits/sample",
        in_words="waits for the GPU",
        describe="Times per sample that the host waits for the GPU.",
    ),
    Metric(
        name="host_bound",
        unit="ratio",
        better="same",
        gate="advisory",
        tolerance=Tolerance(0.1),
        over_ranks="mean",
        never_zero=True,
        describe="Device-busy time over wall time; below 0.9 the row measures Python and launches.",
    ),
    Metric(
        name="straggler_spread",
        unit="ratio",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.0, 0.02),
        over_ranks="same",
        describe="How much longer the slowest rank computes than the fastest, for the same samples.",
    ),
    Metric(
        name="model_flops_utilization",
        unit="ratio",
        better="higher",
        gate="advisory",
        tolerance=Tolerance(0.05),
        over_ranks="mean",
        label="MFU",
        never_zero=True,
        describe="Flops of the model per second, recomputed ones left out, over the peak of the card's data sheet.",
    ),
    Metric(
        name="tokens_per_sample",
        unit="1",
        better="same",
        gate="workload",
        over_ranks="mean",
        describe="Tokens of the measured rounds over their samples, padding left out.",
    ),
    Metric(
        name="samples_per_micro_batch",
        unit="1",
        better="same",
        gate="workload",
        over_ranks="same",
        describe="Samples of the measured rounds over their micro-batches.",
    ),
    Metric(
        name="trainable_parameters",
        unit="1",
        better="same",
        gate="exact",
        over_ranks="same",
        label="trainable",
        describe="Parameters with a gradient.",
    ),
    Metric(
        name="parameters",
        unit="1",
        better="same",
        gate="exact",
        over_ranks="same",
        describe="All parameters, adapters included.",
    ),
    Metric(
        name="retained_bytes_per_step",
        unit="B",
        better="lower",
        gate="exact",
        explained_by="retained",
        over_ranks="each",
        label="retained GiB/step",
        in_words="retained bytes",
        describe="Bytes of tensors that an optimizer step leaves behind, after a collection of garbage.",
    ),
    Metric(
        name="peak_live_bytes",
        unit="B",
        better="lower",
        gate="exact",
        tolerance=Tolerance(0.005),
        explained_by="live",
        over_ranks="each",
        label="live GiB",
        in_words="live tensors",
        has_trend=True,
        describe="Most bytes of tensors alive in the costliest micro-batch and optimizer step, scratch left out.",
    ),
    Metric(
        name="peak_rss_bytes",
        unit="B",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.1),
        over_ranks="largest",
        label="host GiB",
        describe="Most memory of the host that the measuring process had at a time, all passes included.",
    ),
    Metric(
        name="peak_allocated_bytes",
        unit="B",
        better="lower",
        gate="exact",
        tolerance=Tolerance(0.005, 64 * MIB),
        jitter=MIB,
        explained_by="live",
        over_ranks="each",
        label="allocated GiB",
        has_trend=True,
        describe="Peak of live tensors from load to end, per GPU.",
    ),
    Metric(
        name="peak_allocated_steady_bytes",
        unit="B",
        better="lower",
        gate="exact",
        tolerance=Tolerance(0.005, 64 * MIB),
        jitter=MIB,
        explained_by="live",
        over_ranks="each",
        label="steady GiB",
        describe="Peak of live tensors within the measured rounds, per GPU.",
    ),
    Metric(
        name="peak_reserved_bytes",
        unit="B",
        better="lower",
        gate="tolerance",
        tolerance=_BYTES_MOVE,
        explained_by="live",
        over_ranks="each",
        label="GPU GiB",
        in_words="memory",
        heads_row=True,
        sums_up=True,
        describe="Peak of what torch took from the driver, per GPU: the published page's GPU memory.",
    ),
    Metric(
        name="peak_footprint_bytes",
        unit="B",
        better="lower",
        gate="tolerance",
        tolerance=_BYTES_MOVE,
        over_ranks="each",
        label="footprint GiB",
        describe="What must be free on the card, per GPU: NVML's figure above the idle floor.",
    ),
    Metric(
        name="energy_joules_per_sample",
        unit="J",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.1),
        over_ranks="mean",
        label="J/sample",
        describe="NVML's energy counter over a window of 10 s or more.",
    ),
    Metric(
        name="loss_first",
        unit="nat",
        better="same",
        gate="tolerance",
        tolerance=Tolerance(0.01, 0.01),
        near_zero=_LOSS_NEAR_ZERO,
        over_ranks="mean",
        describe="Loss of the first measured micro-batch.",
    ),
    Metric(
        name="loss_last",
        unit="nat",
        better="same",
        gate="tolerance",
        tolerance=Tolerance(0.02, 0.02),
        near_zero=_LOSS_NEAR_ZERO,
        over_ranks="mean",
        describe="Loss of the last measured micro-batch.",
    ),
    Metric(
        name="grad_norm",
        unit="1",
        better="same",
        gate="tolerance",
        tolerance=Tolerance(0.1, 0.01),
        near_zero=_NORM_NEAR_ZERO,
        over_ranks="same",
        describe="Gradient norm before clipping at the last measured optimizer step.",
    ),
    Metric(
        name="load_seconds",
        unit="s",
        better="lower",
        gate="tolerance",
        tolerance=Tolerance(1.0, 10.0),
        over_ranks="largest",
        label="load ms",
        describe="Time to build the model and the optimizer on the device.",
    ),
    Metric(
        name="first_step_seconds",
        unit="s",
        better="lower",
        gate="advisory",
        tolerance=Tolerance(0.2, 0.5),
        over_ranks="largest",
        label="first step ms",
        describe="Time of the first micro-batch, forward and backward.",
    ),
)

BUILT_IN = frozenset(metric.name for metric in _ALL)
METRICS = {metric.name: metric for metric in _ALL}
"""By name, in the order in which reports show them; `add_extensions` puts those of other packages at the end."""


def statistical() -> tuple[Metric, ...]:
    """The metrics that are judged by their noise, which share the chance of a false alarm."""
    return tuple(metric for metric in METRICS.values() if metric.gate == "statistical")


def headlines() -> tuple[str, ...]:
    """The names of the metrics that every row shows."""
    return tuple(metric.name for metric in METRICS.values() if metric.heads_row)


def title(name: str) -> str:
    """The label of a metric; its name where a file has it from a package that is not here."""
    return METRICS[name].title if name in METRICS else name


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
        else:
            METRICS[name] = metric
    return tuple(f"{sentence}; mend or remove that package" for sentence in broken)
