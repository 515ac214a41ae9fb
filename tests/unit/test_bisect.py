"""Bisection without environments: the search, what it follows, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer import Typer
from typer.testing import CliRunner

import measurements
import surroundings
from pytest_llmbench.cli.bisect import bisect
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.plan import Plan, is_suspect
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.reports.bisection import sentences
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.requirements import Requirements
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.journal import Asked, Journal, Named, Taken
from pytest_llmbench.store.pair import Pair
from pytest_llmbench.tables.selection import Selected
from pytest_llmbench.trials.bisection.bisect import Bisected, Trial, Versions
from pytest_llmbench.trials.bisection.search import Answer, Found, Line, halve, search
from pytest_llmbench.trials.bisection.signature import NothingToFollow, Signature, narrowed, signature_of
from pytest_llmbench.trials.pairs import Held

NAMES = tuple("abcdefgh")


def independent(names: Collection[str]) -> dict[str, frozenset[str]]:
    return {name: frozenset(name) for name in names}


class Oracle:
    """Answers for a culprit that is known here, and counts."""

    def __init__(self, is_bad: Callable[[frozenset[str]], bool], breaks: Callable[[frozenset[str]], bool]) -> None:
        self.measured: list[frozenset[str]] = []
        self._is_bad = is_bad
        self._breaks = breaks

    def __call__(self, mixture: frozenset[str]) -> Answer:
        if self._breaks(mixture):
            return "skip"
        self.measured.append(mixture)
        return "bad" if self._is_bad(mixture) else "good"


def asked(*culprits: str, breaks: Callable[[frozenset[str]], bool] = lambda mixture: False) -> Oracle:
    return Oracle(lambda mixture: set(culprits) <= mixture, breaks)


@pytest.mark.parametrize("count", range(1, 9))
def test_every_culprit_is_found_with_as_few_mixtures_as_there_can_be(count: int) -> None:
    names = NAMES[:count]
    for culprit in names:
        ask = asked(culprit)
        found = search(names, independent(names), ask)
        assert (found.suspects, found.how, found.mixture) == ((culprit,), "alone", frozenset(culprit))
        assert len(ask.measured) <= math.ceil(math.log2(count)) + 1


def test_a_mixture_that_cannot_be_measured_is_passed_over() -> None:
    for culprit in "abcd":
        ask = asked(culprit, breaks=lambda mixture: ("a" in mixture) != ("b" in mixture) and "c" not in mixture)
        found = search("abcd", independent("abcd"), ask)
        assert found.suspects == (culprit,)
        assert found.how == ("left" if culprit in "ab" else "alone")


def test_packages_that_need_each_other_are_changed_together() -> None:
    implied = {"a": frozenset("ab"), "b": frozenset("b"), "c": frozenset("c"), "d": frozenset("cd")}
    for culprit in "abcd":
        ask = asked(culprit)
        found = search("abcd", implied, ask)
        assert (found.suspects, found.how) == ((culprit,), "alone")
        assert all(implied[name] <= mixture for mixture in ask.measured for name in mixture)


def test_packages_that_cannot_be_separated_are_named_together() -> None:
    implied = independent("ab") | {"c": frozenset("cd"), "d": frozenset("cd")}

    assert search("abcd", implied, asked("d")) == Found(("c", "d"), "inseparable", frozenset("cd"))


def test_two_culprits_that_need_each_other_are_not_blamed_alone() -> None:
    found = search("abcd", independent("abcd"), asked("a", "d"))

    assert found.how == "together"
    assert {"a", "d"} <= found.mixture


def test_a_search_that_can_measure_nothing_says_so() -> None:
    found = search("abc", independent("abc"), asked("a", breaks=lambda mixture: True))

    assert (found.how, found.suspects) == ("stuck", ("a", "b", "c"))


def versions_asked(first_bad: int, broken: Collection[str] = ()) -> tuple[Callable[[str], Answer], list[str]]:
    seen: list[str] = []

    def ask(version: str) -> Answer:
        seen.append(version)
        return "skip" if version in broken else "bad" if int(version) >= first_bad else "good"

    return ask, seen


@pytest.mark.parametrize("first_bad", range(1, 11))
def test_the_first_bad_version_is_found(first_bad: int) -> None:
    ask, seen = versions_asked(first_bad)
    line = Line([str(number) for number in range(1, 10)])
    halve(line, ask)

    assert line.last_good == (str(first_bad - 1) if first_bad > 1 else None)
    assert line.first_bad == (str(first_bad) if first_bad < 10 else None)
    assert len(seen) <= 4


def test_a_version_that_cannot_be_measured_is_passed_over() -> None:
    ask, seen = versions_asked(4, broken="35")
    line = Line("123456")
    halve(line, ask)

    assert (line.last_good, line.first_bad, line.left) == ("2", "4", ("3",))
    assert len(seen) == len(set(seen))


def test_versions_of_which_none_can_be_measured_are_all_left() -> None:
    ask, _ = versions_asked(4, broken="35")
    line = Line("35")
    halve(line, ask)

    assert (line.last_good, line.first_bad, line.left) == (None, None, ("3", "5"))


def measured(metric: str = "operators_per_sample", *values: Value, outcome: Outcome = "ok") -> Measurement:
    return measurements.measured(
        *(Process(outcome=outcome, reason="why", metrics={metric: value}) for value in values or (1.0,)),
        workload=Workload(scale="smoke", device="cpu"),
        environment=surroundings.environment(device="cpu", python="3.11", packages={"torch": str(values)}),
    )


def ends(a: Measurement, b: Measurement) -> Held:
    return Held(judge_pair(a, b), a, b)


OPERATORS = "operators_per_sample"


def test_what_moved_most_beyond_its_limit_is_followed() -> None:
    verdicts = tuple(
        MetricVerdict(metric=name, status="regressed", change=change, limit=0.02, gates=True, reason="r")
        for name, change in ((OPERATORS, 0.1), ("kernels_per_sample", 0.3))
    )
    row = RowVerdict(status="regressed", metrics=verdicts, reason="r")
    found = signature_of(Held(row, measured(), measured()), None)

    assert (found.metric, found.status, found.change) == ("kernels_per_sample", "regressed", 0.3)


def test_ends_that_do_not_differ_have_nothing_to_follow() -> None:
    same = ends(measured(OPERATORS, 100.0), measured(OPERATORS, 100.0))
    with pytest.raises(NothingToFollow, match="good and bad do not differ"):
        signature_of(same, None)
    with pytest.raises(NothingToFollow, match="operators_per_sample is unchanged"):
        signature_of(same, OPERATORS)
    with pytest.raises(NothingToFollow, match="kernels_per_sample is not measured"):
        signature_of(same, "kernels_per_sample")


def test_an_outcome_is_followed_where_the_bad_end_measures_nothing() -> None:
    crash = ends(measured(OPERATORS, 100.0), measured(outcome="crashed"))
    signature = signature_of(crash, None)

    assert signature == Signature(None, "regressed", outcome="crashed", reason="why")
    assert signature.answer(crash)[0] == "bad"
    assert signature.answer(ends(measured(OPERATORS, 100.0), measured(OPERATORS, 100.0)))[0] == "good"
    assert signature.answer(ends(measured(OPERATORS, 100.0), measured(outcome="oom")))[0] == "skip"
    with pytest.raises(NothingToFollow, match="nothing to follow"):
        signature_of(ends(measured(outcome="crashed"), measured(OPERATORS, 1.0)), None)


def test_a_mixture_that_crashes_by_another_exception_is_passed_over() -> None:
    def crash(reason: str) -> Held:
        process = Process(outcome="crashed", reason=reason)
        return ends(measured(OPERATORS, 100.0), msgspec.structs.replace(measured(), processes=(process,)))

    signature = signature_of(crash("RuntimeError: shapes do not fit (at a.py:1 in f)"), None)

    assert signature.answer(crash("RuntimeError: sizes do not fit (at a.py:9 in f)")) == ("bad", "crashed")
    answer, told_of_it = signature.answer(crash("ModuleNotFoundError: No module named 'x'"))
    assert (answer, told_of_it) == ("skip", "crashed: ModuleNotFoundError: No module named 'x'")


@pytest.mark.parametrize(
    ("metric", "pairs"), [(OPERATORS, 1), ("peak_reserved_bytes", 1), ("samples_per_second", 8), (None, 8)]
)
def test_between_the_ends_one_pair_is_enough_of_what_repeats_itself(metric: str | None, pairs: int) -> None:
    asked = Plan(screen=2, max_processes=8, looks=2)

    assert Signature(metric, "regressed", 0.2).plan(asked).max_processes == pairs


@pytest.mark.parametrize(
    ("now", "answer"), [(100.0, "good"), (109.0, "good"), (111.0, "bad"), (120.0, "bad"), (60.0, "good")]
)
def test_a_mixture_is_judged_by_which_end_it_is_nearer_to(now: float, answer: Answer) -> None:
    signature = Signature(OPERATORS, "regressed", 0.2)
    a, b = measured(OPERATORS, 100.0), measured(OPERATORS, now)

    assert signature.answer(Held(signature.judge()(a, b), a, b))[0] == answer


def test_a_speed_of_whose_noise_nothing_is_known_is_asked_again() -> None:
    signature = Signature("samples_per_second", "regressed", -0.2)

    verdict = signature.judge()(measured("samples_per_second", 10.0), measured("samples_per_second", 7.0))

    assert verdict.status == "undecided"


def test_noise_that_reaches_over_the_limit_is_asked_again() -> None:
    signature = Signature("samples_per_second", "regressed", -0.2)
    a = measured("samples_per_second", *[10.0] * 5)
    verdict = signature.judge()(a, measured("samples_per_second", 9.2, 9.0, 8.6, 9.4, 8.9))

    assert verdict.status == "undecided"
    assert signature.judge()(a, measured("samples_per_second", *[0.1] * 5)).status == "regressed"


def test_a_speed_that_a_mixture_lacks_is_not_asked_again() -> None:
    signature = Signature("samples_per_second", "regressed", -0.2)
    a, b = measured("samples_per_second", 10.0), measured(OPERATORS, 100.0)

    verdict = signature.judge()(a, b)

    assert verdict.status == "unmeasured"
    assert not is_suspect(verdict, repeats=1)


def test_a_mixture_that_does_not_measure_is_passed_over() -> None:
    signature = Signature(OPERATORS, "regressed", 0.2)
    crash = ends(measured(OPERATORS, 100.0), measured(outcome="crashed"))

    assert signature.answer(crash) == ("skip", "crashed: why")


def test_a_metric_that_does_not_gate_decides_where_it_is_named() -> None:
    verdict = judge_pair(measured("samples_per_second", 10.0), measured("samples_per_second", 0.01))
    found = narrowed(verdict, "samples_per_second")

    assert [one.gates for one in found.metrics] == [True]
    assert found.status == found.metrics[0].status == "regressed"
    assert narrowed(verdict, "loss_first") == verdict


GOOD = Requirements((), {"a": "a==1", "b": "b==1"})
BAD = Requirements((), {"a": "a==2", "b": "b==3"})


def told(found: Found, *trail: Trial, versions: Versions | None = None) -> list[str]:
    bisected = Bisected(
        signature=Signature(OPERATORS, "regressed", 0.2),
        changed=("a", "b"),
        found=found,
        leader=found.suspects[0],
        trail=trail,
        versions=versions,
    )
    return list(sentences(bisected, GOOD, BAD))


def test_the_trail_and_the_finding_are_told() -> None:
    trail = Trial("a", "good", "1 -> 1"), Trial("a", "skip", "crashed"), Trial("b", "bad", "1 -> 2")

    assert told(Found(("b",), "alone", frozenset("b")), *trail, versions=Versions("1", "3", ("2",))) == [
        "followed: operators/sample +20.0 %, regressed",
        "  good  a: 1 -> 1",
        "  skip  a: crashed",
        "  BAD   b: 1 -> 2",
        "b 1 -> 3 does it (2 mixtures of 2 changed packages)",
        "last good version 1, first bad version 3; not measured between them: 2",
    ]


def test_other_endings_are_told() -> None:
    assert "it needs the new a, which alone does not" in told(Found(("b",), "alone", frozenset("ab")))
    assert "b 1 -> 3 is what is left" in told(Found(("b",), "left", frozenset("ab")))[-1]
    inseparable = told(Found(("a", "b"), "inseparable", frozenset("ab")))
    assert "cannot be told apart" in inseparable[-2]
    assert inseparable[-1] == "none of the others needs a: they came with it"
    assert "the smallest mixture that does: a, b" in told(Found(("b",), "together", frozenset("ab")))[-1]
    assert "no mixture that tells more" in told(Found(("a", "b"), "stuck", frozenset("ab")))[-1]


app = Typer()
app.command("bisect")(bisect)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--case", "m:f", "--metric", "speed"], "no such metric"),
        ([], "name the case"),
        (["--case", "qwen"], "no row 'qwen'"),
        (["--case", "m:f", "--scale", "smoke", "--samples", "0"], "--samples 0"),
        (["--case", "m:f", "--pairs", "3", "--max-pairs", "2"], "--max-pairs 2 is less"),
        (["--resume", "missing"], "cannot be read"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(tmp_path: Path, options: list[str], refusal: str) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(GOOD.text)
    bad.write_text(BAD.text)
    refused = CliRunner().invoke(app, ["--good", str(good), "--bad", str(bad), *options])

    assert refused.exit_code == 2
    assert refusal in refused.stderr


def test_ends_that_were_measured_and_do_not_differ_end_the_command(tmp_path: Path) -> None:
    good, bad, file = tmp_path / "good.txt", tmp_path / "bad.txt", tmp_path / "r.jsonl"
    good.write_text(GOOD.text)
    bad.write_text(BAD.text)
    one = measured(OPERATORS, 100.0)
    asked = Asked(
        command="bisect",
        a=Named(str(good), GOOD.lines),
        b=Named(str(bad), BAD.lines),
        source=Source(),
        selected=(Selected("t", "r", one.case),),
        workload=one.workload,
        plan=Plan(screen=1, max_processes=1),
        timeout_seconds=1.0,
    )
    with Journal.begin(file, asked) as journal:
        journal.add(Taken(case="bad", pair=Pair(first="a", a=one, b=one)))
    done = CliRunner().invoke(app, ["--good", str(good), "--bad", str(bad), "--resume", str(file)])

    assert done.exit_code == 3, done.output
    assert "good and bad do not differ" in done.stderr
    bad.write_text("a==9\n")
    refused = CliRunner().invoke(app, ["--good", str(good), "--bad", str(bad), "--resume", str(file)])
    assert refused.exit_code == 2
    assert "no longer asks for what" in refused.stderr


def test_files_that_ask_for_the_same_are_refused(tmp_path: Path) -> None:
    one = tmp_path / "one.txt"
    one.write_text(GOOD.text)
    refused = CliRunner().invoke(app, ["--good", str(one), "--bad", str(one), "--case", "m:f"])

    assert (refused.exit_code, "ask for the same packages" in refused.stderr) == (2, True)


def moved(metric: str, change: float | None, limit: float | None = 0.1, **more: Any) -> MetricVerdict:
    return MetricVerdict(
        **{
            "metric": metric,
            "status": "regressed",
            "change": change,
            "limit": limit,
            "gates": True,
            "reason": "r",
            **more,
        }
    )


def followed(*metrics: MetricVerdict, metric: str | None = None, status: Status = "regressed") -> Signature:
    row = RowVerdict(status=status, metrics=metrics, reason="why")
    return signature_of(Held(row, measured(), measured()), metric)


def test_a_small_move_far_beyond_its_limit_is_followed_before_a_large_one() -> None:
    assert followed(moved(OPERATORS, 0.5, 0.4), moved("loss_first", 0.1, 0.01)).metric == "loss_first"


def test_what_had_to_be_equal_is_followed_first() -> None:
    assert followed(moved(OPERATORS, 9.0), moved("parameters", 0.001, 0.0)).metric == "parameters"


def test_a_move_from_zero_is_followed_by_its_size() -> None:
    found = followed(moved(OPERATORS, None, None, baseline=0, now=5))

    assert found == Signature(OPERATORS, "regressed", 5, relative=False)
    assert str(found) == "operators/sample +5, regressed"


@pytest.mark.parametrize(("before", "now"), [((0, 1), (1, 1)), (None, 1), (0, None), (0, (1,)), ((0,), 1)])
def test_a_move_from_zero_on_one_of_several_gpus_cannot_be_followed(before: Any, now: Any) -> None:
    with pytest.raises(NothingToFollow, match=f"{OPERATORS} was 0 on one of the GPUs"):
        followed(moved(OPERATORS, None, None, baseline=before, now=now))


def test_only_what_decided_the_row_is_followed_unless_it_is_named() -> None:
    metrics = moved(OPERATORS, 0.2), moved("loss_first", -9.0, status="improved"), moved("loss_last", 9.0, gates=False)

    assert followed(*metrics).metric == OPERATORS
    assert followed(*metrics, metric="loss_first").status == "improved"
    assert followed(*metrics, metric="loss_last").metric == "loss_last"


def test_a_metric_that_is_no_metric_is_said_to_be_none() -> None:
    with pytest.raises(NothingToFollow, match="nonsense is no metric; bisect another case or --metric"):
        followed(moved(OPERATORS, 0.2), metric="nonsense")


def test_a_metric_that_cannot_be_measured_in_the_bad_end_cannot_be_followed() -> None:
    with pytest.raises(NothingToFollow, match="there is nothing to follow"):
        signature_of(ends(measured(OPERATORS, 1.0), measured(outcome="crashed")), OPERATORS)


@pytest.mark.parametrize(("now", "answer"), [(2, "good"), (3, "bad")])
def test_a_mixture_of_a_move_from_zero_is_nearer_to_one_of_the_ends(now: int, answer: Answer) -> None:
    signature = Signature("synchronisations_per_sample", "regressed", 5, relative=False)
    a, b = measured("synchronisations_per_sample", 0), measured("synchronisations_per_sample", now)

    found, told = signature.answer(Held(signature.judge()(a, b), a, b))

    assert (found, told) == (answer, f"0 -> {now}")


def test_a_mixture_tells_how_the_metric_moved() -> None:
    signature = Signature(OPERATORS, "regressed", 0.2)
    a, b = measured(OPERATORS, 100.0), measured(OPERATORS, 120.0)

    assert signature.answer(Held(signature.judge()(a, b), a, b)) == ("bad", "100 -> 120, +20.0 %")


def test_a_mixture_that_moved_the_other_way_is_good() -> None:
    signature = Signature(OPERATORS, "improved", -0.2)
    a, b = measured(OPERATORS, 100.0), measured(OPERATORS, 130.0)

    assert signature.answer(Held(signature.judge()(a, b), a, b))[0] == "good"


def test_a_mixture_whose_good_side_does_not_measure_is_passed_over() -> None:
    crash, fine = measured(outcome="crashed"), measured(OPERATORS, 100.0)

    assert Signature(OPERATORS, "regressed", 0.2).answer(ends(crash, fine))[0] == "skip"


def test_an_outcome_is_told_by_its_name() -> None:
    assert str(Signature(None, "regressed", outcome="oom")) == "outcome oom"
    assert str(Signature(OPERATORS, "regressed", 0.2)) == "operators/sample +20.0 %, regressed"


def test_a_verdict_on_one_metric_alone_is_that_metrics() -> None:
    one = moved(OPERATORS, 0.2, gates=False, reason="so")
    row = RowVerdict(status="unchanged", metrics=(moved("loss_first", 0.1), one), reason="why")

    found = narrowed(row, OPERATORS)

    assert (found.status, found.reason) == ("regressed", "so")
    assert [(metric.metric, metric.gates) for metric in found.metrics] == [(OPERATORS, True)]
    assert narrowed(row, "loss_last") == row


def test_an_even_mixture_is_asked_about_first() -> None:
    ask = asked("a")

    search("abcd", independent("abcd"), ask)

    assert [len(mixture) for mixture in ask.measured] == [2, 1]


def test_the_smallest_mixture_that_has_the_change_is_kept() -> None:
    implied = independent("abcd") | {"a": frozenset("abc")}
    found = search("abcd", implied, asked("a", breaks=lambda mixture: mixture == frozenset("a")))

    assert found.mixture == frozenset("abc")


def test_what_was_cleared_may_be_needed_beside_the_others() -> None:
    def breaks(mixture: frozenset[str]) -> bool:
        return "d" not in mixture and len(mixture) < 2

    found = search("abcd", independent("abcd"), asked("b", breaks=breaks))

    assert (found.suspects, found.how) == (("b",), "left")
    assert "b" in found.mixture


def test_no_more_than_a_dozen_halvings_are_tried() -> None:
    tried: list[frozenset[str]] = []

    def ask(mixture: frozenset[str]) -> Answer:
        tried.append(mixture)
        return "skip"

    found = search("abcdefgh", independent("abcdefgh"), ask)

    assert (found.how, len(tried)) == ("stuck", 12)


def test_a_mixture_tells_memory_in_its_unit() -> None:
    signature = Signature("peak_reserved_bytes", "regressed", 1.0)
    a, b = measured("peak_reserved_bytes", (2**30,)), measured("peak_reserved_bytes", (2**31,))

    assert signature.answer(Held(signature.judge()(a, b), a, b)) == ("bad", "1.00 -> 2.00, +100.0 %")
