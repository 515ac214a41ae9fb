"""A case that outlasts its deadline is ended with everything it started."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.process.conftest import Bench


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (
            "hang",
            r"no answer within 1.00 s, [01].\d\d s of them in phase 'warm-up'; it was at process/steps.py:\d+ in hang",
        ),
        ("hang_in_c", r"no answer within 1.00 s, before its first phase; it was at process/steps.py:\d+ in hang_in_c"),
        ("stopped", r"no answer within 1.00 s, before its first phase"),
        ("hang_with_descendants", r"no answer within 1.00 s, .* in phase 'warm-up'"),
    ],
)
def test_a_hang_times_out_and_nothing_stays(new_bench: Callable[..., Bench], step: str, reason: str) -> None:
    bench = new_bench(timeout_seconds=1.0)

    measurement = bench.run(step)

    assert measurement.outcome == "timeout"
    assert re.match(reason, measurement.reason or ""), measurement.reason
    assert bench.survivors() == []
    assert bench.announced == []


def test_imports_are_not_part_of_the_deadline(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(timeout_seconds=1.0, measure="slow_to_import:measure")

    assert bench.run("clean").outcome == "ok"


def test_a_deadline_begins_when_all_is_imported(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(timeout_seconds=1.0, measure="slow_to_import:measure")

    assert (bench.run("hang").reason or "").startswith("no answer within 1.00 s, ")


def test_the_server_outlives_a_hang(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(timeout_seconds=1.0)
    bench.run("hang")
    before = bench.servers()

    assert bench.run("clean").outcome == "ok"
    assert bench.servers() == before
