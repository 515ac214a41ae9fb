"""Bad input is told in a sentence, fails the run, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench


def truncated(text: str) -> str:
    return text[: len(text) // 2]


def with_nan(text: str) -> str:
    return text.replace('"samples_per_second": 2.0', '"samples_per_second": NaN')


def with_a_text(text: str) -> str:
    return text.replace('"samples_per_second": 2.0', '"samples_per_second": "fast"')


def with_another_metric(text: str) -> str:
    return text.replace('"samples_per_second"', '"samples_per_secund"')


def with_another_model(text: str) -> str:
    return text.replace('"step": "steps:build"', '"step": null')


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (truncated, "*speed.json: is not whole JSON (*); restore the file from version control"),
        (with_nan, "*speed.json, row 'a', field processes[[]0].metrics.samples_per_second: *"),
        (with_a_text, "*speed.json, row 'a', field processes[[]0].metrics.samples_per_second: Expected*"),
        (
            with_another_metric,
            "*speed.json, row 'a', *: unknown metric 'samples_per_secund'; did you mean 'samples_per_second'?",
        ),
        (with_another_model, "*speed.json, row 'a'*unknown model 'a'*"),
    ],
)
@pytest.mark.parametrize("option", ["--llmbench-strict", "--llmbench-update=all"])
def test_a_damaged_baseline_fails_its_row_and_is_left_alone(
    bench: Bench, edit: Callable[[str], str], told: str, option: str
) -> None:
    bench.rows("a")
    bench.record()
    path = bench.baseline_path()
    damaged = edit(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)

    run = bench.run(option)

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines([told])
    assert path.read_text() == damaged
    (result,) = bench.results()
    assert result.measurement.processes[0].metrics["samples_per_second"] == 2.0
    assert (result.decision, result.verdict.status, result.recorded) == ("fail", "unmeasured", False)


def test_a_measurement_that_met_a_damaged_baseline_is_judged_once_that_is_mended(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    path = bench.baseline_path()
    whole = path.read_text()
    path.write_text(truncated(whole))
    bench.run("--llmbench-results=r.jsonl")
    path.write_text(whole)

    bench.run("--llmbench-resume=r.jsonl").assert_outcomes(passed=1)

    assert bench.asked() == ["a"]


def test_a_baseline_that_cannot_be_written_fails_the_row_and_keeps_its_result(bench: Bench) -> None:
    bench.rows("a")
    (bench.folder / "baselines").write_text("a file, not a folder")

    run = bench.run("--llmbench-update=missing")

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(["*baselines/test-gpu/speed.json: cannot be *"])
    assert [result.decision for result in bench.results()] == ["fail"]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ('Case(model="qwen-7b")', "*CaseError: unknown model 'qwen-7b'; did you mean 'qwen-7b-chat'?"),
        ('Case(model="qwen-7b-chat", batch_size=0)', "*CaseError: not a case: *batch_size*"),
        ('Case.custom("bench", name="x")', "*CaseError: *'bench'*"),
    ],
)
def test_a_case_that_means_nothing_fails_its_test(bench: Bench, case: str, told: str) -> None:
    bench.test(f"def test_own(llmbench): llmbench({case})")

    run = bench.run()

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines([told])
    assert bench.asked() == []


BAD = [
    ("scale", "large", "choose from full, smoke"),
    ("device", "tpu", "choose from auto, cuda, cpu"),
    ("update", "sometimes", "choose from missing, failing, moved, all"),
    ("missing", "ignore", "choose from fail, skip, record"),
    ("samples", "0", "give a number of samples above 0, or 'full'"),
    ("samples", "many", "give a number of samples above 0, or 'full'"),
    ("samples", "1" * 5000, "give a number of samples above 0, or 'full'"),
    ("timeout", "soon", "give a number of seconds above 0"),
    ("timeout", "-1", "give a number of seconds above 0"),
    ("timeout", "nan", "give a number of seconds above 0"),
    ("tolerance", "samples_per_second=lots", "'lots' is not a limit; write it as 8%, 0.05, 64MiB or 2%+64MiB"),
    ("tolerance", "samples_per_secund=8%", "unknown metric 'samples_per_secund'; did you mean 'samples_per_second'?"),
    ("tolerance", "8%", "is not of the form METRIC=LIMIT"),
    ("inject", "network=5%", "is not an injection; write device=10%, host=10%, memory=64MiB, "),
    ("inject", "host=0%", "plants nothing"),
    ("memory", "24", "'24' is no memory of a card; write it as 24GiB or 80GB"),
    ("memory", "0GiB", "'0GiB' is no memory of a card; write it as 24GiB or 80GB"),
    ("resume", "nowhere.jsonl", "results cannot be read: No such file or directory"),
    ("resume", ".", "results cannot be read: Is a directory"),
    ("results", ".", "results cannot be written there: Is a directory"),
    ("results", "file/r.jsonl", "results cannot be written there: File exists"),
    ("results", "file/below/r.jsonl", "results cannot be written there: Not a directory"),
]


def hint_of(told: str) -> str:
    return told.replace("[", "[[]")


@pytest.mark.parametrize(("option", "value", "told"), BAD, ids=lambda text: text[:30])
def test_a_bad_flag_is_a_usage_error_with_its_name(bench: Bench, option: str, value: str, told: str) -> None:
    (bench.folder / "file").write_text("")

    run = bench.run(f"--llmbench-{option}={value}")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in run.errlines if f"--llmbench-{option}" in line and line.startswith("ERROR")]
    if told.startswith("choose from"):
        lines = [line for line in run.errlines if f"argument --llmbench-{option}: invalid choice" in line]
        told = "choose from"
    assert len(lines) == 1
    assert told in lines[0]


@pytest.mark.parametrize(("option", "value", "told"), BAD, ids=lambda text: text[:30])
def test_a_bad_setting_is_a_usage_error_with_its_name(bench: Bench, option: str, value: str, told: str) -> None:
    (bench.folder / "file").write_text("")
    bench.pytester.makeini(f"[pytest]\nllmbench_{option} = {value}")

    run = bench.run()

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = run.errlines[:1]
    assert line.startswith("ERROR: ")
    assert f"llmbench_{option}" in line.replace("-", "_")
    assert told in line


def test_a_switch_that_is_neither_on_nor_off_is_a_usage_error(bench: Bench) -> None:
    bench.pytester.makeini("[pytest]\nllmbench = perhaps")

    run = bench.pytester.runpytest_inprocess("-p", "pytest_llmbench.plugin")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: llmbench *perhaps*"])


def test_a_number_where_toml_wants_a_text_is_a_usage_error(bench: Bench) -> None:
    bench.pytester.makepyprojecttoml("[tool.pytest]\nllmbench_samples = 32")

    run = bench.run()

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: *llmbench_samples*expects a string, got int: 32"])


@pytest.mark.parametrize("fault", ["device=10%", "host=30%", "memory-outside=64MiB"])
def test_a_fault_that_the_cpu_does_not_see_cannot_be_planted_there(bench: Bench, fault: str) -> None:
    run = bench.run("--llmbench-scale=smoke", f"--llmbench-inject={fault}")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    kind = fault.partition("=")[0]
    run.stderr.fnmatch_lines(
        [f"ERROR: --llmbench-inject: {kind}=... needs a GPU, since no time and no memory is judged on the CPU; plant *"]
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--llmbench-device=fake", "--llmbench-scale=smoke"),
            "--llmbench-device=fake runs the published size; leave *",
        ),
        (("--llmbench-device=fake", "--llmbench-inject=memory=64MiB"), "--llmbench-inject: nothing can be planted *"),
        (
            ("--llmbench-scale=smoke", "--llmbench-memory=24GiB"),
            "--llmbench-memory: the CPU has no memory of its own; *",
        ),
    ],
    ids=["a-miniature-of-no-content", "a-fault-where-nothing-runs", "memory-of-the-cpu"],
)
def test_options_that_contradict_each_other_are_a_usage_error(
    bench: Bench, options: tuple[str, ...], told: str
) -> None:
    bench.rows("a")

    run = bench.run(*options)

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: {told}"])
    assert bench.asked() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_disk_that_is_full_ends_the_run(bench: Bench) -> None:
    bench.rows("a", "b")

    run = bench.run("--llmbench-results=/dev/full", "--llmbench-missing=skip")

    assert run.ret == pytest.ExitCode.INTERRUPTED
    run.stdout.fnmatch_lines(["*llmbench: /dev/full: a result could not be written: No space left on device*"])
    assert bench.asked() == ["a"]
    assert Path("/dev/full").exists()


def test_results_can_be_thrown_away(bench: Bench) -> None:
    bench.rows("a")
    (bench.folder / "null").symlink_to("/dev/null")

    assert bench.run("--llmbench-results=null", "--llmbench-missing=skip").ret == 0
    assert (bench.folder / "null").is_symlink()
    assert Path("/dev/null").exists()


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_the_run_says_what_to_install(bench: Bench) -> None:
    bench.rows("a", "b")

    run = bench.run("--llmbench-scale=smoke", plugin="no:nothing")

    assert run.ret != 0
    run.stdout.fnmatch_lines(["*torch not installed; pip install 'pytest-llmbench[[]train]'*"])
    assert sum(line.startswith("FAILED") for line in run.outlines) == 1


def test_a_root_directory_that_cannot_hold_results_is_a_usage_error(bench: Bench) -> None:
    (bench.folder / "llmbench-results").write_text("a file, not a folder")

    run = bench.run()

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: --llmbench-results: *llmbench-results: results cannot be written there: *"])


def test_an_ignore_file_of_the_user_is_left_alone(bench: Bench) -> None:
    bench.run()
    ignore = bench.folder / "llmbench-results" / ".gitignore"
    assert "*" in ignore.read_text().split("\n")
    ignore.write_text("mine")

    bench.run()

    assert ignore.read_text() == "mine"


NAMELESS = {
    "a letter beyond ASCII": (
        "def test_größe(llmbench): {}",
        "table name 'größe' cannot be a file's: *; rename the test",
    ),
    "a long name": (
        "def test_" + "a" * 121 + "(llmbench): {}",
        "table name 'aaa*' cannot be a file's: *; rename the test",
    ),
    "an empty id": (
        "@pytest.mark.parametrize('one', [1], ids=[''])\ndef test_own(llmbench, one): {}",
        "row name '' of table 'own' is not 1 to 200 printable characters; give the parameters other ids",
    ),
    "a long id": (
        "@pytest.mark.parametrize('one', [1], ids=['a' * 201])\ndef test_own(llmbench, one): {}",
        "row name 'aaa*' of table 'own' is not 1 to 200 printable characters; give the parameters other ids",
    ),
}
"""Tests whose row could never be stored, and what is told of each."""


@pytest.mark.parametrize(("test", "told"), NAMELESS.values(), ids=list(NAMELESS))
def test_a_row_that_could_not_be_stored_fails_before_it_is_measured(bench: Bench, test: str, told: str) -> None:
    bench.pytester.makeini(f"[pytest]\n{UNESCAPED} = true")
    bench.test(test.format("llmbench(Case.custom('m:f', name='a'))"))

    run = bench.run("--llmbench-missing=record")

    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines([told])
    assert bench.asked() == []


UNESCAPED = "disable_test_id_escaping_and_forfeit_all_rights_to_community_support"


@pytest.mark.parametrize("name", ["org/model", "größe"])
def test_a_row_of_a_printable_name_can_be_stored(bench: Bench, name: str) -> None:
    bench.pytester.makeini(f"[pytest]\n{UNESCAPED} = true")
    bench.rows(name)

    bench.run("--llmbench-missing=record").assert_outcomes(passed=1)

    assert list(bench.baseline().rows) == [name]


def test_an_id_with_a_control_character_is_stored_as_pytest_would_have_escaped_it(bench: Bench) -> None:
    bench.rows("a\x1bb")
    bench.run("--llmbench-missing=record").assert_outcomes(passed=1)
    bench.pytester.makeini(f"[pytest]\n{UNESCAPED} = true")

    bench.run("--llmbench-missing=fail").assert_outcomes(passed=1)

    assert list(bench.baseline().rows) == [r"a\x1bb"]


@pytest.fixture
def outside(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside the repository, to which nothing of a run may get."""
    bench.rows("a")
    return tmp_path_factory.mktemp("outside")


