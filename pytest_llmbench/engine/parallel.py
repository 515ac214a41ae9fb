"""
The same fine-tuning on several ranks at once: replicated by DDP, or sharded by FSDP.

Each rank is a process with a device of its own that has joined torch's default process group. It runs
as many micro-batches as the case alone would, of the same lengths; gradients are averaged over the
ranks once per optimizer step, as `transformers.Trainer` has it by default. Under FSDP each rank
therefore holds the gradients of all trained parameters until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pytest_llmbench.engine.adapters import attach
from pytest_llmbench.engine.attention import check_available, effective_attention
from pytest_llmbench.engine.loop import Ran, SelfDriven, Watch, drive
from pytest_llmbench.engine.models import WEIGHT_SEED, architecture_of, build_model, draw, enable_checkpointing
from pytest_llmbench.engine.models.hub import checkpoint
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.training import SEED, FineTuning, make_fine_tuning
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Workload

__all__ = ["RankedTraining", "build_parallel"]

Synchronising = Callable[[bool], AbstractContextManager[None]]
"""Around one micro-batch: whether its backward pass averages the gradients over the ranks."""


class RankedTraining(SelfDriven):
    """
    One rank's share of a fine-tuning; every rank has to run the same steps.

    It drives itself because the last micro-batch of a step differs from the others: only there the
    ranks wait for each other.
    """

    def __init__(self, bare: FineTuning, model: nn.Module, synchronising: Synchronising) -> None:
        super().__init__(bare)
        self.model = model
        self.optimizer_step = bare.optimizer_step
        self._bare = bare
        self._synchronising = synchronising
        self._begun = self._per_step = 0

    def run(self, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
        self._begun, self._per_step = 0, len(steps[0])
        ran = drive(self, steps, watch)
        if isinstance(ran.grad_norm, DTensor):  # no rank knows it alone; the clock has stopped
            return ran._replace(grad_norm=ran.grad_norm.full_tensor())
        return ran

    def micro_step(self, index: int) -> StepResult:
        self._begun += 1
        with self._synchronising(self._begun % self._per_step == 0):
            return self._bare.micro_step(index)


def build_parallel(case: Case, workload: Workload, device: torch.device) -> RankedTraining:
    """
    This rank's share of a case with `parallelism` `ddp` or `fsdp`, on *device*.

    Under DDP all ranks start from the weights of the case on one GPU. Under FSDP the weights are of
    the same distribution, and no rank ever holds more of them than its shard, the largest block and
    what is in no block.

    Raises:
        Unavailable: a part of the case cannot be built here.
    """
    if case.loop == "trainer":
        raise Unavailable(f"loop='trainer' with parallelism={case.parallelism!r} is not built in; use loop='step'")
    torch.manual_seed(SEED)
    alone = msgspec.structs.replace(case, num_gpus=1, parallelism="split")
    if case.parallelism == "ddp":
        model: Any = attach(build_model(alone, workload, device), alone, architecture_of(case.model, workload.scale))
        if case.gradient_checkpointing:
            enable_checkpointing(model)
        wrapped: Any = DistributedDataParallel(model)
        synchronising = _only_last(wrapped.no_sync)
    else:
        model = wrapped = _sharded(alone, workload, device)
        synchronising = _by_flag(wrapped)
    torch.manual_seed(SEED + dist.get_rank())  # of dropout, once the adapters are drawn
    bare = make_fine_tuning(wrapped, case, workload, device, rank=dist.get_rank())
    return RankedTraining(bare, model, synchronising)


def _only_last(without: Callable[[], AbstractContextManager[None]]) -> Synchronising:
    return lambda last: nullcontext() if last else without()


def _by_flag(sharded: Any) -> Synchronising:
    def synchronising(last: bool) -> AbstractContextManager[None]:
        sharded.set_requires_gradient_sync(last)
        return nullcontext()

    return synchronising


def _sharded(case: Case, workload: Workload, device: torch.device) -> nn.Module:
    """The case's model with adapters, each of its blocks sharded over all ranks by itself, and the rest together."""
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise Unavailable(
            f"parallelism='fsdp' needs fully_shard of torch 2.6; torch {torch.__version__} is installed"
        ) from None
    if case.quantization != "bf16":
        raise Unavailable(
            f"parallelism='fsdp' with quantization={case.quantization!r} is not built in; use parallelism='ddp'"
        )
    check_available(effective_attention(case, workload), device)
    base: Any = build_model(case, workload, "meta")
    blocks = [module for module in base.modules() if type(module).__name__ in (base._no_split_modules or ())]
    if not blocks:
        raise Unavailable(f"{type(base).__name__} has no _no_split_modules, by which its blocks are sharded")
    weights = _Weights(base, case, workload, device)
    model: nn.Module = attach(base, case, architecture_of(case.model, workload.scale))
    if case.gradient_checkpointing:
        enable_checkpointing(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        weights.fill(block)
        fully_shard(block, mesh=mesh)
    weights.fill(model)
    base.tie_weights()  # a head that is the embedding has become another parameter
    fully_shard(model, mesh=mesh)
    return model


class _Weights:
    """Gives the parameters of a model without memory their values, the same ones on every rank."""

    def __init__(self, model: nn.Module, case: Case, workload: Workload, device: torch.device) -> None:
        pretrained = case.weights == "pretrained" and workload.scale == "full"
        self._stored = checkpoint(case.model, torch.bfloat16) if pretrained else {}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._generator = torch.Generator(device).manual_seed(WEIGHT_SEED)
        self._device = device

    def fill(self, part: nn.Module) -> None:
        """All parameters of *part* that have no memory yet, and all its buffers."""
        for prefix, module in part.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.is_meta:
                    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=self._device)
                    self._draw(f"{prefix}.{name}", parameter, values)
                    setattr(module, name, nn.Parameter(values, requires_grad=parameter.requires_grad))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self._device))

    def _draw(self, place: str, parameter: nn.Parameter, values: Tensor) -> None:
        name = self._names.get(id(parameter))
        if name in self._stored:
            values.copy_(self._stored[name])
        elif name is None:  # an adapter, as peft draws it: the second factor is 0
            bound = 0.0 if ".lora_B." in place else values.shape[1] ** -0.5
            values.uniform_(-bound, bound, generator=self._generator)
        else:
            draw(values, place.rpartition(".")[2], self._generator)
