"""Bisection of commits without environments: what git asks next, how it ends, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

import measurements
import surroundings
from library import commit, git
from pytest_llmbench.cli.bisect import bisect
from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.reports.bisection import commit_sentences
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.history import Commit, History, open_history
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.journal import Asked, Implied, Journal, Named, Note, Taken
from pytest_llmbench.store.pair import Pair
from pytest_llmbench.tables.selection import Selected
from pytest_llmbench.trials.bisection.bisect import BisectedCommits, Commits, Trial
from pytest_llmbench.trials.bisection.commits import CommitRange
from pytest_llmbench.trials.bisection.search import Answer, halve
from pytest_llmbench.trials.bisection.signature import Signature

app = Typer()
app.command("bisect")(bisect)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def line_of(folder: Path, count: int) -> Path:
    """A repository whose commits have the numbers from 0 to *count* as subjects."""
    folder.mkdir()
    git(folder, "init", "-q")
    lines = (
        f"commit refs/heads/main\ncommitter a <a@b.c> {number} +0000\ndata {len(str(number))}\n{number}\n"
        for number in range(count + 1)
    )
    git(folder, "fast-import", "--quiet", stdin="".join(lines))
    return folder


def merged_of(folder: Path) -> Path:
    """A repository in which `side-2` and `main-2`, both behind `begin`, are merged by `merge`."""
    folder.mkdir()
    commit(folder, "begin")
    git(folder, "switch", "-qc", "side")
    for subject in ("side-1", "side-2"):
        commit(folder, subject)
    git(folder, "switch", "-q", "main")
    for subject in ("main-1", "main-2"):
        commit(folder, subject)
    git(folder, "merge", "-q", "--no-ff", "side", "-m", "merge")
    commit(folder, "end")
    return folder


def searched(
    repository: Path, is_bad: Callable[[str], bool], good: str, bad: str = "main", skipped: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Subjects of the suspects, and of what was asked about."""
    history = open_history(str(repository), print)
    history.clone_into(Path("scratch"))
    commits = CommitRange(history, history.commit(good), history.commit(bad), Path("scratch", "history").absolute())
    asked: list[str] = []

    def ask(candidate: str) -> Answer:
        subject = history.commit(candidate).subject
        asked.append(subject)
        return "skip" if subject in skipped else "bad" if is_bad(subject) else "good"

    halve(commits, ask)
    return [history.commit(one).subject for one in commits.suspects], asked


@pytest.mark.parametrize("first_bad", [1, 2, 32, 41, 63, 64])
def test_a_commit_among_64_is_found_in_six_steps(tmp_path: Path, first_bad: int) -> None:
    repository = line_of(tmp_path / "repository", 64)
    suspects, asked = searched(repository, lambda subject: int(subject) >= first_bad, "main~64")

    assert suspects == [str(first_bad)]
    assert len(asked) <= 6


def test_a_commit_that_has_no_commit_before_it_is_found_unasked(tmp_path: Path) -> None:
    assert searched(line_of(tmp_path / "repository", 1), lambda _: True, "main~1") == (["1"], [])


def test_a_skipped_commit_costs_a_step_and_no_certainty_where_it_is_not_beside_the_first_bad_one(
    tmp_path: Path,
) -> None:
    suspects, asked = searched(
        line_of(tmp_path / "repository", 16), lambda subject: int(subject) >= 13, "main~16", skipped=["8"]
    )

    assert "8" in asked
    assert suspects == ["13"]


def test_skipped_commits_before_the_first_bad_one_are_suspects_too(tmp_path: Path) -> None:
    suspects, _ = searched(
        line_of(tmp_path / "repository", 8), lambda subject: int(subject) >= 5, "main~8", skipped=["3", "4"]
    )

    assert suspects == ["5", "4", "3"]


def test_where_all_commits_are_skipped_all_are_suspects(tmp_path: Path) -> None:
    suspects, asked = searched(line_of(tmp_path / "repository", 4), lambda _: True, "main~4", skipped="123")

    assert suspects == ["4", "3", "2", "1"]
    assert sorted(asked) == ["1", "2", "3"]


