"""Runs that are held against a commit: what a change edits for itself does not count, and is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from library import commit, git
from tests.plugin.conftest import has_line, summary_of

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

REF = "--llmbench-baseline-ref=HEAD"
WORSE = {"metrics": {"peak_reserved_bytes": (8 * 2**30,)}}
"""An answer that the baselines of `committed` do not let pass."""
LAX = "[pytest]\nllmbench_tolerance = peak_reserved_bytes=300%\n"


@pytest.fixture
def committed(bench: Bench) -> Bench:
    """Rows `a` and `b` with baselines, in a commit."""
    bench.rows("a", "b")
    (bench.folder / ".gitignore").write_text("llmbench-results/\n__pycache__/\n.pytest_cache/\n*.txt\n")
    (bench.folder / "pytest.ini").write_text("[pytest]\n")
    bench.record()
    commit(bench.folder)
    return bench


def edit_rows(bench: Bench, **changes: dict[str, Any]) -> None:
    """Change fields of stored rows, as by hand."""
    path = bench.baseline_path()
    content = json.loads(path.read_text())
    for name, fields in changes.items():
        content["rows"][name].update(fields)
    path.write_text(json.dumps(content))


def peak_of(bench: Bench, row: str, peak: int) -> None:
    path = bench.baseline_path()
    content = json.loads(path.read_text())
    content["rows"][row]["processes"][0]["metrics"]["peak_reserved_bytes"] = [peak]
    path.write_text(json.dumps(content))


def test_a_run_that_changes_nothing_passes_and_names_the_commit(committed: Bench) -> None:
    run = committed.run(REF, "--llmbench-strict")

    assert run.ret == 0
    head = git(committed.folder, "rev-parse", "HEAD")
    assert has_line(run.outlines, "baselines baselines at HEAD", head[:10])
    assert not has_line(run.outlines, "differ in")


def test_the_ini_setting_does_what_the_flag_does(committed: Bench) -> None:
    committed.answer("a", **WORSE)
    peak_of(committed, "a", 8 * 2**30)

    committed.run("-o", "llmbench_baseline_ref=HEAD").assert_outcomes(passed=1, failed=1)


def test_an_edited_value_does_not_let_a_row_pass(committed: Bench) -> None:
    committed.answer("a", **WORSE)
    peak_of(committed, "a", 8 * 2**30)
    assert committed.run().ret == 0

    run = committed.run(REF)

    run.assert_outcomes(passed=1, failed=1)
    assert has_line(summary_of(run), "baselines of the working tree differ in 1 row", "llmbench baselines diff")


def test_an_edited_tolerance_does_not_let_a_row_pass(committed: Bench) -> None:
    committed.answer("a", **WORSE)
    edit_rows(committed, a={"tolerances": {"peak_reserved_bytes": {"relative": 3.0}}})
    assert committed.run().ret == 0

    committed.run(REF).assert_outcomes(passed=1, failed=1)


def test_edited_noise_does_not_let_a_row_pass(committed: Bench) -> None:
    committed.answer("a", metrics={"device_busy_seconds_per_sample": 0.3})
    wild = {"process_sd": 1.0, "process_df": 40, "session_sd": 1.0, "session_df": 40}
    edit_rows(committed, a={"noise": {"device_busy_seconds_per_sample": wild}})
    assert committed.run().ret == 0

    committed.run(REF).assert_outcomes(passed=1, failed=1)


def test_baselines_that_were_deleted_still_count(committed: Bench) -> None:
    committed.answer("a", **WORSE)
    shutil.rmtree(committed.folder / "baselines")

    run = committed.run(REF)

    run.assert_outcomes(passed=1, failed=1)
    assert has_line(summary_of(run), "differ in 2 rows")


def test_a_link_in_place_of_the_folder_leads_to_no_other_baselines(committed: Bench) -> None:
    lax = committed.folder / "lax"
    shutil.copytree(committed.folder / "baselines", lax)
    peak_of(committed, "a", 8 * 2**30)
    shutil.rmtree(lax)
    shutil.copytree(committed.folder / "baselines", lax)
    git(committed.folder, "checkout", "-q", "baselines")
    commit(committed.folder)
    shutil.rmtree(committed.folder / "baselines")
    (committed.folder / "baselines").symlink_to(lax)
    committed.answer("a", **WORSE)

    committed.run(REF).assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize("file", ["pytest.ini", "tox.ini", "pyproject.toml", "setup.cfg"])
def test_an_edited_ini_limit_does_not_count_and_is_told(committed: Bench, file: str) -> None:
    text = {
        "pyproject.toml": '[tool.pytest.ini_options]\nllmbench_tolerance = ["peak_reserved_bytes=300%"]\n',
        "setup.cfg": LAX.replace("[pytest]", "[tool:pytest]"),
    }.get(file, LAX)
    (committed.folder / "pytest.ini").unlink()
    (committed.folder / file).write_text(text)
    committed.answer("a", **WORSE)
    assert committed.run().ret == 0

    run = committed.run(REF)

    run.assert_outcomes(passed=1, failed=1)
    assert has_line(summary_of(run), "llmbench_tolerance is 'peak_reserved_bytes=300%' here and not set at HEAD")


def test_an_ini_limit_of_the_commit_counts(committed: Bench) -> None:
    (committed.folder / "pytest.ini").write_text(LAX)
    commit(committed.folder)
    (committed.folder / "pytest.ini").write_text("[pytest]\n")
    committed.answer("a", **WORSE)

    run = committed.run(REF, "--llmbench-strict")

    assert run.ret == 0
    assert has_line(summary_of(run), "llmbench_tolerance is not set here and 'peak_reserved_bytes=300%' at HEAD")


def test_a_configuration_file_nearer_to_the_tests_does_not_take_the_commits_away(committed: Bench) -> None:
    (committed.folder / "pytest.ini").write_text("[pytest]\nllmbench_strict = true\n")
    (committed.folder / "inner").mkdir()
    shutil.move(committed.folder / "test_rows.py", committed.folder / "inner" / "test_rows.py")
    commit(committed.folder)
    (committed.folder / "inner" / "pytest.ini").write_text(LAX)
    committed.answer("a", **WORSE)

    run = committed.run(REF, "--llmbench-baselines=baselines", "inner")

    run.assert_outcomes(passed=1, failed=1)
    assert has_line(summary_of(run), "llmbench_strict is 'False' here and 'True' at HEAD")


def test_other_addopts_are_told_and_fail_a_strict_run(committed: Bench) -> None:
    (committed.folder / "pytest.ini").write_text("[pytest]\naddopts = --llmbench-tolerance=peak_reserved_bytes=300%\n")

    run = committed.run(REF)
    strict = committed.run(REF, "--llmbench-strict")

    assert has_line(summary_of(run), "addopts are '--llmbench-tolerance=peak_reserved_bytes=300%' here and not set")
    assert (run.ret, strict.ret) == (0, 1)


def test_a_row_that_passes_by_a_flag_only_is_told_and_fails_a_strict_run(committed: Bench) -> None:
    committed.answer("a", **WORSE)
    wide = "--llmbench-tolerance=peak_reserved_bytes=300%"

    run = committed.run(REF, wide)
    strict = committed.run(REF, wide, "--llmbench-strict")

    assert has_line(summary_of(run), "passed only by the limits of --llmbench-tolerance: speed[a]")
    assert (run.ret, strict.ret) == (0, 1)


@pytest.mark.parametrize("mark", ["xfail(strict=False)", "xfail(raises=BaseException)"])
def test_a_row_that_fails_in_a_test_that_does_not_is_told_and_fails_a_strict_run(committed: Bench, mark: str) -> None:
    committed.answer("a", **WORSE)
    test = committed.folder / "test_rows.py"
    test.write_text(test.read_text().replace("@pytest", f"@pytest.mark.{mark}\n@pytest", 1))

    run = committed.run(REF)
    strict = committed.run(REF, "--llmbench-strict")

    assert has_line(summary_of(run), "failed, and the test did not fail", "speed[a]")
    assert (run.ret, strict.ret) == (0, 1)


def test_a_failure_that_the_test_catches_fails_a_strict_run(committed: Bench) -> None:
    committed.answer("a", **WORSE)
    test = committed.folder / "test_rows.py"
    caught = "    import contextlib\n    with contextlib.suppress(BaseException):\n        llmbench("
    test.write_text(test.read_text().replace("    llmbench(", caught))

    assert committed.run(REF).ret == 0
    assert committed.run(REF, "--llmbench-strict").ret == 1


def test_a_row_that_was_deleted_is_told_and_fails_a_strict_run(committed: Bench) -> None:
    committed.rows("a")

    run = committed.run(REF)
    strict = committed.run(REF, "--llmbench-strict")

    assert has_line(summary_of(run), "no test has these rows any more", "speed[b]")
    assert (run.ret, strict.ret) == (0, 1)


def test_a_row_that_a_hook_takes_away_is_told_and_fails_a_strict_run(committed: Bench) -> None:
    committed.pytester.makeconftest("def pytest_collection_modifyitems(items): del items[1:]")

    run = committed.run(REF)
    strict = committed.run(REF, "--llmbench-strict")

    assert has_line(summary_of(run), "no test has these rows any more", "speed[b]")
    assert (run.ret, strict.ret) == (0, 1)


def test_a_row_whose_test_judges_another_one_is_told_and_fails_a_strict_run(committed: Bench) -> None:
    committed.answer("a", **WORSE)
    committed.test(
        "@pytest.mark.parametrize('name', ['a', 'b'])\n"
        "def test_speed(llmbench, name):\n"
        "    llmbench.check(llmbench.measure(Case.custom('steps:build', name='b')), row='b')\n"
    )
    (committed.folder / "test_rows.py").unlink()

    run = committed.run(REF)
    strict = committed.run(REF, "--llmbench-strict")

    assert has_line(summary_of(run), "their tests judged another row in their place: speed[a]")
    assert (run.ret, strict.ret) == (0, 1)


def test_another_case_under_the_name_of_a_row_fails(committed: Bench) -> None:
    test = committed.folder / "test_rows.py"
    test.write_text(test.read_text().replace("name=name", "name='smaller'"))

    committed.run(REF).assert_outcomes(failed=2)


def test_a_row_that_is_not_chosen_is_not_taken_for_deleted(committed: Bench) -> None:
    run = committed.run(REF, "--llmbench-strict", "-k", "a")

    assert run.ret == 0
    assert not has_line(summary_of(run), "any more")


def test_a_table_that_was_renamed_is_told_and_fails_a_strict_run(committed: Bench) -> None:
    test = committed.folder / "test_rows.py"
    test.write_text(test.read_text().replace("test_speed", "test_velocity"))
    committed.answer("a", **WORSE)
    assert committed.run("-q", "--llmbench-update=all").ret == 0

    run = committed.run(REF)
    strict = committed.run(REF, "--llmbench-strict")

    assert has_line(summary_of(run), "any more", "speed[a], speed[b]")
    assert has_line(summary_of(run), "held against the one that this change adds: velocity[a], velocity[b]")
    assert (run.ret, strict.ret) == (0, 1)


def test_a_table_of_another_file_is_not_missed_where_one_file_is_named(committed: Bench) -> None:
    committed.test("def test_own(llmbench):\n    llmbench(Case.custom('steps:build', name='c'))\n")
    assert committed.run("-q", "--llmbench-update=all").ret == 0
    commit(committed.folder)

    assert committed.run(REF, "--llmbench-strict", "test_own.py").ret == 0


def test_skipped_rows_fail_a_strict_run(committed: Bench) -> None:
    test = committed.folder / "test_rows.py"
    test.write_text(test.read_text().replace("@pytest", "@pytest.mark.skip(reason='slow')\n@pytest", 1))

    run = committed.run(REF)
    strict = committed.run(REF, "--llmbench-strict")

    assert has_line(summary_of(run), "no case was measured")
    assert (run.ret, strict.ret) == (0, 1)


def test_a_new_row_is_held_against_the_baseline_that_the_change_adds(committed: Bench) -> None:
    committed.rows("a", "b", "c")
    assert committed.run("-q", "--llmbench-update=missing").ret == 0
    passing = committed.run(REF, "--llmbench-strict")
    committed.answer("c", **WORSE)

    failing = committed.run(REF)

    assert passing.ret == 0
    assert has_line(summary_of(passing), "no baseline at HEAD", "held against the one that this change adds: speed[c]")
    failing.assert_outcomes(passed=2, failed=1)


def test_a_new_row_without_any_baseline_fails_and_says_how_to_record_it(committed: Bench) -> None:
    committed.rows("a", "b", "c")

    run = committed.run(REF)

    run.assert_outcomes(passed=2, failed=1)
    assert has_line(run.outlines, "no baseline at HEAD", "none in the working tree", "--llmbench-update=missing")


def test_a_new_row_is_recorded_in_the_working_tree_where_the_run_records(committed: Bench) -> None:
    committed.rows("a", "b", "c")

    run = committed.run(REF, "--llmbench-missing=record")

    assert run.ret == 0
    assert set(committed.baseline().rows) == {"a", "b", "c"}
    assert has_line(summary_of(run), "1 recorded, 2 unchanged")
    assert not has_line(summary_of(run), "held against")


def test_an_update_is_refused(committed: Bench) -> None:
    run = committed.run(REF, "--llmbench-update=all")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert has_line(run.errlines, "--llmbench-update", "baselines of a commit are not written")


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("nowhere", ("nowhere", "no such commit", "git fetch origin main")),
        ("origin/main", ("no such commit", "git fetch origin main")),
        ("--help", ("no revision of git",)),
        ("a\nb", ("no revision of git",)),
        ("0" * 40, ("no such commit",)),
        ("HEAD:baselines", ("no such commit",)),
    ],
)
def test_a_revision_that_is_none_is_a_usage_error(committed: Bench, revision: str, words: tuple[str, ...]) -> None:
    run = committed.run(f"--llmbench-baseline-ref={revision}")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert has_line(run.errlines, "--llmbench-baseline-ref", *words)


def test_a_merge_base_can_be_named(committed: Bench) -> None:
    git(committed.folder, "checkout", "-q", "-b", "change")
    peak_of(committed, "a", 8 * 2**30)
    commit(committed.folder)
    committed.answer("a", **WORSE)

    committed.run("--llmbench-baseline-ref=main...").assert_outcomes(passed=1, failed=1)


def test_a_shallow_clone_says_how_to_fetch(committed: Bench, tmp_path: Path) -> None:
    first = git(committed.folder, "rev-parse", "HEAD")
    (committed.folder / "more").write_text("")
    commit(committed.folder)
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{committed.folder}", "clone")

    run = committed.run(f"--llmbench-baseline-ref={first}", f"--llmbench-baselines={tmp_path}/clone/baselines")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert has_line(run.errlines, "the clone is shallow", "git fetch --unshallow", "fetch-depth: 0")


def test_a_folder_outside_of_any_repository_is_a_usage_error(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run(REF)

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert has_line(run.errlines, "--llmbench-baseline-ref", "baselines: no git repository holds it")


def test_a_folder_that_the_commit_lacks_is_a_usage_error(committed: Bench) -> None:
    run = committed.run(REF, "--llmbench-baselines=elsewhere")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert has_line(run.errlines, "elsewhere: there is no such folder at HEAD", "commit baselines there first")


@pytest.mark.parametrize("content", ["{", "version https://git-lfs.github.com/spec/v1\n", '{"format": 99}'])
def test_a_committed_file_that_cannot_be_read_is_a_usage_error(committed: Bench, content: str) -> None:
    committed.baseline_path().write_text(content)
    commit(committed.folder)

    run = committed.run(REF)

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert has_line(run.errlines, "baselines/test-gpu/speed.json", "mend it there first")


def test_processes_of_xdist_see_the_same_commit(committed: Bench) -> None:
    pytest.importorskip("xdist")
    committed.answer("a", **WORSE)
    peak_of(committed, "a", 8 * 2**30)
    committed.rows("a", "c")

    run = committed.run_apart("-p", "xdist", "-n", "2", REF, "--llmbench-strict")

    assert run.ret == 1
    run.assert_outcomes(failed=2)
    assert has_line(summary_of(run), "any more", "speed[b]")
    assert has_line(summary_of(run), "differ in 1 row")
