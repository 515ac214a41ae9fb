"""What stands first of a failure: a number whose place in the code is known, if there is one."""

from __future__ import annotations

from typing import Any

from pytest_llmbench.judge.sentence import headline, next_movers
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict

LORA = "peft/tuners/lora/layer.py:Linear.forward"
BEFORE, KEPT = "before the step +75,776 B", f"detach +7.5 KiB in {LORA}"


def regressed(*metrics: MetricVerdict) -> RowVerdict:
    return RowVerdict(status="regressed", metrics=metrics, reason="regressed")


def moved(metric: str, *movers: str, **fields: Any) -> MetricVerdict:
    given = {"baseline": 100, "now": 110, "change": 0.1, "limit": 0.005, "gates": True, "reason": "default tolerance"}
    return MetricVerdict(metric=metric, movers=movers, **{"status": "regressed", **given, **fields})


def test_a_metric_whose_mover_is_a_function_goes_before_one_whose_mover_is_none() -> None:
    verdict = regressed(moved("peak_live_bytes", BEFORE), moved("retained_bytes_per_step", KEPT))

    assert headline(verdict).startswith("retained bytes +10.0 %")
    assert headline(verdict).endswith(f": {KEPT}")


def test_a_mover_that_is_a_function_goes_before_a_node_of_autograd() -> None:
    node, zeroed = "add_ +12 a step in torch::autograd::AccumulateGrad", "zero_ +6 a step in torch/optim/optimizer.py:f"

    assert headline(regressed(moved("moved_bytes_per_sample", node, zeroed))).endswith(f": {zeroed}")


def test_a_mover_without_a_function_is_told_where_there_is_no_other() -> None:
    assert headline(regressed(moved("peak_live_bytes", BEFORE))).endswith(f": {BEFORE}")


def test_what_else_moved_leaves_out_what_the_headline_has() -> None:
    verdict = regressed(moved("peak_live_bytes", BEFORE), moved("retained_bytes_per_step", KEPT))

    assert next_movers(verdict) == [f"  {BEFORE}"]


def test_less_that_is_trained_goes_before_what_that_saves_and_has_its_place() -> None:
    fewer = moved("trainable_parameters", baseline=200, now=100, change=-0.5, limit=0.0)
    saved = moved("python_instructions_per_sample", f"-900 instructions a step in {LORA}", status="unmeasured")

    assert headline(regressed(saved, fewer)).startswith("trainable_parameters -50.0 % (exact)")
    assert headline(regressed(saved, fewer)).endswith(f": -900 instructions a step in {LORA}")