@pytest.mark.parametrize("culprit", ["side-1", "side-2", "main-1", "main-2", "end"])
def test_a_commit_on_either_side_of_a_merge_is_found(tmp_path: Path, culprit: str) -> None:
    repository = merged_of(tmp_path / "repository")
    after = git(repository, "log", "--format=%s", "--ancestry-path", f":/{culprit}..main").split()

    assert searched(repository, lambda subject: subject in (culprit, *after), ":/begin")[0] == [culprit]


def test_a_merge_that_is_bad_while_both_its_sides_are_good_is_found(tmp_path: Path) -> None:
    repository = merged_of(tmp_path / "repository")

    assert searched(repository, lambda subject: subject in ("merge", "end"), ":/begin")[0] == ["merge"]


def test_where_good_lies_on_another_branch_the_commit_where_they_part_is_asked_about_first(tmp_path: Path) -> None:
    repository = merged_of(tmp_path / "repository")
    suspects, asked = searched(repository, lambda subject: subject == "main-2", "side", ":/main-2")

    assert asked[0] == "begin"
    assert suspects == ["main-2"]


def test_nothing_is_suspect_where_the_commit_at_which_both_part_is_bad(tmp_path: Path) -> None:
    repository = merged_of(tmp_path / "repository")

    assert searched(repository, lambda _: True, "side", ":/main-2") == ([], ["begin"])


def commits_of(history: History, *subjects: str) -> tuple[Commit, ...]:
    return tuple(history.commit(f":/{subject}") for subject in subjects)


def told(repository: Path, suspects: Collection[str], *, change: str = "") -> list[str]:
    history = open_history(str(repository), print)
    good, bad = commits_of(history, "begin", "end")
    trail = Trial("abc 1", "good", "1 -> 1"), Trial("abc 2", "skip", "crashed: why"), Trial("abc 3", "bad", "1 -> 2")
    found = Commits(
        package="peft",
        good=good,
        bad=bad,
        num_commits=6,
        suspects=commits_of(history, *suspects),
        change=change,
        trail=trail,
    )
    return list(
        commit_sentences(BisectedCommits(signature=Signature("peak_reserved_bytes", "regressed", 0.2), commits=found))
    )


def test_the_commit_is_told_with_author_date_subject_and_what_it_did(tmp_path: Path) -> None:
    repository = merged_of(tmp_path / "repository")
    found = open_history(str(repository), print).commit(":/side-1")

    assert told(repository, ["side-1"], change="clone +8 a step in lora/layer.py:Linear.forward") == [
        "followed: GPU GiB +20.0 %, regressed",
        "  good  abc 1: 1 -> 1",
        "  skip  abc 2: crashed: why",
        "  BAD   abc 3: 1 -> 2",
        f"{found.hash} is the first bad commit of peft (3 steps among 6 commits)",
        f"  author   a, {found.date}",
        "  subject  side-1",
        "  change   clone +8 a step in lora/layer.py:Linear.forward",
    ]


def test_all_commits_that_could_be_the_first_bad_one_are_named(tmp_path: Path) -> None:
    lines = told(merged_of(tmp_path / "repository"), ["side-2", "side-1"])

    assert lines[-3] == "the first bad commit of peft could be any of these (3 steps among 6 commits):"
    assert [line.split()[1] for line in lines[-2:]] == ["side-2,", "side-1,"]


def test_a_change_that_is_older_than_the_two_is_told(tmp_path: Path) -> None:
    assert "where the two part, it is bad already" in told(merged_of(tmp_path / "repository"), [])[-1]


BISECT = ["--package", "part-a", "--case", "m:f", "--scale", "smoke"]


def refused(*options: str) -> str:
    """The one sentence with which a command ends that cannot be carried out."""
    done = CliRunner().invoke(app, [*BISECT, *options])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    return line


def test_a_package_without_a_repository_is_refused() -> None:
    assert "--package part-a goes through commits: name their repository, --repo" in refused(
        "--good", "a", "--bad", "b"
    )


def test_an_interpreter_beside_the_base_is_refused(tmp_path: Path) -> None:
    assert "name that, --base, and no --python" in refused(
        "--repo", ".", "--good", "a", "--bad", "b", "--python", "python3"
    )