@pytest.mark.parametrize(
    ("link", "told"),
    [
        (
            "baselines",
            "--llmbench-baselines: * is a link to {there}, out of *; remove it, or say --llmbench-baselines=",
        ),
        ("baselines/test-gpu", "--llmbench-baselines: *test-gpu: is a link to {there}, out of the folder of baselines"),
        ("baselines/new", "--llmbench-baselines: *new: is a link to {there}, out of the folder of baselines"),
        ("baselines/.lock", "--llmbench-baselines: *.lock: is a symbolic link, which a lock must not be; remove it"),
        (
            "llmbench-results",
            "--llmbench-results: *llmbench-results is a link to {there}, out of *; remove it, or name",
        ),
        ("llmbench-results/.gitignore", "--llmbench-results: *.gitignore is a link to {there}, out of *; remove it"),
    ],
)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_that_leads_out_of_the_repository_ends_the_run_before_it_measures(
    bench: Bench, outside: Path, link: str, told: str, dangling: bool
) -> None:
    there = outside / "planted" if dangling else outside
    (bench.folder / link).parent.mkdir(exist_ok=True)
    (bench.folder / link).symlink_to(there)

    run = bench.run("--llmbench-missing=record")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: {told.format(there=there)}*"])
    assert bench.asked() == []
    assert list(outside.iterdir()) == []


