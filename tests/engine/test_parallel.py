"""DDP and FSDP on the CPU: two ranks of the real engine train what one process trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch
import transformers

import forked
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.xdist_group("parallel")

SMOKE = Workload(scale="smoke", device="cpu", samples=4)
ROW = Case(model="qwen-7b-chat", attention="sdpa", accumulation_steps=2)
ONE_PER_FAMILY = ("qwen-1_8b-chat", "chatglm3-6b", "yi-34b-chat", "openbuddy-zephyr-7b-chat", "baichuan2-13b-chat")

Run = Callable[..., Process]


@pytest.fixture(scope="module")
def measured() -> Iterator[Run]:
    """Measures the row with some fields changed, each variant once."""
    known: dict[Case, Measurement] = {}
    with pytest.MonkeyPatch.context() as patch, LocalExecutor(timeout_seconds=120, announce=pytest.fail) as executor:
        forked.fork_servers(patch)

        def run(workload: Workload = SMOKE, **changed: Any) -> Process:
            case = msgspec.structs.replace(ROW, **changed)
            if case not in known:
                # A profile of another model would tell nothing more of ranks.
                request = Request(case=case, workload=workload, with_profile=case.model == ROW.model)
                known[case] = executor.run(request, lambda _: None)
            (process,) = known[case].processes
            return process

        yield run


@pytest.mark.versions
@pytest.mark.parametrize("tuner", ["lora", "full"])
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_two_ranks_run(measured: Run, parallelism: str, tuner: str) -> None:
    process = measured(num_gpus=2, parallelism=parallelism, tuner=tuner)

    assert (process.outcome, process.reason) == ("ok", None)
    assert process.ran["ranks"] == "2"


@pytest.mark.parametrize("tuner", ["lora", "full"])
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_parameters_are_counted_once(measured: Run, parallelism: str, tuner: str) -> None:
    several, alone = measured(num_gpus=2, parallelism=parallelism, tuner=tuner), measured(tuner=tuner)

    for name in ("parameters", "trainable_parameters"):
        assert several.metrics[name] == alone.metrics[name]


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_every_rank_trains_on_as_many_samples_as_one_process_would(measured: Run, parallelism: str) -> None:
    several, alone = measured(num_gpus=2, parallelism=parallelism), measured()

    assert [one.samples for one in several.rounds] == [2 * one.samples for one in alone.rounds]
    assert [one.tokens for one in several.rounds] == [2 * one.tokens for one in alone.rounds]
    seconds = sum(one.seconds for one in several.rounds)
    assert several.metrics["samples_per_second"] == sum(one.samples for one in several.rounds) / seconds


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_every_family_can_be_sharded(measured: Run, name: str) -> None:
    process = measured(num_gpus=2, parallelism="fsdp", model=name)

    assert (process.outcome, process.reason) == ("ok", None)


def test_one_replica_does_what_the_bare_step_does(measured: Run) -> None:
    one, bare = measured(parallelism="ddp", tuner="full"), measured(tuner="full")

    for name in ("loss_first", "loss_last", "grad_norm"):
        assert one.metrics[name] == bare.metrics[name]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with the weights of a small model, whose head may be its embedding."""
    config = transformers.LlamaConfig(
        vocab_size=600,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        tie_word_embeddings=request.param,
    )
    torch.manual_seed(1)
    directory = tmp_path_factory.mktemp("checkpoint")
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return str(directory)


@pytest.mark.versions
def test_from_one_checkpoint_shards_train_as_replicas_do(measured: Run, checkpoint: str) -> None:
    full = Workload(scale="full", device="cpu", samples=4)

    ddp, fsdp = (
        measured(full, num_gpus=2, parallelism=one, tuner="full", model=checkpoint, weights="pretrained", max_length=99)
        for one in ("ddp", "fsdp")
    )

    assert (ddp.reason, fsdp.reason) == (None, None)
    assert fsdp.metrics["parameters"] == ddp.metrics["parameters"]
    for name in ("loss_first", "loss_last"):
        assert fsdp.metrics[name] == pytest.approx(ddp.metrics[name], rel=2e-3)
    assert fsdp.metrics["grad_norm"] == pytest.approx(ddp.metrics["grad_norm"], rel=0.02)


def test_one_rank_is_a_process_group_of_one(measured: Run) -> None:
    process = measured(parallelism="ddp", tuner="full")

    assert (process.outcome, process.ran["ranks"]) == ("ok", "1")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"parallelism": "fsdp", "quantization": "bnb-nf4"}, "parallelism='fsdp' with quantization='bnb-nf4' is not"),
        ({"parallelism": "ddp", "loop": "trainer"}, "loop='trainer' with parallelism='ddp' is not built in"),
    ],
)
def test_what_is_not_built_in_is_unavailable_for_all_ranks(measured: Run, changed: dict[str, Any], reason: str) -> None:
    process = measured(num_gpus=2, **changed)

    assert process.outcome == "unavailable"
    assert (process.reason or "").startswith(reason)


@pytest.mark.hardware
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs")
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_two_gpus_have_a_rank_and_a_peak_each(parallelism: str) -> None:
    case = msgspec.structs.replace(ROW, num_gpus=2, parallelism=parallelism)
    workload = Workload(scale="smoke", device="cuda", samples=4)
    with LocalExecutor(timeout_seconds=120, announce=pytest.fail) as executor:
        measurement = executor.run(Request(case=case, workload=workload), lambda _: None)

    (process,) = measurement.processes
    assert (process.outcome, process.reason) == ("ok", None)
    assert measurement.environment is not None
    assert measurement.environment.num_devices == 2
    peaks = process.metrics["peak_reserved_bytes"]
    assert isinstance(peaks, tuple)
    assert len(peaks) == 2


@pytest.mark.hardware
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs")
def test_the_busy_time_of_a_split_row_is_made_up_of_that_of_each_gpu() -> None:
    case = msgspec.structs.replace(ROW, num_gpus=2)
    workload = Workload(scale="smoke", device="cuda", samples=4)
    with LocalExecutor(timeout_seconds=120, announce=pytest.fail) as executor:
        (process,) = executor.run(Request(case=case, workload=workload), lambda _: None).processes

    assert (process.outcome, process.reason) == ("ok", None)
    each = process.evidence.busy_seconds_per_sample
    assert each is not None
    assert len(each) == 2
    assert min(each) > 0
    assert sum(each) == pytest.approx(process.metrics["device_busy_seconds_per_sample"])


def test_the_busy_time_of_each_gpu_is_missing_on_the_cpu_with_the_reason(measured: Run) -> None:
    process = measured()

    assert process.evidence.busy_seconds_per_sample is None
    assert process.missing["busy_seconds_per_sample"] == "measured on the CPU"
