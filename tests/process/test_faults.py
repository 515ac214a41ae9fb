"""Whatever becomes of a measuring process is an outcome with a reason, and nothing of it stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.process.conftest import Bench


@pytest.mark.parametrize(
    ("step", "outcome", "reason"),
    [
        ("killed", "crashed", r"killed by SIGKILL \(the out-of-memory killer does that\)"),
        (
            "segmentation_fault",
            "crashed",
            r"killed by SIGSEGV; it was at \S+:\d+ in string_at <- \S*steps.py:\d+ in seg",
        ),
        ("exit_status_0", "crashed", r"exited with status 0 without an answer"),
        ("exit_status_3", "crashed", r"exited with status 3 without an answer; its last output:\nthe last words"),
        ("system_exit", "crashed", r"SystemExit: 3 \(at process/steps.py:\d+ in system_exit"),
        (
            "value_error",
            "crashed",
            r"ValueError: a rank of \\udcff is none \(at process/steps.py:\d+ in value_error <- ",
        ),
        ("missing_library", "unavailable", r"liger_kernel cannot .*; pip install 'pytest-llmbench\[liger\]'"),
        ("missing_name", "crashed", r"ImportError: cannot import name 'LoraConfig' from 'peft' \(at .*missing_name"),
        ("missing_other", "crashed", r"ModuleNotFoundError: No module named 'no_such_module_of_the_user'"),
        ("out_of_memory", "oom", r".*OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB."),
        ("out_of_driver_memory", "oom", r"RuntimeError: CUDA error: out of memory"),
        ("loss_is_nan", "diverged", r"not finite: loss_last"),
        ("speed_is_infinite", "crashed", r"not finite: samples_per_second"),
        (
            "count_is_huge",
            "crashed",
            r"processes\[0\]\.rounds\[0\]\.samples is a number of more than 64 bits, which no",
        ),
        ("text_is_no_unicode", "crashed", r"processes\[0\]\.ran\.dtype has text that is not Unicode, which no result"),
        ("rubbish", "crashed", r"its process wrote rubbish to the channel: b'Traceback .* \(JSON is malformed"),
        ("another_kind_of_message", "crashed", r".*rubbish.*: a message of another kind: Ended"),
        ("wrong_case", "crashed", r".*rubbish.*: an answer for another case"),
        ("half_a_message", "crashed", r"exited with status 0 without an answer"),
        ("hundred_megabytes", "crashed", r".*rubbish.*: a message of more than 16 MiB"),
        ("million_lines", "crashed", r"exited with status 3 without an answer; its last output:\n(.*\n){7}the end"),
    ],
)
def test_each_fault_becomes_its_outcome(bench: Bench, step: str, outcome: str, reason: str) -> None:
    measurement = bench.run(step)

    assert outcome == measurement.outcome
    assert re.match(reason, measurement.reason or ""), measurement.reason
    assert bench.survivors() == []
    assert bench.announced == []


@pytest.mark.parametrize("step", ["killed_somewhere_known", "error_somewhere_known"])
def test_a_crash_still_tells_where_it_was(bench: Bench, step: str) -> None:
    measurement = bench.run(step)

    assert measurement.environment is not None
    assert measurement.environment.device == "a device of tests"


def test_the_suite_goes_on_after_a_fault(bench: Bench) -> None:
    before = bench.servers()
    bench.run("segmentation_fault")

    assert bench.run("clean").outcome == "ok"
    assert before in ([], bench.servers())


def test_an_answer_counts_though_the_process_dies_after_it(bench: Bench) -> None:
    assert bench.run("crash_after_answer").outcome == "ok"


def test_whatever_follows_an_answer_is_ignored_and_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.run("chatter_after_answer").outcome == "ok"
    assert re.fullmatch(r"ignored \d+ bytes that a measuring process wrote after its answer", caplog.messages[0])


def test_a_daemon_left_behind_is_ended(bench: Bench) -> None:
    assert bench.run("daemon_left_behind").outcome == "ok"
    assert bench.survivors() == []


def test_a_measuring_function_that_cannot_be_imported_is_a_crash(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(measure="no_such_module:measure")

    measurement = bench.run("clean")

    assert measurement.outcome == "crashed"
    assert measurement.reason == "ModuleNotFoundError: No module named 'no_such_module'"
