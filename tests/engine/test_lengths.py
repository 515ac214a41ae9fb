"""The published length distribution, and which samples of it are measured."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest

from pytest_llmbench.engine.lengths import PUBLISHED, LengthSet, admissible, choose
from pytest_llmbench.schema.case import CaseError


def _kept(max_length: int) -> tuple[int, ...]:
    return admissible(PUBLISHED, max_length, "full")


def test_the_published_set_has_the_published_rows_and_ends() -> None:
    assert len(PUBLISHED.lengths) == 4959
    assert min(PUBLISHED.lengths) == 91
    assert max(PUBLISHED.lengths) == 19548


def test_the_published_set_has_the_published_mean_and_deviation() -> None:
    assert statistics.fmean(PUBLISHED.lengths) == pytest.approx(3234, abs=5)
    assert statistics.pstdev(PUBLISHED.lengths) == pytest.approx(2548, abs=5)


def test_at_2048_as_many_samples_are_kept_as_were_published() -> None:
    kept = _kept(2048)

    assert len(kept) == 1793
    assert statistics.fmean(kept) == pytest.approx(843.9, abs=0.5)
    assert statistics.pstdev(kept) == pytest.approx(600.0, abs=0.5)
    assert (min(kept), max(kept)) == (91, 2048)


@pytest.mark.parametrize(
    ("max_length", "rows", "mean"), [(512, 774, 335), (1024, 1227, 469), (4096, 688, 1860), (8192, 955, 2904)]
)
def test_the_other_published_lengths_keep_what_the_estimate_says(max_length: int, rows: int, mean: float) -> None:
    kept = _kept(max_length)

    assert len(kept) == pytest.approx(rows, abs=1)
    assert statistics.fmean(kept) == pytest.approx(mean, rel=0.01)


def test_longer_samples_are_dropped_and_not_cut() -> None:
    assert Counter(_kept(512)) <= Counter(_kept(2048)) <= Counter(PUBLISHED.lengths)


def test_above_2048_a_thousand_rows_stand_for_all() -> None:
    assert len(_kept(19548)) == 1000


def test_a_set_without_that_rule_is_read_whole() -> None:
    mine = LengthSet(name="mine", lengths=tuple(range(2, 3002)))

    assert len(admissible(mine, 4096, "full")) == 3000


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    mine = LengthSet(name="mine", lengths=(30, 10, 20))

    assert admissible(mine, 25, "full") == (10, 20)


def test_a_max_length_below_every_sample_is_said() -> None:
    with pytest.raises(CaseError, match=r"^max_length=64: every sample of 'published' is longer; the shortest has 91"):
        admissible(PUBLISHED, 64, "full")


@pytest.mark.parametrize("lengths", [(), (5, 1)])
def test_a_set_without_something_to_predict_is_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'mine' needs samples of at least 2 tokens"):
        LengthSet(name="mine", lengths=lengths)


@pytest.mark.parametrize("max_length", [512, 1024, 2048, 4096, 8192])
def test_a_subset_holds_the_longest_admissible_sample(max_length: int) -> None:
    chosen = choose(PUBLISHED, max_length, "full", count=32, seed=1)

    assert len(chosen) == 32
    assert max(chosen) == max(_kept(max_length))


def test_a_subset_stands_for_the_whole() -> None:
    chosen = choose(PUBLISHED, 2048, "full", count=64, seed=1)

    assert statistics.fmean(chosen) == pytest.approx(statistics.fmean(_kept(2048)), rel=0.02)


def test_one_sample_is_the_longest() -> None:
    assert choose(PUBLISHED, 2048, "full", count=1, seed=1) == (2048,)


def test_full_takes_every_sample_once() -> None:
    chosen = choose(PUBLISHED, 2048, "full", count="full", seed=1)

    assert Counter(chosen) == Counter(_kept(2048))


def test_as_many_as_there_are_is_all_of_them() -> None:
    chosen = choose(PUBLISHED, 2048, "full", count=1793, seed=1)

    assert Counter(chosen) == Counter(_kept(2048))


def test_more_than_there_are_repeats_some() -> None:
    mine = LengthSet(name="mine", lengths=(10, 20))

    assert sorted(choose(mine, 25, "full", count=4, seed=1)) == [10, 10, 20, 20]


def _growth(lengths: Sequence[int]) -> list[int]:
    """Those longer than every one before them."""
    return sorted(set(itertools.accumulate(lengths, max)))


@pytest.mark.parametrize("max_length", [512, 1024, 2048, 4096, 8192])
@pytest.mark.parametrize("count", [16, 32, 64])
def test_each_new_longest_halves_what_is_left_above_it(count: int, max_length: int) -> None:
    chosen = choose(PUBLISHED, max_length, "full", count=count, seed=1)

    ordered = sorted(chosen)
    assert _growth(chosen) == [ordered[count // 2], ordered[count * 3 // 4], ordered[count * 7 // 8], ordered[-1]]


def test_a_longer_run_grows_as_a_short_one_does() -> None:
    short = choose(PUBLISHED, 2048, "full", count=16, seed=1)
    long = choose(PUBLISHED, 2048, "full", count="full", seed=1)

    assert _growth(long) == pytest.approx(_growth(short), rel=0.1)


def test_the_growth_does_not_depend_on_the_seed() -> None:
    orders = [choose(PUBLISHED, 2048, "full", count=32, seed=seed) for seed in range(5)]

    assert len(set(orders)) == 5
    assert len({tuple(_growth(order)) for order in orders}) == 1


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_larger_batches_grow_as_often_as_single_samples(batch_size: int) -> None:
    chosen = choose(PUBLISHED, 2048, "full", count=4 * batch_size, batch_size=batch_size, seed=1)

    padded = [max(chosen[start : start + batch_size]) for start in range(0, len(chosen), batch_size)]
    assert _growth(padded) == _growth(chosen)


def test_the_order_is_shuffled_and_the_same_every_time() -> None:
    chosen = choose(PUBLISHED, 2048, "full", count=32, seed=1)

    assert chosen == choose(PUBLISHED, 2048, "full", count=32, seed=1)
    assert chosen != choose(PUBLISHED, 2048, "full", count=32, seed=2)
    assert list(chosen) != sorted(chosen)


def test_at_smoke_scale_samples_are_64_times_shorter() -> None:
    chosen = choose(PUBLISHED, 2048, "smoke", count=32, seed=1)

    assert max(chosen) == 2048 // 64
    assert min(chosen) >= 2


def test_smoke_scale_drops_the_same_samples() -> None:
    assert len(admissible(PUBLISHED, 512, "smoke")) == len(_kept(512))


def test_lengths_need_neither_torch_nor_numpy() -> None:
    code = "import sys, pytest_llmbench.engine.lengths; print({'torch', 'numpy'} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert printed == "set()\n"
