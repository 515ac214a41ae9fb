"""What tensors do, by operator and place, and which of them are alive."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytest_llmbench.probes.operations import BEFORE, LISTED, REST, Asked, Done, OperationRecorder, shares

CPU = torch.device("cpu")
MEGABYTE = 1_000_000
HERE = f"{__name__.replace('.', '/')}.py"


def recorded(step: Callable[[], Any], optimizer_step: Callable[[], Any] = lambda: None) -> OperationRecorder:
    with OperationRecorder(CPU) as recorder:
        recorder.begin()
        step()
        recorder.boundary()
        optimizer_step()
        recorder.end()
    return recorder


def of(operator: str, recorder: OperationRecorder) -> dict[str, Done]:
    """What the operator did, by function of this file or name of a node."""
    return {
        asked.place.removeprefix(f"{HERE}:"): done
        for asked, done in recorder.micro_batches.items()
        if asked.operator == f"aten::{operator}"
    }


def megabytes(count: int) -> Tensor:
    return torch.empty(count * MEGABYTE, dtype=torch.uint8)


def alive_at_peak(recorder: OperationRecorder) -> dict[str, int]:
    memory = recorder.memory
    peak = memory.peak(CPU, memory.position()[CPU])
    return {str(asked): size for asked, size in memory.live(CPU, peak.position).items()}


def doubled(x: Tensor) -> Tensor:
    return x + x


class Doubled(nn.Module):  # type: ignore[misc]  # where torch is not installed
    def forward(self, x: Tensor) -> Tensor:
        return doubled(x)


def test_an_operator_is_counted_at_the_function_that_asked_for_it() -> None:
    module, x = Doubled(), torch.ones(4)

    recorder = recorded(lambda: [module(x) for _ in range(3)])

    assert {place: done.count for place, done in of("add", recorder).items()} == {"doubled": 3}


def test_a_backward_operator_is_counted_at_the_function_of_its_forward_operator() -> None:
    left, right = torch.ones(5, 5, requires_grad=True), torch.ones(5, 5)

    def product() -> Tensor:
        return left @ right

    recorder = recorded(lambda: doubled(product()).sum().backward())

    counts = {place.rpartition(".")[2]: done.count for place, done in of("mm", recorder).items()}
    assert counts == {"product": 2}


def test_what_is_computed_again_in_a_backward_pass_is_counted_at_its_function_and_marked() -> None:
    x = torch.ones(5, 5, requires_grad=True)

    def product(x: Tensor) -> Tensor:
        return (x @ x).sin()

    recorder = recorded(lambda: checkpoint(product, x, use_reentrant=False).sum().backward())

    (done,) = of("mm", recorder).values()
    assert (done.count, done.flops, done.recomputed_flops) == (4, 4 * 250, 250)


def test_micro_batches_and_optimizer_step_are_counted_apart() -> None:
    x = torch.ones(4)

    recorder = recorded(lambda: doubled(x), lambda: x * x)

    assert [asked.operator for asked in recorder.micro_batches] == ["aten::add"]
    assert [asked.operator for asked in recorder.optimizer_step] == ["aten::mul"]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(lambda x: x + x, 3 * 400, id="two-read-one-written"),
        pytest.param(lambda x: x.view(10, 10), 0, id="a-view-moves-nothing"),
        pytest.param(torch.empty_like, 0, id="memory-that-nothing-is-written-to"),
        pytest.param(lambda x: x[:1].expand(100).clone(), 4 + 400, id="one-value-read-again-and-again"),
        pytest.param(lambda x: x.index_select(0, torch.tensor([1, 2])), 2 * 8, id="what-is-chosen"),
    ],
)
def test_moved_bytes_are_what_the_shapes_say(step: Callable[[Tensor], Tensor], expected: int) -> None:
    x = torch.ones(100)
    recorder = recorded(lambda: step(x))

    assert sum(done.moved_bytes for asked, done in recorder.micro_batches.items() if "lift" not in asked.operator) in (
        expected,
        expected + 16,  # the indices are a tensor that is copied
    )


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda x: x.sum().item(), id="item"),
        pytest.param(lambda x: bool((x > 0).any()), id="bool"),
        pytest.param(lambda x: float(x[0]), id="float"),
        pytest.param(lambda x: x.nonzero(), id="nonzero"),
        pytest.param(lambda x: x[x > 0], id="mask"),
        pytest.param(lambda x: x.masked_select(x > 0), id="masked_select"),
        pytest.param(lambda x: torch.equal(x, x + 0), id="equal"),
        pytest.param(lambda x: x.unique(), id="unique"),
    ],
)
def test_a_value_that_the_host_needs_is_one_read(step: Callable[[Tensor], Any]) -> None:
    x = torch.ones(4)

    assert sum(done.reads for done in recorded(lambda: step(x)).micro_batches.values()) == 1


def test_what_the_host_does_not_need_is_no_read() -> None:
    x = torch.ones(4)

    recorder = recorded(lambda: torch.where(x > 0, x, -x)[torch.tensor([0, 1])].softmax(0))

    assert not any(done.reads for done in recorder.micro_batches.values())


def test_flops_of_attention_on_the_cpu_are_counted() -> None:
    q = torch.ones(2, 3, 8, 4)

    recorder = recorded(lambda: nn.functional.scaled_dot_product_attention(q, q, q))

    assert sum(done.flops for done in recorder.micro_batches.values()) == 2 * (2 * 2 * 3 * 8 * 8 * 4)


def test_tensors_that_are_alive_together_are_named_by_operator_and_place() -> None:
    alive = alive_at_peak(recorded(lambda: [megabytes(3), megabytes(4)]))

    assert alive[f"aten::empty in {HERE}:megabytes"] == 7 * MEGABYTE


def test_what_was_given_back_before_the_peak_is_no_part_of_it() -> None:
    def step() -> Tensor:
        megabytes(3)
        return megabytes(4)

    assert alive_at_peak(recorded(step))[f"aten::empty in {HERE}:megabytes"] == 4 * MEGABYTE


def test_the_peak_counts_what_was_there_before() -> None:
    before = torch.ones(MEGABYTE)

    assert alive_at_peak(recorded(lambda: megabytes(1)))[BEFORE] >= before.nbytes


def test_what_a_step_leaves_behind_is_named() -> None:
    kept: list[Tensor] = []
    with OperationRecorder(CPU) as recorder:
        kept.append(megabytes(1))
        first = recorder.memory.settled()
        kept.append(megabytes(2))
        doubled(kept[0])
        second = recorder.memory.settled()

    assert recorder.memory.between(CPU, first[CPU], second[CPU]) == {
        Asked("aten::empty", f"{HERE}:megabytes"): 2 * MEGABYTE
    }


def test_a_graph_that_somebody_holds_is_named_by_the_place_of_its_end() -> None:
    weight = torch.ones(4, requires_grad=True)

    with OperationRecorder(CPU) as recorder:
        held = doubled(weight * 3)
        left = recorder.graph_left()
        del held
        gc.collect()

    assert left == Asked("graph up to AddBackward0", f"{HERE}:doubled")
    assert recorder.graph_left() is None


def test_what_only_a_cycle_holds_is_not_left_behind() -> None:
    def step() -> None:
        cycle: list[Any] = [megabytes(1)]
        cycle.append(cycle)

    gc.disable()
    try:
        with OperationRecorder(CPU) as recorder:
            first = recorder.memory.settled().get(CPU, 0)
            step()
            second = recorder.memory.settled()[CPU]
    finally:
        gc.enable()

    assert recorder.memory.between(CPU, first, second) == {}


def test_on_another_device_nothing_is_alive() -> None:
    gpu = torch.device("cuda", 0)

    assert recorded(lambda: megabytes(1)).memory.peak(gpu, 100).bytes == 0


def test_small_origins_are_one() -> None:
    alive = {Asked(f"aten::op{size}", ""): size for size in range(1, LISTED + 3)}

    *listed, rest = shares(alive)

    assert len(listed) == LISTED
    assert (rest.name, rest.bytes) == (REST, 1 + 2)


def test_an_error_in_the_pass_leaves_no_mode_on() -> None:
    with pytest.raises(ZeroDivisionError), OperationRecorder(CPU) as recorder:  # noqa: PT012 - the error is the body's
        recorder.begin()
        _ = 1 / 0

    torch.ones(1).add(1)
    assert not recorder.micro_batches


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_backward_pass_of_a_gpu_is_counted_at_the_functions_of_its_forward_pass() -> None:
    gpu = torch.device("cuda", 0)
    left, right = (torch.ones(5, 5, device=gpu, requires_grad=needs) for needs in (True, False))

    def product() -> Tensor:
        return left @ right

    with OperationRecorder(gpu) as recorder:
        recorder.begin()
        doubled(product()).sum().backward()
        recorder.end()

    assert {place.rpartition(".")[2]: done.count for place, done in of("mm", recorder).items()} == {"product": 2}


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_from_a_gpu_to_the_host_is_a_read() -> None:
    x = torch.ones(4, device="cuda")

    with OperationRecorder(torch.device("cuda", 0)) as recorder:
        recorder.begin()
        x.cpu()
        x.tolist()
        recorder.end()

    assert sum(done.reads for done in recorder.micro_batches.values()) == 2
