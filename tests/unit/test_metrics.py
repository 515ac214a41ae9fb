"""The table of metrics keeps its own rules."""

from __future__ import annotations

import re

import msgspec
import pytest

from pytest_llmbench.judge.speed import SEES
from pytest_llmbench.schema.metrics import METRICS, Metric, Tolerance, title

all_metrics = pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)


@all_metrics
def test_a_name_is_lower_case_words(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", metric.name)


@all_metrics
def test_a_name_ends_in_the_unit_or_its_denominator(metric: Metric) -> None:
    endings = {
        "B": ("_bytes", "_bytes_per_sample", "_bytes_per_step"),
        "s": ("_seconds", "_seconds_per_sample"),
        "1/s": ("_per_second",),
        "J": ("_joules_per_sample",),
    }
    assert metric.name.endswith(endings.get(metric.unit, ("",)))


@all_metrics
def test_a_metric_is_explained_in_one_sentence(metric: Metric) -> None:
    assert metric.describe.endswith(".")
    assert len(metric.describe) < 120


@all_metrics
def test_a_tolerance_of_nothing_is_for_what_can_be_equal_or_has_a_noise(metric: Metric) -> None:
    assert metric.gate in ("exact", "statistical", "workload") or metric.tolerance != Tolerance()


@all_metrics
def test_a_statistical_metric_and_no_other_has_a_prior_noise_and_effects_that_matter(metric: Metric) -> None:
    statistical = metric.gate == "statistical"

    assert bool(metric.prior) == statistical
    assert (0 < metric.smallest_effect < metric.margin < SEES) == statistical


@all_metrics
def test_a_metric_says_how_ranks_come_together(metric: Metric) -> None:
    assert metric.over_ranks is not None


def test_a_statistical_metric_without_a_prior_is_refused() -> None:
    with pytest.raises(ValueError, match="metric m: gate='statistical' needs a prior"):
        Metric(name="m", unit="s", better="lower", gate="statistical", describe="It is.")


def test_a_metric_that_is_not_known_here_is_shown_by_its_name() -> None:
    assert (title("peak_reserved_bytes"), title("of_another_package")) == ("GPU GiB", "of_another_package")


@pytest.mark.parametrize("field", ["relative", "absolute"])
def test_a_stored_tolerance_is_not_negative(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f">= 0.0 - at `\\$.{field}`"):
        msgspec.json.decode(f'{{"{field}": -0.1}}'.encode(), type=Tolerance)
