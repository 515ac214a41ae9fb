"""What made a metric move: the operators, functions and allocations of which there are more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from measurements import measured
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.movers import movers
from pytest_llmbench.judge.sentence import MOST_CHARACTERS, failure_sentence, headline
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.environment import PackageChange
from pytest_llmbench.schema.measurement import AllocationShare, Measurement
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.profile import Part, Profile

LORA, LOSS = "peft/tuners/lora/layer.py:Linear.forward", "transformers/loss/loss_utils.py:ForCausalLMLoss"


def side(
    metrics: dict[str, Any],
    operators: dict[str, dict[str, str]] | None = None,
    python: dict[str, dict[str, str]] | None = None,
    *,
    live: tuple[AllocationShare, ...] = (),
    retained: dict[str, int] | None = None,
    version: str = "0.17.0",
) -> Measurement:
    part = Part(operators=operators or {}, python=python or {})
    profile = Profile(samples=1, samples_per_step=16, micro_batch=part, retained=retained or {})
    one = measured(metrics)
    process = msgspec.structs.replace(one.processes[0], profile=profile, peak_allocations=live)
    assert one.environment is not None
    environment = msgspec.structs.replace(one.environment, packages={"peft": version})
    return msgspec.structs.replace(one, processes=(process,), environment=environment)


def moved(metric: str, then: Measurement, now: Measurement, *, more: bool = True) -> list[str]:
    return [str(mover) for mover in movers(METRICS[metric], then, now, more=more)]


MOVED = "moved_bytes_per_sample"


def test_an_operator_that_runs_more_often_is_told_with_how_often_and_where() -> None:
    then = side({MOVED: 100.0}, {LORA: {"clone": "8 100 0 0"}})
    now = side({MOVED: 200.0}, {LORA: {"clone": "200 2500 0 0"}})

    assert moved(MOVED, then, now) == [f"clone +192 a step in {LORA}"]


def test_an_operator_that_runs_as_often_and_moves_more_is_told_with_its_bytes() -> None:
    then = side({MOVED: 1.0}, {LOSS: {"_to_copy": f"1 {2**20} 0 0"}})
    now = side({MOVED: 2.0}, {LOSS: {"_to_copy": f"1 {3 * 2**20} 0 0"}})

    assert moved(MOVED, then, now) == [f"_to_copy +2 MiB a step in {LOSS}"]


def test_what_moved_the_other_way_is_not_told() -> None:
    then = side({MOVED: 1.0}, {LORA: {"add": "9 900 0 0"}, LOSS: {"mul": "1 10 0 0"}})
    now = side({MOVED: 2.0}, {LOSS: {"mul": "3 30 0 0"}})

    assert moved(MOVED, then, now) == [f"mul +2 a step in {LOSS}"]
    assert moved(MOVED, then, now, more=False) == [f"add -9 a step in {LORA}"]


def test_a_read_is_told_as_one_more_a_step() -> None:
    metric = "host_reads_per_sample"
    then = side({metric: 1.0})
    now = side({metric: 2.0}, {"transformers/trainer.py:Trainer.f": {"_local_scalar_dense": "1 1 0 1"}})

    assert moved(metric, then, now) == ["1 host read more a step in transformers/trainer.py:Trainer.f"]


def test_instructions_are_told_by_function() -> None:
    metric = "python_instructions_per_sample"
    then = side({metric: 1000.0}, python={"peft/layer.py": {"Linear.forward": "5 1000"}})
    now = side({metric: 9000.0}, python={"peft/layer.py": {"Linear.forward": "5 9000"}})

    assert moved(metric, then, now) == ["+8,000 instructions a step in peft/layer.py:Linear.forward"]


def test_who_holds_more_at_the_peak_is_told() -> None:
    metric = "peak_live_bytes"
    then, now = (
        side({metric: (size,)}, live=(AllocationShare(f"aten::mul in {LORA}", None, size),)) for size in (2**20, 2**21)
    )

    assert moved(metric, then, now) == [f"mul +1 MiB in {LORA}"]


def test_what_a_step_leaves_behind_is_told() -> None:
    metric = "retained_bytes_per_step"
    then, now = side({metric: (0,)}), side({metric: (512,)}, retained={f"aten::add in {LORA}": 512})

    assert moved(metric, then, now) == [f"add +512 B in {LORA}"]


def test_an_entry_that_one_side_left_out_counts_from_the_smallest_listed() -> None:
    listed = {"file.py": {"long": "1 5000", "short": "1 50"}, "other": {"": "9 500"}}
    metric = "python_instructions_per_sample"
    then = side({metric: 1.0}, python=listed)
    now = side({metric: 2.0}, python=listed | {"new.py": {"f": "1 51"}, "slow.py": {"f": "1 950"}})

    assert moved(metric, then, now) == ["+900 instructions a step in slow.py:f"]


def test_without_a_profile_of_both_sides_nothing_is_told() -> None:
    assert moved(MOVED, measured({MOVED: 1.0}), side({MOVED: 2.0}, {LORA: {"clone": "1 1 0 0"}})) == []


def test_a_mover_costs_what_its_bytes_or_its_flops_take_at_best() -> None:
    then = side({MOVED: 1.0})  # on an H200: 4.8 TB/s and 989.4 TFLOPS
    now = side({MOVED: 2.0}, {LORA: {"clone": "8 48000000000 0 0"}, LOSS: {"mm": "1 48000000000 19788000000000 0"}})

    found = {mover.name: mover.cost for mover in movers(METRICS[MOVED], then, now, more=True)}

    assert found == {"clone": pytest.approx(0.01), "mm": pytest.approx(0.02)}


def test_the_next_movers_of_all_metrics_stand_in_the_order_of_their_cost() -> None:
    reads, python = "host_reads_per_sample", "python_instructions_per_sample"
    then = side({MOVED: 1e9, reads: 1.0, python: 1e4}, python={"a.py": {"f": "1 1000"}})
    now = side(
        {MOVED: 2e9, reads: 2.0, python: 1e6},
        {LORA: {"clone": "8 1000000000 0 0", "item": "1 8 0 1"}, LOSS: {"mul": "9 400000000 0 0"}},
        {"a.py": {"f": "1 1000000"}},
    )

    told = failure_sentence("row", judge(now, Reference(measurement=then))).splitlines()

    assert told[0].endswith("+999,000 a step in a.py:f")
    assert told[1:4] == [
        f"  clone +8 a step in {LORA}",
        f"  mul +9 a step in {LOSS}",
        f"  1 host read more a step in {LORA}",
    ]


def regressed() -> RowVerdict:
    then = side({MOVED: 2.0**20}, {LORA: {"clone": "8 100 0 0"}})
    now = side({MOVED: 1.5 * 2**20}, {LORA: {"clone": "200 2500 0 0"}, LOSS: {"mul": "1 900 0 0"}}, version="0.18.0")
    return judge(now, Reference(measurement=then))


def test_a_headline_has_number_limit_values_place_and_package() -> None:
    assert headline(regressed()) == (
        f"moved bytes +50.0 % (limit 0.5 %), 1.0 MiB -> 1.5 MiB a sample: clone +192 a step in {LORA}; "
        "peft 0.17.0 -> 0.18.0"
    )


def test_a_headline_leaves_out_files_where_the_version_differs() -> None:
    changed = PackageChange("peft", "0.17.0", "0.18.0", files=("tuners/lora/layer.py",))
    edited = PackageChange("peft", "0.17.0", "0.17.0", files=("tuners/lora/layer.py",))

    told = [headline(msgspec.structs.replace(regressed(), package_changes=(one,))) for one in (changed, edited)]

    assert [line.rpartition("; ")[2] for line in told] == [
        "peft 0.17.0 -> 0.18.0",
        "peft 0.17.0, files changed: tuners/lora/layer.py",
    ]


@pytest.mark.parametrize("name", ["row", "lora_max_length[qwen-7b-chat-2048]", "x" * 80])
def test_the_first_line_of_a_failure_has_at_most_160_characters(name: str) -> None:
    first, second, *_ = failure_sentence(name, regressed()).splitlines()

    assert len(first) <= MOST_CHARACTERS
    assert LORA in first or name.startswith("x")
    assert second == f"  mul +1 a step in {LOSS}"
