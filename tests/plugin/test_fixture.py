"""The `llmbench` fixture as tests use it, beside calling it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

CASE = "Case.custom('m:f', name='a')"


def test_measuring_alone_judges_nothing(bench: Bench) -> None:
    bench.test(f"def test_own(llmbench): assert llmbench.measure({CASE}).outcome == 'ok'")

    run = bench.run()

    run.assert_outcomes(passed=1)
    assert bench.asked() == ["a"]
    assert bench.result_files() == []


def test_calling_it_returns_the_measurement(bench: Bench) -> None:
    bench.test(f"def test_own(llmbench): assert llmbench({CASE}).processes[0].metrics['samples_per_second'] == 2.0")

    bench.run("--llmbench-missing=record").assert_outcomes(passed=1)


def test_a_test_without_parameters_is_the_one_row_of_its_table(bench: Bench) -> None:
    bench.test(f"def test_own(llmbench): llmbench({CASE})")

    bench.run("--llmbench-missing=record")

    assert list(bench.baseline("own").rows) == ["own"]


def test_a_test_in_a_class_is_named_by_its_function(bench: Bench) -> None:
    bench.test(f"class TestBench:\n    def test_own(self, llmbench): llmbench({CASE})")

    bench.run("--llmbench-missing=record")

    assert list(bench.baseline("own").rows) == ["own"]


def test_a_measurement_can_be_checked_as_another_row(bench: Bench) -> None:
    bench.test(f"def test_own(llmbench): llmbench.check(llmbench.measure({CASE}), row='first')")

    bench.run("--llmbench-missing=record").assert_outcomes(passed=1)

    assert list(bench.baseline("own").rows) == ["first"]


def test_each_result_has_the_seconds_of_its_own_measurement(bench: Bench) -> None:
    bench.answer("slow", seconds=0.2)
    bench.test(
        """
def test_own(llmbench):
    slow, fast = (llmbench.measure(Case.custom("m:f", name=name)) for name in ("slow", "fast"))
    llmbench.check(slow, row="slow")
    llmbench.check(fast, row="fast")
"""
    )

    bench.run("--llmbench-missing=record")

    slow, fast = (result.seconds or 0.0 for result in bench.results())
    assert slow >= 0.2 > fast > 0


def test_what_a_fixture_of_the_user_measures_counts_too(bench: Bench) -> None:
    bench.test(
        f"""
@pytest.fixture
def measured(llmbench):
    return llmbench({CASE})

def test_own(measured):
    assert measured.outcome == "ok"
"""
    )

    run = bench.run("--llmbench-missing=record")

    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines(["llmbench [[]1/1] own[[]own]: ok, recorded*"])
    assert [result.row for result in bench.results()] == ["own"]


def test_a_measurement_from_elsewhere_can_be_checked_and_is_written_down(bench: Bench) -> None:
    bench.test(
        f"""
import msgspec

def test_own(llmbench):
    elsewhere = msgspec.structs.replace(llmbench.measure({CASE}), measured_at="2026-11-23T10:00:00+00:00")
    llmbench.check(elsewhere)
"""
    )

    bench.run("--llmbench-missing=record").assert_outcomes(passed=1)

    assert [result.seconds for result in bench.results()] == [None]


def test_a_measurement_from_elsewhere_is_judged_by_its_own_processes(bench: Bench) -> None:
    bench.test(
        f"""
import msgspec

def test_own(llmbench):
    elsewhere = msgspec.structs.replace(llmbench.measure({CASE}), measured_at="2026-11-23T10:00:00+00:00")
    llmbench.check(elsewhere)
"""
    )
    bench.record()
    bench.answer("a", metrics={"samples_per_second": 1.0})

    bench.run().assert_outcomes(failed=1)

    assert bench.asked() == ["a"]


def test_an_equal_copy_of_a_measurement_is_confirmed_as_the_original_is(bench: Bench) -> None:
    bench.test(
        f"""
import msgspec

def test_own(llmbench):
    measurement = llmbench.measure({CASE})
    copy = msgspec.json.decode(msgspec.json.encode(measurement), type=type(measurement))
    assert copy is not measurement
    llmbench.check(copy)
"""
    )
    bench.record()
    bench.answers("a", {"metrics": {"samples_per_second": 1.0}}, {})

    bench.run().assert_outcomes(passed=1)

    assert bench.asked() == ["a"] * 5
    (result,) = bench.results()
    assert (result.verdict.status, len(result.measurement.processes)) == ("unchanged", 5)
    assert result.verdict.reason.endswith("; with 4 more processes")


def test_results_before_the_failing_one_are_kept(bench: Bench) -> None:
    bench.test(
        """
def test_own(llmbench):
    for name in ("a", "b", "c"):
        llmbench.check(llmbench.measure(Case.custom("m:f", name=name)), row=name)
"""
    )
    bench.record()
    bench.answer("b", metrics={"samples_per_second": 1.0})

    bench.run().assert_outcomes(failed=1)

    assert [(result.row, result.decision) for result in bench.results()] == [("a", "pass"), ("b", "fail")]


def test_two_tests_of_one_row_are_pointed_out(bench: Bench) -> None:
    bench.test(
        f"""
class TestOne:
    def test_own(self, llmbench): llmbench({CASE})

class TestTwo:
    def test_own(self, llmbench): llmbench({CASE})
"""
    )

    run = bench.run("--llmbench-missing=record")

    run.stdout.fnmatch_lines(
        ["llmbench: test_own.py::TestOne::test_own and test_own.py::TestTwo::test_own are one row of table 'own'; *"]
    )


def test_the_names_users_type_can_be_imported_at_once(bench: Bench) -> None:
    bench.pytester.makepyfile(
        "from pytest_llmbench import TABLES, Case, CaseError, Llmbench, Measurement, StepResult, __version__\n"
        "def test_names(): assert StepResult(1).samples == 1 and len(TABLES) == 7"
    )

    bench.run().assert_outcomes(passed=1)
