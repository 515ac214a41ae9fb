"""The trace of a step: a file that trace viewers read, with the operators that ran."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from pytest_llmbench.probes.trace import TraceRecorder, snapshot_path


def record(path: Path) -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    optimizer = torch.optim.AdamW([weight])
    recorder = TraceRecorder(path, lambda: None)
    with recorder:
        recorder.begin()
        (weight @ weight).sum().backward()
        recorder.boundary()
        optimizer.step()
        recorder.end()


def test_the_trace_has_the_operators_and_the_optimizer_step(tmp_path: Path) -> None:
    record(tmp_path / "new" / "trace.json")

    names = {event.get("name") for event in json.loads((tmp_path / "new" / "trace.json").read_text())["traceEvents"]}
    assert "aten::mm" in names
    assert any(name and name.startswith("Optimizer.step#AdamW") for name in names)


def test_a_name_that_ends_in_gz_is_compressed(tmp_path: Path) -> None:
    record(tmp_path / "trace.json.gz")

    assert json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]


def test_an_error_in_the_step_leaves_no_profiler_running(tmp_path: Path) -> None:
    def failing_step() -> None:
        with TraceRecorder(tmp_path / "a.json", lambda: None) as recorder:
            recorder.begin()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_step()

    record(tmp_path / "b.json")

    assert not (tmp_path / "a.json").exists()
    assert (tmp_path / "b.json").exists()


def test_the_allocators_history_lies_beside_the_trace() -> None:
    assert snapshot_path(Path("out/trace.json")) == Path("out/trace.memory.pickle")


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_allocators_history_is_written(tmp_path: Path) -> None:
    record(tmp_path / "trace.json")

    assert snapshot_path(tmp_path / "trace.json").stat().st_size > 0
