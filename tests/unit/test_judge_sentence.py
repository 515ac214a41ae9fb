"""The words of a failure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from measurements import measured
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.schema.environment import PackageChange
from pytest_llmbench.schema.measurement import Process

BITSANDBYTES = PackageChange("bitsandbytes", "0.48.2", "0.50.2")
PACKAGES: dict[str, Any] = {
    "package_changes": (BITSANDBYTES,),
    "unchanged_packages": ("driver", "cuda", "python", "torch", "transformers", "peft", "numpy"),
}
SLOWER = MetricVerdict(
    metric="device_busy_seconds_per_sample",
    status="regressed",
    baseline=0.2301,
    now=0.25316,
    change=0.10017,
    limit=0.02,
    gates=True,
    reason="default tolerance",
)
SAME_SPEED = MetricVerdict(
    metric="samples_per_second",
    status="unchanged",
    baseline=3.0,
    now=3.0,
    change=0.0,
    limit=0.05,
    gates=True,
    reason="",
)


def told(**metric: Any) -> str:
    """The sentence for one metric that regressed."""
    verdict = MetricVerdict(**{"status": "regressed", "gates": True, "reason": "default tolerance", **metric})
    return failure_sentence("row", RowVerdict(status="regressed", metrics=(verdict,), reason="regressed"))


OPEN = MetricVerdict(
    metric="samples_per_second",
    status="undecided",
    baseline=3.0,
    now=2.94,
    change=-0.02,
    limit=0.05,
    interval=(-0.038, -0.002),
    processes_needed=5,
    gates=True,
    reason="may be worse, these processes cannot tell it from noise (p 0.017); 5 processes would",
)


def test_a_sentence_names_row_metric_change_limit_direction_and_packages() -> None:
    verdict = RowVerdict(status="regressed", metrics=(SAME_SPEED, SLOWER), reason="regressed", **PACKAGES)

    assert failure_sentence("qwen-7b-chat-batch-4", verdict) == (
        "qwen-7b-chat-batch-4: device_busy_seconds_per_sample 0.2301 -> 0.2532 s, +10.0 % (limit +2.0 %), lower is "
        "better. Packages: bitsandbytes 0.48.2 -> 0.50.2; torch, transformers, peft, driver unchanged."
    )


def test_a_metric_that_is_judged_by_its_noise_has_its_interval() -> None:
    assert told(**msgspec.structs.asdict(SLOWER) | {"interval": (0.089, 0.1115)}) == (
        "row: device_busy_seconds_per_sample 0.2301 -> 0.2532 s, +10.0 % "
        "(95 % interval +8.9 % to +11.2 %, limit +2.0 %), lower is better."
    )


def test_an_open_row_says_what_would_settle_it() -> None:
    verdict = RowVerdict(status="undecided", metrics=(OPEN,), reason="undecided")

    assert failure_sentence("row", verdict) == (
        "row: samples_per_second 3 -> 2.94 1/s, -2.0 % (95 % interval -3.8 % to -0.2 %, limit -5.0 %), higher is "
        "better: may be worse, these processes cannot tell it from noise (p 0.017); 5 processes would."
    )


def test_what_is_merely_open_is_no_reason_of_a_row_that_failed() -> None:
    verdict = RowVerdict(status="regressed", metrics=(OPEN, SLOWER), reason="regressed")

    assert "samples_per_second" not in failure_sentence("row", verdict)


def test_where_the_difference_sits_is_said_before_the_packages() -> None:
    verdict = RowVerdict(
        status="regressed", metrics=(SLOWER,), reason="regressed", explanation="GPU +10.0 %", **PACKAGES
    )

    assert "lower is better. GPU +10.0 %. Packages: bitsandbytes" in failure_sentence("row", verdict)


def test_every_failed_metric_has_a_line_and_the_packages_are_said_once() -> None:
    lost = MetricVerdict(metric="loss_last", status="unmeasured", gates=True, reason="not measured: no loss")
    verdict = RowVerdict(status="regressed", metrics=(lost, SLOWER), reason="regressed", **PACKAGES)

    lines = failure_sentence("row", verdict).splitlines()

    assert [line.partition(" 0.2301")[0] for line in lines] == [
        "row: device_busy_seconds_per_sample",
        "row: loss_last unmeasured: no loss.",
        "Packages: bitsandbytes 0.48.2 -> 0.50.2; torch, transformers, peft, driver unchanged.",
    ]


def test_a_metric_that_does_not_gate_is_not_named() -> None:
    advisory = MetricVerdict(metric="load_seconds", status="regressed", baseline=1, now=9, gates=False, reason="")
    verdict = RowVerdict(status="regressed", metrics=(advisory, SLOWER), reason="regressed")

    assert "load_seconds" not in failure_sentence("row", verdict)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        pytest.param(
            {"metric": "peak_reserved_bytes", "baseline": 20 * 2**30, "now": 21 * 2**30, "change": 0.05, "limit": 0.02},
            "row: peak_reserved_bytes 20.00 -> 21.00 GiB, +5.0 % (limit +2.0 %), lower is better.",
            id="memory-in-GiB",
        ),
        pytest.param(
            {
                "metric": "peak_reserved_bytes",
                "baseline": (2**30, 2**30),
                "now": (2**30, 2**31),
                "change": 1.0,
                "limit": 0.0625,
                "device": 1,
            },
            "row: peak_reserved_bytes of GPU 1 1.00 -> 2.00 GiB, +100.0 % (limit +6.2 %), lower is better.",
            id="worst-device",
        ),
        pytest.param(
            {"metric": "samples_per_second", "baseline": 4.31, "now": 3.09, "change": -0.283, "limit": 0.05},
            "row: samples_per_second 4.31 -> 3.09 1/s, -28.3 % (limit -5.0 %), higher is better.",
            id="higher-is-better",
        ),
        pytest.param(
            {"metric": "loss_first", "baseline": 11.9, "now": 11.7, "change": -0.0168, "limit": 0.01},
            "row: loss_first 11.9 -> 11.7 nat, -1.7 % (limit -1.0 %), must not move.",
            id="must-not-move",
        ),
        pytest.param(
            {
                "metric": "peak_allocated_bytes",
                "baseline": (19898189824,),
                "now": (19898190336,),
                "change": 2.6e-8,
                "limit": 0.0,
                "reason": "must be equal within one environment",
            },
            "row: peak_allocated_bytes 18.531633 -> 18.531634 GiB, +0.00 % (limit 0, must be equal within one environment), "
            "lower is better.",
            id="too-close-for-GiB",
        ),
        pytest.param(
            {
                "metric": "kernels_per_sample",
                "baseline": 7587,
                "now": 7587.5,
                "change": 0.5 / 7587,
                "limit": 0.0,
                "reason": "must be equal within one environment",
            },
            "row: kernels_per_sample 7587 -> 7587.5, +0.01 % (limit 0, must be equal within one environment), lower is better.",
            id="count",
        ),
        pytest.param(
            {
                "metric": "loss_first",
                "baseline": 0.0,
                "now": 0.5,
                "reason": "default tolerance, at most 0.01 from a baseline of 0",
            },
            "row: loss_first 0 -> 0.5 nat, default tolerance, at most 0.01 from a baseline of 0, must not move.",
            id="from-zero",
        ),
    ],
)
def test_numbers_come_in_their_units(metric: dict[str, Any], sentence: str) -> None:
    assert told(**metric) == sentence


def test_a_row_that_failed_as_a_whole_says_why() -> None:
    verdict = RowVerdict(status="regressed", reason="crashed: signal 11.", **PACKAGES)

    assert failure_sentence("row", verdict).startswith("row: crashed: signal 11. Packages: bitsandbytes")


def test_unchanged_packages_are_said_too() -> None:
    verdict = RowVerdict(status="regressed", reason="crashed", unchanged_packages=("torch", "driver"))

    assert failure_sentence("row", verdict) == "row: crashed. Packages: all unchanged."


def test_without_a_baseline_there_is_nothing_to_say_about_packages() -> None:
    assert failure_sentence("row", RowVerdict(status="regressed", reason="crashed")) == "row: crashed."


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (
            {"metric": "host_bound", "baseline": 0.95, "now": 0.8, "change": -0.158, "limit": 0.1},
            "row: host_bound 0.95 -> 0.8, -15.8 % (limit -10.0 %), must not move.",
        ),
        (
            {"metric": "parameters", "baseline": 123456789, "now": 123456790, "change": 8.1e-9, "limit": 0.0},
            "row: parameters 123456789 -> 123456790, +0.00 % (limit 0, default tolerance), must not move.",
        ),
        (
            {"metric": "loss_first", "baseline": 2.000001, "now": 2.000002, "change": 5e-7, "limit": 1e-7},
            "row: loss_first 2.000001 -> 2.000002 nat, +0.00 % (limit +0.00 %), must not move.",
        ),
        (
            {"metric": "kernels_per_sample", "baseline": 999.94, "now": 1000.5, "change": 0.00056, "limit": 0.0},
            "row: kernels_per_sample 999.9 -> 1000.5, +0.06 % (limit 0, default tolerance), lower is better.",
        ),
    ],
)
def test_a_share_and_a_count_have_no_unit_and_figures_are_told_apart(metric: dict[str, Any], sentence: str) -> None:
    assert told(**metric) == sentence


def test_a_metric_that_was_not_measured_is_told_with_its_reason_beside_one_that_moved() -> None:
    before = Reference(measurement=measured({"loss_first": 2.0}))
    [lost] = judge(measured(Process(outcome="ok", missing={"loss_first": "no loss"})), before).metrics
    both = RowVerdict(status="regressed", metrics=(lost, SLOWER), reason="r")

    first, second = failure_sentence("row", both).splitlines()

    assert first.startswith("row: device_busy_seconds_per_sample 0.2301 -> 0.2532 s, +10.0 %")
    assert second == "row: loss_first unmeasured: no loss."


def test_all_packages_that_changed_are_named_and_of_the_others_only_the_training_stack() -> None:
    changes = (BITSANDBYTES, PackageChange("peft", "1", "2"))
    row = RowVerdict(
        status="regressed", reason="r", package_changes=changes, unchanged_packages=("numpy", "driver", "torch")
    )

    assert failure_sentence("row", row) == (
        "row: r. Packages: bitsandbytes 0.48.2 -> 0.50.2; peft 1 -> 2; torch, driver unchanged."
    )


def test_packages_that_changed_stand_alone_where_none_of_the_training_stack_is_known() -> None:
    row = RowVerdict(status="regressed", reason="r", package_changes=(BITSANDBYTES,), unchanged_packages=("numpy",))

    assert failure_sentence("row", row) == "row: r. Packages: bitsandbytes 0.48.2 -> 0.50.2."


def test_packages_are_not_called_unchanged_where_nobody_looked_at_their_files() -> None:
    row = RowVerdict(status="regressed", reason="r", unchanged_packages=("torch",), code_known=False)

    assert failure_sentence("row", row) == (
        "row: r. Packages: all of the same version, and whether their files are the same is not known."
    )


def test_the_repository_under_test_is_told_and_is_no_package() -> None:
    change = PackageChange("repository", "1a2b3c4", "5d6e7f8")
    row = RowVerdict(status="regressed", reason="r", package_changes=(change,), unchanged_packages=("torch",))

    assert failure_sentence("row", row) == "row: r. Packages: all unchanged; repository 1a2b3c4 -> 5d6e7f8."