def test_a_setting_that_a_link_leads_out_of_the_repository_is_a_usage_error(bench: Bench, outside: Path) -> None:
    (bench.folder / "out").symlink_to(outside)
    bench.pytester.makeini("[pytest]\nllmbench_results = out/r.jsonl")

    run = bench.run()

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: --llmbench-results: *out/r.jsonl is a link to {outside}/r.jsonl, out of *"])
    assert list(outside.iterdir()) == []


def test_a_folder_of_baselines_that_the_user_names_may_be_anywhere(bench: Bench, outside: Path) -> None:
    (bench.folder / "shared").symlink_to(outside)

    assert bench.run("--llmbench-baselines=shared", "--llmbench-missing=record").ret == 0
    assert [path.name for path in outside.rglob("*.json")] == ["speed.json"]


def test_a_setting_that_is_outside_in_so_many_words_is_followed(bench: Bench, outside: Path) -> None:
    bench.pytester.makeini(f"[pytest]\nllmbench_baselines = {outside}")

    assert bench.run("--llmbench-missing=record").ret == 0
    assert [path.name for path in outside.rglob("*.json")] == ["speed.json"]


def test_a_link_that_comes_while_a_run_measures_is_not_written_through(bench: Bench, outside: Path) -> None:
    bench.test(
        "from pathlib import Path\n"
        "def test_speed(llmbench):\n"
        f"    Path('baselines').mkdir(); Path('baselines/test-gpu').symlink_to({str(outside)!r})\n"
        "    llmbench(Case.custom('steps:build', name='a'))"
    )

    run = bench.run("--llmbench-missing=record", "test_own.py")

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines([f"*test-gpu: is a link to {outside}, out of the folder of baselines*"])
    assert list(outside.iterdir()) == []
