"""What is put in for a GPU, and that it is gone afterwards."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.utils import is_flash_attn_2_available

from pytest_llmbench.engine.fake.gpu import as_on_a_gpu
from pytest_llmbench.engine.fake.shapes import is_shape
from pytest_llmbench.engine.loop import Watch, run_steps
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.profile import Part
from pytest_llmbench.schema.workload import Device, Workload
from pytest_llmbench.worker.devices import Devices
from pytest_llmbench.worker.notes import Notes
from pytest_llmbench.worker.passes import note_profile

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_few_objects() -> Iterator[None]:
    """As in a measuring process; what libraries have made is none of a step's garbage."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def profiled(directory: str, device: Device, **axes: Any) -> Notes:
    """What is noted of a training of the model at its own size, on content or without."""
    notes = Notes(lambda _: None)
    case = Case(model=directory, attention="eager", accumulation_steps=2, max_length=100, **axes)
    with as_on_a_gpu() if device == "fake" else contextlib.nullcontext():
        training = build_fine_tuning(case, Workload(device=device, samples=2), CPU)
        run_steps(training, [[0, 1]], Watch())
        note_profile(training, None, Devices(device, 1), notes)
    return notes


def counts(part: Part) -> Counter[tuple[str, str]]:
    return Counter({(place, name): done.runs for place, name, done in part.operations()})


@pytest.mark.parametrize(
    "axes",
    [
        pytest.param({}, id="lora"),
        pytest.param({"batch_size": 3}, id="padded"),
        pytest.param({"gradient_checkpointing": False}, id="not-checkpointed"),
        pytest.param({"tuner": "full"}, id="full"),
    ],
)
def test_without_content_a_micro_batch_does_what_it_does_with_content(directory: str, axes: dict[str, Any]) -> None:
    real, fake = profiled(directory, "cpu", **axes), profiled(directory, "fake", **axes)

    assert real.profile is not None
    assert fake.profile is not None
    assert counts(fake.profile.micro_batch) == counts(real.profile.micro_batch)
    for name in ("flops_per_sample", "peak_live_bytes", "retained_bytes_per_step"):
        assert fake.metrics[name] == real.metrics[name]
    moved = [sum(done.moved_bytes for *_, done in one.profile.micro_batch.operations()) for one in (real, fake)]
    assert moved[0] == moved[1]


def test_an_optimizer_steps_all_parameters_at_once(directory: str) -> None:
    profile = profiled(directory, "fake").profile

    assert profile is not None
    places = {place.rpartition(":")[2]: name for place, name in counts(profile.optimizer_step) if "foreach" in name}
    assert set(places) == {"_get_total_norm", "_clip_grads_with_norm_", "_multi_tensor_adam"}


def test_who_asks_whether_a_tensor_is_fake_is_answered_no() -> None:
    with as_on_a_gpu():
        from torch._subclasses import FakeTensor

        x = torch.empty(3)
        assert is_shape(x)
        assert not isinstance(x, FakeTensor)


def test_transformers_takes_a_tensor_without_content_for_a_real_one() -> None:
    from transformers.utils import import_utils

    if not hasattr(import_utils, "is_fake_tensor"):
        pytest.skip("this transformers does not ask")
    with as_on_a_gpu():
        assert not import_utils.is_fake_tensor(torch.empty(3))


def test_afterwards_tensors_have_content_and_flash_attention_is_what_it_was() -> None:
    was = is_flash_attn_2_available()

    with as_on_a_gpu():
        pass

    assert torch.ones(2).tolist() == [1.0, 1.0]
    assert is_flash_attn_2_available() == was


def test_what_is_imported_within_stays_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path, "imported_within.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)

    with as_on_a_gpu():
        importlib.import_module("imported_within")

    assert sys.modules.pop("imported_within").VALUE == 3


def test_an_error_within_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), as_on_a_gpu():
        _ = 1 / 0

    assert torch.ones(2).tolist() == [1.0, 1.0]


class Tied(nn.Module):  # type: ignore[misc]  # where torch is not installed
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.one.weight
        self.register_buffer("count", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x))


def test_a_parameter_of_two_modules_stays_one_when_it_is_converted() -> None:
    with as_on_a_gpu():
        model = Tied().to(torch.bfloat16)

        assert model.other.weight is model.one.weight
        assert model.one.weight.dtype == torch.bfloat16


def test_a_parameter_that_is_not_trained_is_not_trained_when_it_is_converted() -> None:
    with as_on_a_gpu():
        model = Tied()
        model.one.bias.requires_grad_(False)

        assert not model.to(torch.float64).one.bias.requires_grad


def test_a_buffer_of_integers_keeps_its_values_when_a_module_is_converted() -> None:
    with as_on_a_gpu():
        assert Tied().to(torch.bfloat16).count.tolist() == [0, 1, 2]