@pytest.mark.parametrize("found", ["part_a/__init__.py", "part_a.py"])
def test_a_folder_of_steps_that_has_the_package_is_refused(tmp_path: Path, found: str) -> None:
    line_of(tmp_path / "repository", 1)
    file = tmp_path / "steps" / found
    file.parent.mkdir(parents=True)
    file.touch()
    ends = ("--repo", "repository", "--good", "main~1", "--bad", "main")

    assert "steps is on the path for your own steps and has part_a" in refused(*ends, "--path", "steps")


@pytest.mark.parametrize(
    ("good", "bad", "sentence"),
    [
        ("gone", "main", "repository has no commit 'gone'"),
        ("main", "gone", "repository has no commit 'gone'"),
        ("main", "HEAD", "main and HEAD are the same commit"),
        ("main", ":/begin", "is no ancestor of :/begin"),
        (":/side-1", ":/main-2", "they part at "),
        ("apart", "main", "they have no commit in common"),
    ],
)
def test_ends_between_which_there_are_no_commits_are_refused(
    tmp_path: Path, good: str, bad: str, sentence: str
) -> None:
    repository = merged_of(tmp_path / "repository")
    git(repository, "switch", "-q", "--orphan", "apart")
    commit(repository, "apart")
    git(repository, "switch", "-q", "main")

    assert sentence in refused("--repo", "repository", "--good", good, "--bad", bad)
    assert not Path("llmbench-results").exists()


def test_a_good_commit_that_comes_after_the_bad_one_is_told_to_be_exchanged(tmp_path: Path) -> None:
    merged_of(tmp_path / "repository")

    assert "exchange --good and --bad" in refused("--repo", "repository", "--good", "main", "--bad", ":/begin")


def test_where_branches_part_the_commit_to_begin_at_is_named(tmp_path: Path) -> None:
    repository = merged_of(tmp_path / "repository")
    begin = git(repository, "rev-parse", "--short=10", ":/begin")

    assert f"bisect from there, --good {begin}" in refused(
        "--repo", "repository", "--good", "side", "--bad", ":/main-2"
    )


def measured(value: float) -> Measurement:
    return measurements.measured(
        Process(outcome="ok", metrics={"operators_per_sample": value}),
        workload=Workload(scale="smoke", device="cpu"),
        environment=surroundings.environment(device="cpu", python="3.11", packages={"torch": "2"}),
    )


def journal_of(repository: Path, now: dict[str, float | str]) -> Path:
    """The file of a bisection over the commits from 0 to 4, with what was measured of some of them."""
    history = open_history(str(repository), print)
    good, bad = history.commit("main~4"), history.commit("main")
    one = measured(100.0)
    asked = Asked(
        command="bisect",
        a=Named("main~4", {"part-a": good.hash}),
        b=Named("main", {"part-a": bad.hash}),
        source=Source(base="current"),
        selected=(Selected("t", "r", one.case),),
        workload=one.workload,
        plan=Plan(screen=2, max_processes=3, looks=1),
        timeout_seconds=1.0,
        repository=str(repository),
    )
    file = Path("r.jsonl")
    with Journal.begin(file, asked) as journal:
        for revision, value in now.items():
            name = "bad" if revision == "main" else f"commit {history.commit(revision).hash}"
            if isinstance(value, str):
                journal.add(Note(case=name, why=value))
                continue
            # The ends get all pairs of the plan; of a count, one is enough for what lies between.
            for _ in range(3 if revision == "main" else 1):
                journal.add(Taken(case=name, pair=Pair(first="a", a=one, b=measured(value))))
    return file


def gone_on_with(repository: Path, *options: str) -> tuple[int, str, str]:
    named = [
        "--package",
        "Part_A",
        "--repo",
        str(repository),
        "--good",
        "main~4",
        "--bad",
        "main",
        "--resume",
        "r.jsonl",
    ]
    done = CliRunner().invoke(app, [*named, *options])
    return done.exit_code, done.stdout, done.stderr


def test_what_the_journal_has_is_not_measured_again(tmp_path: Path) -> None:
    repository = line_of(tmp_path / "repository", 4)
    file = journal_of(repository, {"main": 200.0, "main~2": 100.0, "main~1": 200.0})
    before = file.read_bytes()
    code, out, _ = gone_on_with(repository, "--json", "found.json")

    assert code == 0, out
    assert (
        f"{git(repository, 'rev-parse', 'main~1')} is the first bad commit of part-a (2 steps among 4 commits)" in out
    )
    assert "change   operators/sample 100 -> 200, +100.0 %" in out
    assert file.read_bytes() == before
    found = json.loads(Path("found.json").read_text())
    assert [one["subject"] for one in found["commits"]["suspects"]] == ["3"]


