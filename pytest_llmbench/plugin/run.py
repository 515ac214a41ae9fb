"""
One pytest run with the main switch on: builds the gate, collects the results, says what came of them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import shlex
import signal
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llmbench.executors import Executor, Scheduling
from pytest_llmbench.executors.choice import choose_executor, machine_of
from pytest_llmbench.executors.ray_cluster import Cluster
from pytest_llmbench.host.ci import ci_run
from pytest_llmbench.host.repository import repository_of
from pytest_llmbench.judge.tolerance import parse_tolerances
from pytest_llmbench.plugin.against import WORKER_KEY, against_commit
from pytest_llmbench.plugin.bench import Llmbench, row_name
from pytest_llmbench.plugin.benchmark import add_benchmark
from pytest_llmbench.plugin.options import OPTIONS, Settings, ini_value, resolve
from pytest_llmbench.plugin.screen import Screen
from pytest_llmbench.reports.changes import sentence_on
from pytest_llmbench.reports.html import ResultFile, html_report, why_unavailable
from pytest_llmbench.reports.markdown import write_step_summary
from pytest_llmbench.reports.progress import Progress
from pytest_llmbench.reports.summary import (
    common_shifts,
    gone,
    not_run,
    totals,
    unavailable,
    undecided,
    under_other_names,
)
from pytest_llmbench.reports.table import report_tables
from pytest_llmbench.reports.terminal import render
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.metrics import Tolerance, add_extensions
from pytest_llmbench.schema.units import counted
from pytest_llmbench.schema.workload import SEEN_ON_CPU, Workload, device_of, parse_injection, parse_memory
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import BaselineStore, why_no_name
from pytest_llmbench.store.changes import changes
from pytest_llmbench.store.files import from_here, leads_out
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.published import PublishedError, load_published
from pytest_llmbench.store.results import Result, ResultLog, UnwritableResult, latest, read_results
from pytest_llmbench.trials.gate import Gate, Policy, RowName

__all__ = ["REPORT_ATTRIBUTE", "Run"]

REPORT_ATTRIBUTE = "llmbench"
"""Name in a test report of what a process of pytest-xdist has to tell the controller, as plain values."""

_ROWS_KEY = "llmbench_rows"
_GITIGNORE = "# Results of llmbench runs; baselines are kept elsewhere.\n*\n"
_PROPERTIES = ("llmbench_outcome", "llmbench_verdict")


class _Test(msgspec.Struct):
    """Outcome of one attempt at a test."""

    name: str
    """Table and row, as `Result.name`."""
    results: list[Result] = []
    num_measured: int = 0


class _News(msgspec.Struct, frozen=True):
    """News that a process of pytest-xdist gives the controller after a test."""

    test: _Test
    announcements: tuple[str, ...]


_TEST = pytest.StashKey[_Test]()


class Run:
    """
    What the hooks of `plugin.py` share while the switch is on.

    Raises:
        pytest.UsageError: the options cannot be carried out, said with the option's name.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._results: list[Result] = []
        self._ended: dict[str, _Test] = {}
        self._skipped: dict[str, str] = {}
        settings = resolve(config)
        self._against = against_commit(config, settings) if settings.baseline_ref else None
        self._settings = settings = self._against.settings if self._against else settings
        self._announcements: list[str] = []
        self._is_worker = hasattr(config, "workerinput")
        self._screen = Screen(config)
        self._progress = Progress(self._screen.status, self._screen.line)
        self._tests: dict[tuple[str, str], str] = {}
        self._ahead: list[tuple[RowName, Case]] = []
        self._kept_ahead: set[str] = set()
        self._rows: set[tuple[str, str]] = set()
        self._failing: set[str] = set()
        if broken := add_extensions():
            raise pytest.UsageError(f"--llmbench: {broken[0]}")
        with _blamed_on("--llmbench-tolerance"):
            self._tolerances = tolerances = parse_tolerances(settings.tolerances)
        with _blamed_on("--llmbench-resume"):
            written = read_results(settings.resume, self.announce) if settings.resume else ()
        with _blamed_on("--llmbench-baselines"):
            BaselineStore(settings.baselines).check_links()
        if settings.html and (missing := why_unavailable()):
            raise pytest.UsageError(f"--llmbench-html: {missing}")
        if settings.benchmark and config.getoption("--benchmark-disable", None) is None:
            raise pytest.UsageError("--llmbench-benchmark: pytest-benchmark is not installed or switched off")
        workload = _workload(settings)
        executor = self._executor(workload, written)
        self._resumed = self._still_true(written, executor)
        policy = Policy(**{name: getattr(settings, name) for name in Policy.__struct_fields__})
        self.gate = Gate(
            policy,
            workload,
            executor,
            tolerances=tolerances,
            announce=self.announce,
            resumed=self._resumed,
            repository=repository_of(config.rootpath, os.environ),
            ci=ci_run(os.environ),
            committed=self._against.baselines if self._against else None,
        )
        self._log: ResultLog | None = None
        if not self._is_worker:
            path = settings.results or settings.resume
            with _blamed_on("--llmbench-results"):
                self._log = ResultLog(path or _new_file(config.rootpath), written if path == settings.resume else ())
        self._before = _ending_on_sigterm()

    def header(self) -> list[str]:
        """Lines on what is measured where, for the top of pytest's output."""
        workload = self.gate.workload
        samples = "whole epoch" if workload.samples == "full" else f"{workload.samples} samples"
        baselines = from_here(self.gate.store.root) + (f" at {self._against.commit}" if self._against else "")
        lines = [f"llmbench: {self.gate.executor}, scale {workload.scale}, {samples}, baselines {baselines}"]
        if self._log is not None:
            lines.append(f"llmbench: results {from_here(self._log.path)}")
        if self._settings.resume is not None:
            lines.append(
                f"llmbench: resumes {from_here(self._settings.resume)}, which has {len(self._resumed)} results"
            )
        if workload.injection is not None:
            lines.append(f"llmbench: planted in every step: {workload.injection.text}; nothing will be recorded")
        return lines

    def expect(self, items: Iterable[pytest.Item]) -> None:
        """Count the tests that are going to measure, and have them measured ahead where the executor can."""
        chosen = [item for item in items if _uses_llmbench(item)]
        self.collected(chosen)
        self._progress.total = len(chosen)
        if isinstance(self.gate.executor, Scheduling):
            named = ((row_name(item), case) for item in chosen if (case := _case_of(item)) is not None)
            self._ahead = [(name, case) for name, case in named if why_no_name(name.table, name.row) is None]
            self.gate.executor.schedule(
                (request for name, case in self._ahead for request in self.gate.requests(name.nodeid, case)),
                on_ahead=self.keep_ahead,
            )

    def collected(self, items: Iterable[pytest.Item]) -> None:
        """Take in which rows there are, among them those that this run leaves out."""
        self._rows.update((name.table, name.row) for name in map(row_name, filter(_uses_llmbench, items)))

    def for_worker(self) -> dict[str, Any]:
        """What a process of pytest-xdist is told, as plain values."""
        return {} if self._against is None else {WORKER_KEY: self._against.commit.id}

    def for_controller(self) -> dict[str, Any]:
        """What a process of pytest-xdist tells at its end, as plain values."""
        return {_ROWS_KEY: [list(row) for row in sorted(self._rows)]}

    def take_from_worker(self, told: Mapping[str, Any]) -> None:
        """Take in what a process of pytest-xdist has told at its end."""
        self._rows.update((table, row) for table, row in told.get(_ROWS_KEY, ()))

    def bench(self, request: pytest.FixtureRequest) -> Llmbench:
        """The fixture's value for one test."""
        item: pytest.Item = request.node
        name = row_name(item)
        if not _uses_llmbench(item) and item.nodeid not in self._ended:
            self._progress.total += 1  # it takes the fixture by `request.getfixturevalue`, which nobody could foresee
        item.stash[_TEST] = test = _Test(name.text)
        item.user_properties[:] = [one for one in item.user_properties if one[0] not in _PROPERTIES]  # of a rerun

        def take(result: Result) -> None:
            test.results.append(result)
            item.user_properties.extend(
                zip(_PROPERTIES, (result.measurement.outcome, result.verdict.status), strict=True)
            )
            if not self._is_worker:
                self._keep(result)
            if self._settings.benchmark:
                add_benchmark(request, result)

        def count() -> None:
            test.num_measured += 1

        def stop(why: str) -> None:
            item.session.shouldfail = why  # not pytest.exit, at which pytest-xdist crashes

        return Llmbench(self.gate, name, self._progress, on_measured=count, on_result=take, stop=stop)

    def finish(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """A test is over: show its results, or let its last report carry them to the process that shows them."""
        if not _uses_llmbench(item):
            return
        test = item.stash.setdefault(_TEST, _Test(row_name(item).text))
        del item.stash[_TEST]  # another attempt has results of its own
        if not self._is_worker:
            self._end(item.nodeid, test)
            return
        setattr(report, REPORT_ATTRIBUTE, msgspec.to_builtins(_News(test, tuple(self._announcements))))
        self._announcements.clear()

    def receive(self, report: pytest.TestReport) -> None:
        """Take in why a test was skipped, and what a process of pytest-xdist has put on a report."""
        if self._is_worker:
            return
        if report.failed:
            self._failing.add(report.nodeid)
        if report.skipped and isinstance(report.longrepr, tuple):
            self._skipped[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
        if not hasattr(report, REPORT_ATTRIBUTE):
            return
        news = msgspec.convert(getattr(report, REPORT_ATTRIBUTE), _News)
        for sentence in news.announcements:
            self.announce(sentence)
        for result in news.test.results:
            self._keep(result)
        self._end(report.nodeid, news.test)

    def _end(self, nodeid: str, test: _Test) -> None:
        """One attempt at a test is over; of several the last counts."""
        self._progress.finish(test.results, again=nodeid in self._ended)
        self._ended[nodeid] = test

    def keep_ahead(self) -> None:
        """Write down what was measured ahead: should the run end before its test, `--llmbench-resume` takes it."""
        if self._log is None:
            return
        done = self._kept_ahead | self._tested
        for name, case in self._ahead:
            if name.nodeid not in done and (result := self.gate.ahead(name, case)) is not None:
                with suppress(ResultError):  # the next result that is told ends the run
                    self._log.append(result)
                    self._kept_ahead.add(name.nodeid)

    @property
    def results(self) -> tuple[Result, ...]:
        """Results that count: of a test that was run again, the last attempt's."""
        return latest(self._results)

    @property
    def _tested(self) -> set[str]:
        return {result.nodeid for result in self._results}

    def unjudged(self) -> list[str]:
        """Sentences on why a strict run fails although no test did: one for each reason that rows were not judged."""
        if not self._settings.strict or self._is_worker:
            return []
        rows: dict[str, list[str]] = {}
        for nodeid, test in self._ended.items():
            for name, why in _unjudged(test, self._skipped.get(nodeid)):
                rows.setdefault(why, []).append(name)
        told = [f"not judged, {why}: {', '.join(names)}" for why, names in rows.items()]
        if not any(result.unjudged is None for result in self.results):
            told.insert(0, "no case was measured and judged")
        told += self._hiding()
        return [f"--llmbench-strict: {sentence}" for sentence in told]

    def _hiding(self) -> Iterator[str]:
        """A sentence on whatever may keep a row that is worse from failing the run."""
        if self._against is not None:
            yield from self._against.hiding
            if rows := gone(self.gate.references, self.results, self._rows, everywhere=self._has_all_tests()):
                told = f"of all that were collected; they have a baseline at {self._against.commit}"
                yield f"no test has these rows any more, {told}: {', '.join(rows)}"
            if rows := under_other_names(
                self.gate.references, self.results, (one.name for one in self._ended.values())
            ):
                yield f"their tests judged another row in their place: {', '.join(rows)}"
        failed = [one for one in self.results if one.decision == "fail" and one.unjudged is None]
        caught = [one.name for one in failed if one.nodeid not in self._failing]
        if caught:
            yield f"failed, and the test did not fail (xfail, or a failure that it caught): {', '.join(caught)}"
        excused = [one.name for one in self.results if self.gate.passes_by(one, self._usual_limits())]
        if excused:
            yield f"passed only by the limits of --llmbench-tolerance: {', '.join(excused)}"

    def _usual_limits(self) -> dict[str, Tolerance]:
        """Limits without those of flags."""
        if self.config.getoption("--llmbench-tolerance") is None:
            return self._tolerances
        option = next(one for one in OPTIONS if one.name == "tolerance")
        ini = self._against.ini if self._against else {}
        return parse_tolerances(ini.get("tolerance", ini_value(self.config, option)))

    def _has_all_tests(self) -> bool:
        """Whether no file and no single test was named on the command line, so that whole folders were collected."""
        words = self.config.known_args_namespace.file_or_dir
        return all((self.config.invocation_params.dir / str(word)).is_dir() for word in words)

    def _on_commit(self) -> Iterator[str]:
        """What a run that is held against a commit has to say."""
        if self._against is None:
            return
        yield from self._against.edited
        added = [result.name for result in self.results if not result.recorded and self.gate.is_added(result)]
        if added:
            at = self._against.commit
            yield f"no baseline at {at}, held against the one that this change adds: {', '.join(added)}"
        folder = self._settings.baselines
        names = (str(self._against.commit), "the working tree")
        found = changes(self._against.baselines, self.gate.store, names=names)
        yield from sentence_on(found, command=f"llmbench baselines diff {self._against.commit.short}{_named(folder)}")

    def summarise(self, reporter: pytest.TerminalReporter) -> None:
        """Tables, announcements and rows that were not run, at the end of pytest's output."""
        unjudged, results = self.unjudged(), self.results
        if not (results or self._announcements or unjudged or self._kept_ahead or self._against):
            return
        reporter.section("llmbench")
        if reporter.verbosity >= 0:
            text = render(report_tables(results), width=reporter._tw.fullwidth, color=reporter._tw.hasmarkup)
            for line in text.splitlines():
                reporter._tw.line(line)
        said = (*common_shifts(results), *undecided(results), *unavailable(results))
        said = (*said, *not_run(self.gate.references, results), *self._lines_on_left(), *self._on_commit())
        said = said if self._settings.strict else (*said, *self._hiding())
        for line in (*self._announcements, *said, *self._write_reports()):
            reporter.write_line(f"llmbench: {line}")
        where = f"; {from_here(self._log.path)}" if self._log is not None and results else ""
        reporter.write_line(f"llmbench: {totals(results)}{where}")
        for sentence in unjudged:
            reporter.write_line(f"llmbench: {sentence}", red=True)

    def _lines_on_left(self) -> Iterator[str]:
        num_left = len(self._kept_ahead - self._tested)
        if num_left and self._log is not None:
            yield (
                f"{counted(num_left, 'row')} {'was' if num_left == 1 else 'were'} measured whose test the run ended before; "
                f"--llmbench-resume={from_here(self._log.path)} takes them from there"
            )

    def _write_reports(self) -> Iterator[str]:
        """Write what was asked for beside the terminal's tables; where it went, or why it did not."""
        if (told := write_step_summary(self.results, os.environ)) is not None:
            yield told
        if (path := self._settings.html) is None:
            return
        store = self.gate.references
        try:
            name = self._log.path.stem if self._log else "this run"
            page = html_report([ResultFile(name, self.results)], store=store, published=load_published(store.root))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
        except (OSError, BaselineError, PublishedError) as error:
            yield f"{path}: no report: {error}"
        else:
            yield f"report {from_here(path)}"

    def announce(self, sentence: str) -> None:
        """Say at once what the user should know, and again at the end, once."""
        if sentence not in self._announcements:
            self._announcements.append(sentence)
            self._screen.line(sentence)

    def close(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        self.gate.close()
        if self._log is not None:
            self._log.close()

    def _keep(self, result: Result) -> None:
        """
        Write a result down, and let plugins know of it.

        Raises:
            pytest.Exit: the result file cannot be written any more.
        """
        self._results.append(result)
        other = self._tests.setdefault((result.table, result.row), result.nodeid)
        if other != result.nodeid:
            self.announce(f"{other} and {result.nodeid} are one row of table {result.table!r}; rename one of the tests")
        try:
            if self._log is not None:
                self._log.append(result)
        except UnwritableResult as error:
            self.announce(str(error))
        except ResultError as error:
            pytest.exit(f"llmbench: {error}", returncode=pytest.ExitCode.INTERRUPTED)  # which still has its tables
        self.config.hook.pytest_llmbench_result(result=result, config=self.config)

    def _executor(self, workload: Workload, written: Iterable[Result]) -> Executor:
        supplied: Executor | None = self.config.hook.pytest_llmbench_executor(config=self.config)
        if supplied is not None:
            return supplied
        with _blamed_on("--llmbench-jobs"):
            executor = choose_executor(
                workload.device,
                timeout_seconds=self._settings.timeout_seconds,
                jobs=1 if self._is_worker else self._settings.jobs,  # processes of pytest-xdist are jobs themselves
                cluster=self._cluster(),
                known=itertools.chain(
                    BaselineStore(self._settings.baselines).measurements(), (result.measurement for result in written)
                ),
                announce=self.announce,
            )
        machine = machine_of(executor)
        if machine is not None and machine.no_gpu and self._settings.device == "cuda":
            raise pytest.UsageError(f"--llmbench-device=cuda: no CUDA device: {machine.no_gpu}")
        return executor

    def _cluster(self) -> Cluster | None:
        """
        Raises:
            pytest.UsageError: a GPU model is asked for, and no cluster.
        """
        address, model = self._settings.ray, self._settings.ray_gpu
        if address is not None:
            return Cluster(address=address, accelerator=model, working_dir=self.config.rootpath)
        if model is not None:
            raise pytest.UsageError("--llmbench-ray-gpu: say which cluster, with --llmbench-ray")
        return None

    def _still_true(self, written: Collection[Result], executor: Executor) -> list[Result]:
        """The results of an earlier run that this one would measure the same way."""
        machine = machine_of(executor)
        if machine is None:
            return list(written)
        measured = ((result, result.measurement) for result in written)
        kept = [result for result, one in measured if machine.is_as_in(one.environment, one.case)]
        if stale := len(written) - len(kept):
            self.announce(f"{stale} results to resume are of other packages or another device and are measured again")
        return kept


def _ending_on_sigterm() -> Any:
    """
    Have SIGTERM end the run as Ctrl-C does, so that a scheduler's kill leaves no process and loses no result.

    Returns:
        The handler before; None where another plugin has one, or this is not the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    return signal.signal(signal.SIGTERM, interrupt)


def _uses_llmbench(item: pytest.Item) -> bool:
    """Whether a test asks for the fixture, or has taken it by `request.getfixturevalue`."""
    return "llmbench" in getattr(item, "fixturenames", ()) or _TEST in item.stash


def _unjudged(test: _Test, skipped: str | None) -> Iterator[tuple[str, str]]:
    """Rows of a test that were not judged, each with the reason."""
    for result in test.results:
        if result.unjudged is not None:
            yield result.name, result.unjudged.partition("\n")[0]
    if len(test.results) < test.num_measured:
        yield test.name, "measured and not checked"
    elif not test.results:
        yield test.name, f"skipped: {skipped}" if skipped else "not measured"


def _named(folder: Path) -> str:
    """The option of a command by which it finds the baselines; nothing for those that it finds without."""
    there = from_here(folder)
    return "" if there == "baselines" else f" --baselines {shlex.quote(there)}"


def _case_of(item: pytest.Item) -> Case | None:
    """The case that a test is going to measure, as far as its parameters tell; None if it may be skipped."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or item.get_closest_marker("skip") is not None:
        return None
    found = [getattr(value, "case", value) for value in callspec.params.values()]
    return next((value for value in found if isinstance(value, Case)), None)


@contextmanager
def _blamed_on(option: str) -> Iterator[None]:
    """Errors in what users wrote become usage errors that name the option."""
    try:
        yield
    except ValueError as error:
        raise pytest.UsageError(f"{option}: {error}") from None


def _workload(settings: Settings) -> Workload:
    """
    Raises:
        pytest.UsageError: options contradict each other, or the injection means nothing.
    """
    device = device_of(settings.scale, settings.device)
    if device == "cpu" and settings.scale == "full":
        raise pytest.UsageError("--llmbench-device=cpu runs miniatures only; add --llmbench-scale=smoke")
    with _blamed_on("--llmbench-inject"):
        injection = parse_injection(settings.injection) if settings.injection else None
    if device == "fake" and settings.scale == "smoke":
        raise pytest.UsageError("--llmbench-device=fake runs the published size; leave --llmbench-scale=smoke out")
    if injection is not None and device == "fake":
        raise pytest.UsageError("--llmbench-inject: nothing can be planted where nothing runs, as with a fake device")
    if injection is not None and injection.kind not in SEEN_ON_CPU and device == "cpu":
        raise pytest.UsageError(
            f"--llmbench-inject: {injection.kind}=... needs a GPU, since no time and no memory is judged on the CPU; "
            "plant memory=64MiB, which the CPU sees as one more operator"
        )
    with _blamed_on("--llmbench-memory"):
        memory_bytes = parse_memory(settings.memory) if settings.memory else None
    if memory_bytes is not None and device == "cpu":
        raise pytest.UsageError("--llmbench-memory: the CPU has no memory of its own; use a GPU, or a fake device")
    return Workload(
        scale=settings.scale,
        device=device,
        samples=settings.samples,
        injection=injection,
        memory_bytes=memory_bytes,
    )


def _new_file(root: Path) -> Path:
    """
    Raises:
        ResultError: there can be no folder of results.
    """
    folder = root / "llmbench-results"
    ignore = folder / ".gitignore"
    for path in (folder, ignore):
        if there := leads_out(path, root):
            raise ResultError(f"{path} is a link to {there}, out of {root}; remove it, or name a file of results")
    try:
        folder.mkdir(exist_ok=True)
        if not ignore.exists():
            ignore.write_text(_GITIGNORE, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{folder}: results cannot be written there: {error.strerror}") from error
    return folder / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.jsonl"
