"""Estimates of memory: what a peak is made up of, and the largest that fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.estimate import Estimate, Estimating
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.worker.entry import measure

MIB = 2**20
CARD = 200 * MIB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    ).save_pretrained(folder)
    return str(folder)


def process(case: Case, **asked: int) -> Process:
    request = Request(case=case, workload=Workload(device="fake"), estimate=Estimating(**asked))
    return measure(request, lambda _: None).processes[-1]


def estimate(case: Case, **asked: int) -> Estimate:
    done = process(case, **asked)
    assert isinstance(done.estimate, Estimate), done.reason
    return done.estimate


@pytest.fixture(scope="module")
def full(model: str) -> Estimate:
    return estimate(Case(model=model, tuner="full", max_length=512), length=512)


def test_parts_add_up_to_the_peak(full: Estimate) -> None:
    assert (sum(full.made_of.values()),) == full.allocated_bytes


def test_the_optimizer_holds_two_numbers_for_each_weight(full: Estimate) -> None:
    assert full.made_of["optimizer state"] == pytest.approx(2 * full.made_of["weights"], rel=0.01)


def test_each_trained_weight_has_a_gradient(full: Estimate) -> None:
    assert full.made_of["gradients"] == pytest.approx(full.made_of["weights"], rel=0.01)


def test_logits_are_told_by_their_vocabulary(model: str) -> None:
    found = estimate(Case(model=model, max_length=4096), length=4096)

    assert found.made_of["logits and loss"] >= 4096 * 4096 * 4  # as fp32
    assert next(iter(found.made_of)) == "logits and loss"


def test_samples_as_they_are_measured_are_estimated_too(model: str) -> None:
    found = estimate(Case(model=model, max_length=512))

    assert (sum(found.made_of.values()),) == found.allocated_bytes


def test_the_state_of_the_optimizer_is_there_once_where_all_samples_are_alike(model: str) -> None:
    found = estimate(Case(model=model, tuner="full", max_length=91))

    assert found.made_of["optimizer state"] == pytest.approx(2 * found.made_of["weights"], rel=0.01)


@pytest.fixture(scope="module")
def searched(model: str) -> Estimate:
    return estimate(Case(model=model, max_length=512), length=512, card_bytes=CARD)


def test_the_largest_length_fills_the_card(model: str, searched: Estimate) -> None:
    length = searched.largest_length
    assert length is not None
    fitting, larger = (estimate(Case(model=model, max_length=512), length=one) for one in (length, length + 64))

    assert fitting.allocated_bytes[0] <= CARD
    assert larger.allocated_bytes[0] > 0.9 * CARD


def test_the_largest_batch_fills_the_card(model: str, searched: Estimate) -> None:
    samples = searched.largest_batch
    assert samples is not None
    fitting, larger = (
        estimate(Case(model=model, max_length=512, batch_size=one), length=512) for one in (samples, samples + 1)
    )

    assert fitting.allocated_bytes[0] <= CARD
    assert larger.allocated_bytes[0] > 0.9 * CARD


def test_a_length_goes_no_further_than_the_positions_of_the_model(model: str) -> None:
    found = estimate(Case(model=model, max_length=512), length=512, card_bytes=2**40)

    assert found.largest_length == 4096
    assert found.notes["max_length"] == "the model has no more positions"


def test_a_card_for_which_one_sample_is_too_much_has_no_largest(model: str) -> None:
    found = estimate(Case(model=model, max_length=512), length=512, card_bytes=MIB)

    assert found.fits_card is False
    assert found.largest_batch is None
    assert found.notes == {"max_length": "not even 64 tokens fit", "batch_size": "not even one sample fits"}


def test_what_cannot_be_traced_is_unavailable_in_a_sentence(model: str) -> None:
    done = process(Case(model=model, loop="trainer"))

    assert (done.outcome, isinstance(done.estimate, Estimate)) == ("unavailable", False)
    assert "loop='trainer' cannot be traced" in (done.reason or "")


def test_a_step_of_ones_own_says_why_nothing_larger_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("own_step_of_an_estimate.py").write_text(
        "import torch\n"
        "def build(device):\n"
        "    model = torch.nn.Linear(1024, 1024, device=device)\n"
        "    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)\n"
        "    def step():\n"
        "        model(torch.rand(8, 1024, device=device)).sum().backward()\n"
        "        optimizer.step()\n"
        "        optimizer.zero_grad()\n"
        "        return 8\n"
        "    step.model, step.optimizer = model, optimizer\n"
        "    return step\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    found = estimate(Case.custom("own_step_of_an_estimate:build", name="own"), card_bytes=2**40)

    assert found.notes["batch_size"] == "a step of your own makes its own samples"
    assert found.made_of["optimizer state"] == found.made_of["weights"] == 1024 * 1024 * 4 + 4096
