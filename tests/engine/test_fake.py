"""A row that is traced on tensors without content: what it tells, and what it cannot."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers

import forked
from pytest_llmbench.judge.movers import movers
from pytest_llmbench.probes.storages import NotAlike, Storages
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.profile import Profile
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.worker import fake
from pytest_llmbench.worker.measure import measure

HERE = Path(__file__).parent
WIDTH, ROWS = 256, 1024
"""Of an activation in `fake_steps`."""
FAKE = Workload(device="fake", samples=4)


@pytest.fixture(autouse=True)
def as_in_a_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The steps can be imported, and what a measurement has frozen can be collected afterwards."""
    monkeypatch.syspath_prepend(HERE)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


def measurement(case: Case, **changed: Any) -> Measurement:
    return measure(Request(case=case, workload=msgspec.structs.replace(FAKE, **changed)), lambda _: None)


def measured(case: Case, **changed: Any) -> Process:
    (process,) = measurement(case, **changed).processes
    return process


def custom(name: str, **arguments: Any) -> Case:
    return Case.custom(f"fake_steps:{name}", name=name, arguments=arguments)


def llama(folder: Path, **changed: Any) -> str:
    sizes = {
        "vocab_size": 300,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    }
    transformers.LlamaConfig(**sizes | changed).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    return llama(tmp_path_factory.mktemp("model"))


def row(directory: str, **axes: Any) -> Case:
    return Case(**{"model": directory, "attention": "sdpa", "accumulation_steps": 2, "max_length": 200, **axes})


@pytest.fixture(scope="module")
def process(directory: str) -> Process:
    return measured(row(directory))


@pytest.mark.parametrize(
    "metric",
    [
        "parameters",
        "trainable_parameters",
        "operators_per_sample",
        "flops_per_sample",
        "moved_bytes_per_sample",
        "host_reads_per_sample",
        "python_calls_per_sample",
        "python_instructions_per_sample",
        "tokens_per_sample",
        "peak_allocated_bytes",
        "peak_allocated_steady_bytes",
        "peak_reserved_bytes",
        "peak_live_bytes",
    ],
)
def test_a_row_tells_of_what_needs_no_content(process: Process, metric: str) -> None:
    assert process.metrics[metric]


@pytest.mark.parametrize(
    "metric", ["loss_first", "loss_last", "grad_norm", "samples_per_second", "energy_joules_per_sample"]
)
def test_what_needs_content_is_missing_with_a_reason(process: Process, metric: str) -> None:
    assert metric not in process.metrics
    assert process.missing[metric] == fake.NO_CONTENT


def test_a_row_says_what_is_imitated_and_which_kernel_ran(process: Process) -> None:
    assert process.outcome == "ok"
    assert "torch's attention kernels of a Hopper GPU" in process.ran["imitated"]
    assert process.ran["attention"] == "sdpa-cudnn"
    assert process.ran["checkpointing"] == "2 of 2 LlamaDecoderLayer"


def test_gradients_and_the_optimizer_are_part_of_the_peak(tmp_path: Path) -> None:
    model = llama(tmp_path, hidden_size=768, intermediate_size=2048)
    lora, full = (measured(row(model, tuner=tuner, max_length=95)) for tuner in ("lora", "full"))

    added = full.metrics["peak_allocated_bytes"][0] - lora.metrics["peak_allocated_bytes"][0]  # type: ignore[index]
    weights = 2 * full.metrics["parameters"]
    # The gradients, two moments, and the roots of one of them while all parameters are stepped at once.
    assert added == pytest.approx(4 * weights, rel=0.1)


