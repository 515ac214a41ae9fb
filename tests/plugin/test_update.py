"""What `--llmbench-update` and `--llmbench-missing` do to tests and to the stored baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench


def test_a_row_without_a_baseline_fails(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run()

    assert run.ret == 1
    run.stdout.fnmatch_lines(
        ["speed[[]a]: no baseline is stored for this row; record one with --llmbench-update=missing"]
    )
    assert not bench.baseline_path().exists()


def test_a_row_without_a_baseline_is_skipped_after_measuring_where_that_is_asked_for(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run("--llmbench-missing=skip")

    run.assert_outcomes(skipped=1)
    assert [result.decision for result in bench.results()] == ["skip"]
    assert not bench.baseline_path().exists()


@pytest.mark.parametrize("option", ["--llmbench-missing=record", "--llmbench-update=missing"])
def test_a_row_without_a_baseline_is_recorded_where_that_is_asked_for(bench: Bench, option: str) -> None:
    bench.rows("a")

    run = bench.run(option)

    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines(["*llmbench*1 recorded*"])
    row = bench.baseline().rows["a"]
    assert row.recorded_because == f"recorded by {option}"
    assert row.processes[0].metrics["samples_per_second"] == 2.0
    (result,) = bench.results()
    assert result.recorded
    assert result.message == "recorded in baselines/test-gpu/speed.json"


def test_a_recorded_row_passes_the_next_run(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.record()

    run = bench.run()

    run.assert_outcomes(passed=2)
    assert [result.verdict.status for result in bench.results()] == ["unchanged", "unchanged"]


def test_the_reason_is_stored(bench: Bench) -> None:
    bench.rows("a")

    bench.run("--llmbench-update=missing", "--llmbench-reason=new card")

    assert bench.baseline().rows["a"].recorded_because == "new card"


SLOWER = {"samples_per_second": 1.0}
FASTER = {"samples_per_second": 4.0}


@pytest.mark.parametrize(
    ("mode", "recorded"),
    [
        ("missing", {"new"}),
        ("failing", {"new", "slower"}),
        ("moved", {"new", "slower", "faster"}),
        ("all", {"new", "slower", "faster", "same"}),
    ],
)
def test_a_mode_records_what_it_says(bench: Bench, mode: str, recorded: set[str]) -> None:
    bench.rows("slower", "faster", "same")
    bench.record()
    bench.rows("slower", "faster", "same", "new")
    bench.answer("slower", metrics=SLOWER)
    bench.answer("faster", metrics=FASTER)

    run = bench.run(f"--llmbench-update={mode}")

    stored = {name for name, row in bench.baseline().rows.items() if row.recorded_because.endswith(f"={mode}")}
    assert stored == recorded
    assert run.ret == (0 if "slower" in recorded else 1)


def test_a_slower_row_fails_and_leaves_its_baseline_alone(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    before = bench.baseline_path().read_bytes()
    bench.answer("a", metrics=SLOWER)

    run = bench.run()

    assert run.ret == 1
    run.stdout.fnmatch_lines(
        ["speed[[]a]: samples_per_second 2 -> 1 1/s, -50.0 % (*, limit -6.0 %), higher is better.*"]
    )
    assert bench.baseline_path().read_bytes() == before


def test_a_failure_names_the_packages_that_are_new(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", metrics=SLOWER, packages={"torch": "2.12.0", "peft": "0.21.0"})

    run = bench.run()

    run.stdout.fnmatch_lines(
        ["speed[[]a]: samples_per_second*Packages: torch 2.11.0 -> 2.12.0; peft, driver of the same version."]
    )


@pytest.mark.parametrize("option", ["--llmbench-missing=record", "--llmbench-update=missing", "--llmbench-update=all"])
def test_a_run_with_a_planted_fault_refuses_to_record(bench: Bench, option: str) -> None:
    bench.rows("a")

    run = bench.run(option, "--llmbench-inject=host=50%")

    assert run.ret == 1
    run.stdout.fnmatch_lines(
        [
            "*planted in every step: host=50%; nothing will be recorded",
            "speed, row 'a' is not recorded: host=50% was planted in it*",
        ]
    )
    assert not bench.baseline_path().exists()


def test_a_row_that_crashes_before_it_has_a_baseline_has_none_and_fails(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", outcome="crashed")

    run = bench.run("--llmbench-missing=record")

    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["speed[[]a]: crashed: a canned crashed; no baseline is stored for this row"])
    run.stdout.fnmatch_lines(["llmbench: 1 no baseline; *"])


@pytest.mark.parametrize("outcome", ["crashed", "timeout", "diverged", "invalid", "unavailable"])
def test_what_did_not_end_well_is_never_recorded(bench: Bench, outcome: str) -> None:
    bench.rows("a")
    bench.answer("a", outcome=outcome)

    bench.run("--llmbench-update=all", "--llmbench-missing=record")

    assert not bench.baseline_path().exists()


def test_running_out_of_memory_can_be_the_baseline(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", outcome="oom")
    bench.record()

    assert bench.run().ret == 0
    bench.answer("a")
    bench.forget()
    assert bench.run().ret == 0
    assert [result.verdict.status for result in bench.results()] == ["improved"]


def test_an_unavailable_row_is_skipped_where_it_has_no_baseline(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", outcome="unavailable")

    run = bench.run("-rs")

    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["SKIPPED*unavailable: a canned unavailable"])


def test_an_unavailable_row_fails_where_it_has_a_baseline(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", outcome="unavailable")

    bench.run().assert_outcomes(failed=1)


def test_rows_with_a_baseline_that_were_not_run_are_listed(bench: Bench) -> None:
    bench.rows("a", "b", "c")
    bench.record()

    run = bench.run("test_rows.py::test_speed[a]")

    run.stdout.fnmatch_lines(["llmbench: speed: not run, of 3 rows with a baseline: b, c"])


def test_a_row_that_crashed_counts_as_run(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.record()
    bench.answer("b", outcome="crashed", device=None)

    run = bench.run()

    run.stdout.no_fnmatch_line("*not run*")


def test_tables_with_a_baseline_of_which_nothing_was_run_are_named(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.record()
    bench.pytester.makepyfile(
        test_rows='def test_other(llmbench): llmbench(__import__("pytest_llmbench").Case.custom("s:b", name="o"))'
    )

    run = bench.run("--llmbench-missing=skip")

    run.stdout.fnmatch_lines(["llmbench: tables with a baseline of which no row was run: test-gpu/speed (2 rows)"])


def test_numbers_of_different_scales_never_compare(bench: Bench) -> None:
    bench.rows("a")
    bench.record()

    run = bench.run("--llmbench-scale=smoke")

    run.stdout.fnmatch_lines(["speed[[]a]: no baseline is stored for this row*"])


def test_a_baseline_that_was_copied_to_another_scale_is_not_comparable(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    smoke = bench.baseline_path(folder="test-gpu-smoke")
    smoke.parent.mkdir()
    smoke.write_bytes(bench.baseline_path().read_bytes())

    run = bench.run("--llmbench-scale=smoke")

    assert run.ret == 1
    run.stdout.fnmatch_lines(["speed[[]a]: not comparable: workload.scale full -> smoke*"])


@pytest.mark.parametrize("option", ["--llmbench-tolerance=samples_per_second=60%"])
def test_a_tolerance_of_the_run_lets_a_row_pass(bench: Bench, option: str) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", metrics=SLOWER)

    assert bench.run(option).ret == 0


def test_a_test_that_keeps_the_former_name_of_a_row_finds_its_baseline(bench: Bench) -> None:
    bench.test(
        "@pytest.mark.parametrize('case', [Case(model='qwen-7b-chat', quantization='bnb-nf4')], ids=['qwen-7b-chat-int4-bnb'])\n"
        "def test_quantization(llmbench, case): llmbench(case)"
    )
    bench.record()
    path = bench.baseline_path("quantization")
    path.write_text(path.read_text().replace('bnb-nf4": {', 'int4-bnb": {'))
    assert "qwen-7b-chat-int4-bnb" in path.read_text()

    assert bench.run("--llmbench-strict").ret == 0
    assert bench.run("--llmbench-update=all").ret == 0
    assert list(bench.baseline("quantization").rows) == ["qwen-7b-chat-bnb-nf4"]
    assert "int4-bnb" not in path.read_text()
