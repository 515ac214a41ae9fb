"""Estimates as text and as JSON, and what cards have for tensors."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from pytest_llmbench.reports.estimate import Estimated, Named, render, to_json
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.estimate import CARDS, CONTEXT_BYTES, Estimate, bytes_for_tensors
from pytest_llmbench.schema.measurement import Measurement, Process, failed
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.tables.selection import Selected

GIB = 2**30
CASE = Case(model="qwen-7b-chat")
WORKLOAD = Workload(device="fake")
SELECTED = Selected("model", "qwen", CASE)
ESTIMATE = Estimate(
    allocated_bytes=(30 * GIB, 20 * GIB),
    reserved_bytes=(33 * GIB, 21 * GIB),
    made_of={"weights": 18 * GIB, "logits and loss": 12 * GIB},
    fits={card: card != "24GB" for card in CARDS},
    fits_card=True,
    largest_length=4096,
    largest_batch=None,
    notes={"batch_size": "a reason"},
)


def estimated(estimate: Estimate = ESTIMATE) -> Estimated:
    process = Process(outcome="ok", estimate=estimate)
    measurement = Measurement(case=CASE, workload=WORKLOAD, environment=None, processes=(process,), measured_at="now")
    return Estimated(SELECTED, measurement)


def text(*rows: Estimated, card: Named | None = None) -> str:
    return render(rows, card, width=140, color=False)


def test_memory_stands_for_each_gpu() -> None:
    assert re.search(r"qwen +30\.00\+20\.00 +33\.00\+21\.00 +no +yes", text(estimated()))


def test_parts_of_the_peak_stand_with_their_sum() -> None:
    assert re.search(r"weights +loss +other +sum\n─+\nqwen +18\.00 +12\.00 +0\.00 +30\.00", text(estimated()))


def test_the_largest_are_shown_of_a_named_card_alone() -> None:
    assert re.search(r"yes +4,096 +-\n", text(estimated(), card=Named("H100", 78 * GIB)))
    assert "max_length" not in text(estimated())


def test_a_part_that_is_next_to_nothing_is_among_the_others() -> None:
    small = msgspec.structs.replace(ESTIMATE, made_of={"weights": 29 * GIB, "gradients": 2**20, "inputs": GIB - 2**20})

    assert re.search(r"weights +inputs +other +sum\n─+\nqwen +29\.00 +1\.00 +0\.00 +30\.00", text(estimated(small)))


def test_what_is_not_known_has_its_reason() -> None:
    assert "qwen: largest batch_size: a reason" in text(estimated(), card=Named("H100", 78 * GIB))


def test_a_row_without_an_estimate_has_its_sentence() -> None:
    row = Estimated(SELECTED, failed(CASE, WORKLOAD, "unavailable", "cannot be traced", measured_at="now"))

    assert text(row) == "llmbench: qwen: unavailable: cannot be traced"
    assert json.loads(to_json([row], None, None))["rows"][0]["estimate"] is None


def test_json_has_sizes_in_bytes() -> None:
    (row,) = json.loads(to_json([estimated()], None, "max"))["rows"]

    assert row["estimate"]["reserved_bytes"] == [33 * GIB, 21 * GIB]
    assert row["case"]["model"] == "qwen-7b-chat"


@pytest.mark.parametrize("name", ["80GB", "80 gb", "H100", "NVIDIA A100"])
def test_a_card_has_less_for_tensors_than_its_label_says(name: str) -> None:
    assert bytes_for_tensors(name) == CARDS["80GB"] == int(79.15 * GIB) - CONTEXT_BYTES


def test_a_card_of_no_usual_size_goes_by_its_memory() -> None:
    assert bytes_for_tensors("22.5GiB") == int(22.5 * GIB) - CONTEXT_BYTES