@pytest.mark.parametrize("axes", [{}, {"batch_size": 3}, {"attention": "flash", "batch_size": 2}], ids=str)
def test_a_few_micro_batches_tell_the_memory_of_all(
    directory: str, axes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the losses, which a run keeps to its end."""
    losses = 8 * 512
    case = row(directory, max_length=600, **axes)
    few = measured(case, samples=8)
    monkeypatch.setattr(fake, "template", _refused)

    every = measured(case, samples=8)

    for metric in ("peak_allocated_bytes", "peak_allocated_steady_bytes", "peak_reserved_bytes"):
        assert few.metrics[metric] == pytest.approx(every.metrics[metric], abs=losses)


def _refused(*_: Any) -> Any:
    raise NotAlike("refused by a test")


def test_lengths_that_take_another_way_are_traced_one_by_one(tmp_path: Path) -> None:
    config = transformers.MistralConfig(
        vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, sliding_window=150,
    )  # fmt: skip
    config.save_pretrained(tmp_path)

    found = measured(row(str(tmp_path), max_length=300))

    assert (found.outcome, found.reason) == ("ok", None)
    assert found.metrics["peak_reserved_bytes"]


def test_too_many_micro_batches_that_are_not_alike_are_refused(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "template", _refused)
    monkeypatch.setattr(fake, "MOST_EVENTS", 1000)

    found = measured(row(directory))

    assert found.outcome == "unavailable"
    assert found.reason == (
        "refused by a test, and it would take minutes to trace 4 micro-batches one by one; ask for fewer samples, or use "
        "a GPU"
    )


def test_a_row_that_does_not_fit_is_out_of_memory_and_says_what_was_reached(process: Process, directory: str) -> None:
    needed = process.metrics["peak_reserved_bytes"][0]  # type: ignore[index]

    found = measured(row(directory), memory_bytes=needed - 2**20)

    assert found.outcome == "oom"
    assert found.reason is not None
    assert found.reason.startswith("CUDA out of memory. Tried to allocate ")
    assert found.metrics["peak_reserved_bytes"][0] < needed  # type: ignore[index]


def test_a_row_fits_a_card_of_just_its_size(process: Process, directory: str) -> None:
    (needed,) = process.metrics["peak_reserved_bytes"]  # type: ignore[misc]

    assert measured(row(directory), memory_bytes=needed).outcome == "ok"


def test_a_miniature_that_does_not_run_costs_its_counts_and_not_the_row(tmp_path: Path) -> None:
    scaling = {"rope_type": "longrope", "long_factor": [1.0] * 4, "short_factor": [1.0] * 4}
    config = transformers.Phi3Config(
        vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, pad_token_id=0, rope_scaling=scaling,
    )  # fmt: skip
    config.save_pretrained(tmp_path)

    found = measured(row(str(tmp_path)))

    assert found.outcome == "ok"
    assert found.missing["python_calls_per_sample"].startswith("the miniature cannot be run: ")


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({"loop": "trainer"}, "loop='trainer' cannot be traced"),
        ({"num_gpus": 2, "parallelism": "ddp"}, "parallelism='ddp' cannot be traced"),
        ({"attention": "flash3"}, "attention flash3 cannot be traced"),
        ({"model": "./nowhere"}, "model './nowhere': there is no file nowhere/config.json"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_traced_says_so_in_a_sentence(directory: str, axes: dict[str, Any], told: str) -> None:
    found = measured(row(directory, **axes))

    assert found.outcome == "unavailable"
    assert (found.reason or "").startswith(told)


@pytest.mark.parametrize(
    ("what", "operator", "function"),
    [
        ("item", "aten._local_scalar_dense.default", "<lambda>"),
        ("if", "aten._local_scalar_dense.default", "_branches"),
        ("mask", "aten.nonzero.default", "<lambda>"),
        ("nonzero", "aten.nonzero.default", "<lambda>"),
        ("operator", "fake_steps.no_shape.default", "<lambda>"),
        ("numpy", "numpy", "<lambda>"),
    ],
)
def test_a_step_that_asks_for_a_value_is_told_by_operator_and_line(what: str, operator: str, function: str) -> None:
    found = measured(custom("asking", what=what))

    assert found.outcome == "unavailable"
    assert (found.reason or "").startswith("cannot be traced without a GPU: ")
    assert operator in (found.reason or "")
    assert f" in fake_steps.py:{function}, line " in (found.reason or "")


def test_a_loop_without_end_is_told_by_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storages.__init__, "__defaults__", (100,))

    found = measured(custom("looping"))

    assert found.outcome == "unavailable"
    assert "more than 100 times a tensor comes or goes" in (found.reason or "")
    assert " in fake_steps.py:looping.<locals>.step, line " in (found.reason or "")


def test_a_step_without_a_model_is_traced() -> None:
    found = measured(custom("plain"))

    assert (found.outcome, found.reason) == ("ok", None)
    assert found.metrics["tokens_per_sample"] == 7
    assert found.metrics["samples_per_micro_batch"] == ROWS
    assert found.missing["parameters"]
    assert found.missing["python_calls_per_sample"].startswith("a step of the user's own has no miniature")


def test_a_step_that_accumulates_is_traced_in_whole_optimizer_steps() -> None:
    found = measured(custom("Accumulating"))

    assert found.outcome == "ok"
    assert isinstance(found.profile, Profile)
    assert found.profile.samples_per_step == 3
    assert found.metrics["parameters"] == WIDTH**2 + WIDTH


def test_a_step_of_many_sizes_is_traced_call_by_call() -> None:
    small, large = (measured(custom("OfManySizes", largest=largest), samples=8) for largest in (64, 2**20))

    assert (small.outcome, large.outcome) == ("ok", "ok")
    assert large.metrics["peak_allocated_bytes"][0] - small.metrics["peak_allocated_bytes"][0] > 2**30  # type: ignore[index]


@pytest.mark.parametrize(
    ("before", "after", "metric", "place"),
    [
        pytest.param(
            {}, {"copies": 1}, "operators_per_sample", "in fake_steps.py:Block.activated", id="an-extra-clone"
        ),
        pytest.param(
            {"checkpointed": True},
            {"checkpointed": False},
            "peak_live_bytes",
            "in fake_steps.py:Block.activated",
            id="checkpointing-switched-off",
        ),
    ],
)
def test_what_was_planted_is_found_with_its_place(
    before: dict[str, Any], after: dict[str, Any], metric: str, place: str
) -> None:
    then, now = (measurement(custom("plain", **arguments)) for arguments in (before, after))

    most, *_ = movers(METRICS[metric], then, now, more=True)

    assert place in str(most)


def test_a_traced_row_says_the_same_when_it_is_traced_again() -> None:
    one, other = (measured(custom("plain")) for _ in range(2))

    assert one.metrics == other.metrics
    assert one.profile == other.profile


ROWS_OF_STEPS = """
from pytest_llmbench import Case

def test_speed(llmbench):
    llmbench(Case.custom("fake_steps:plain", name="plain"))
"""


@pytest.fixture
def bench(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Runs of one row on the fake device."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(test_rows=ROWS_OF_STEPS)

    def run(*options: str) -> pytest.RunResult:
        return forked.run_forked(pytester, "--llmbench", "--llmbench-device=fake", "--llmbench-samples=2", *options)

    return run


def test_a_row_that_was_recorded_is_unchanged_however_often_it_is_judged(
    bench: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    bench("--llmbench-missing=record").assert_outcomes(passed=1)

    for _ in range(2):
        judged = bench("--llmbench-strict")
        judged.assert_outcomes(passed=1)
        judged.stdout.fnmatch_lines(["llmbench: 1 unchanged; *"])

    assert [path.parent.name for path in Path(pytester.path, "baselines").glob("*/*.json")] == ["fake"]


def test_a_card_that_is_too_small_is_a_baseline_of_its_own_and_stays_green(
    bench: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    bench("--llmbench-memory=48MiB", "--llmbench-missing=record").assert_outcomes(passed=1)

    judged = bench("--llmbench-memory=48MiB", "--llmbench-strict")

    judged.assert_outcomes(passed=1)
    assert [path.parent.name for path in Path(pytester.path, "baselines").glob("*/*.json")] == ["fake-0-05-gib"]
    (path,) = Path(pytester.path, "baselines").glob("*/*.json")
    assert '"oom"' in path.read_text()