def test_a_bisection_that_leaves_several_commits_ends_with_status_1(tmp_path: Path) -> None:
    repository = line_of(tmp_path / "repository", 4)
    journal_of(repository, {"main": 200.0, "main~2": "cannot be installed: why", "main~3": 100.0, "main~1": 200.0})
    code, out, _ = gone_on_with(repository)

    assert code == 1
    assert "the first bad commit of part-a could be any of these" in out
    assert "  skip  " in out


def test_each_step_is_told_with_its_number_commit_and_answer(tmp_path: Path) -> None:
    repository = line_of(tmp_path / "repository", 4)
    journal_of(repository, {"main": 200.0, "main~2": 100.0, "main~1": 200.0})
    err = gone_on_with(repository)[2]
    short = git(repository, "rev-parse", "--short=10", "main~2")

    assert f"step 1 of about 1, {short} 2: unchanged" in err
    assert f"{short}: as good (100 -> 100, +0.0 %)" in err


@pytest.mark.parametrize(
    ("bad", "told_of_it"), [(100.0, "good and bad do not differ"), (50.0, "bad is better than good")]
)
def test_a_bad_commit_that_is_not_worse_ends_the_command(tmp_path: Path, bad: float, told_of_it: str) -> None:
    repository = line_of(tmp_path / "repository", 4)
    journal_of(repository, {"main": bad})
    code, _, err = gone_on_with(repository)

    assert (code, told_of_it in err) == (3, True)


def test_a_branch_that_has_moved_on_is_not_gone_on_with(tmp_path: Path) -> None:
    repository = line_of(tmp_path / "repository", 4)
    journal_of(repository, {"main": 200.0})
    commit(repository, "5")
    code, _, err = gone_on_with(repository)

    assert code == 2
    assert "no longer asks for what r.jsonl has measured" in err


def test_another_repository_is_not_gone_on_with(tmp_path: Path) -> None:
    repository = line_of(tmp_path / "repository", 4)
    journal_of(repository, {"main": 200.0})
    repository.rename(tmp_path / "other")
    code, _, err = gone_on_with(tmp_path / "other")

    assert code == 2
    assert f"r.jsonl was asked for commits of {repository}, and not of {tmp_path / 'other'}" in err


def test_a_bisection_of_packages_may_be_gone_on_with_to_the_commit(tmp_path: Path) -> None:
    for name, version in (("good", "1"), ("bad", "2")):
        Path(f"{name}.txt").write_text(f"part-a=={version}\n")
    one = measured(100.0)
    asked = Asked(
        command="bisect",
        a=Named("good.txt", {"part-a": "part-a==1"}),
        b=Named("bad.txt", {"part-a": "part-a==2"}),
        source=Source(base="current"),
        selected=(Selected("t", "r", one.case),),
        workload=one.workload,
        plan=Plan(),
        timeout_seconds=1.0,
    )
    repository = line_of(tmp_path / "repository", 1)
    git(repository, "tag", "v1", "main~1")
    git(repository, "tag", "2.0", "main")
    with Journal.begin(Path("r.jsonl"), asked) as journal:
        journal.add(Taken(case="bad", pair=Pair(first="a", a=one, b=measured(200.0))))
        journal.add(Implied(implied={"part-a": frozenset({"part-a"})}, needs={"part-a": frozenset()}))
    locks = ["--good", "good.txt", "--bad", "bad.txt", "--resume", "r.jsonl", "--repo", "repository"]
    without_tag = CliRunner().invoke(app, locks)
    git(repository, "tag", "v2", "main")
    found = CliRunner().invoke(app, locks)

    assert without_tag.exit_code == 1
    assert "part-a 1 -> 2 does it" in without_tag.stdout
    assert "its commits could not be gone through: repository has no tag v2 or 2" in without_tag.stdout
    assert found.exit_code == 0, found.output
    assert (
        f"{git(repository, 'rev-parse', 'main')} is the first bad commit of part-a (0 steps among 1 commit)"
        in found.stdout
    )
