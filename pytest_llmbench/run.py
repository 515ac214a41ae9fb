"""
One pytest run with the main switch on: builds the gate, collects the results, says what came of them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llmbench.baselines.file import BaselineError
from pytest_llmbench.baselines.published import PublishedError, load_published
from pytest_llmbench.baselines.store import BaselineStore
from pytest_llmbench.bench import Llmbench, row_name
from pytest_llmbench.cases import Case
from pytest_llmbench.executors import Executor, Scheduling
from pytest_llmbench.executors.choice import choose_executor, machine_of
from pytest_llmbench.executors.ray_cluster import Cluster
from pytest_llmbench.gate import Gate, RowName
from pytest_llmbench.judge.tolerance import parse_tolerances
from pytest_llmbench.metrics import add_extensions
from pytest_llmbench.options import Settings, resolve
from pytest_llmbench.reports.benchmark import add_benchmark
from pytest_llmbench.reports.html import ResultFile, html_report, why_unavailable
from pytest_llmbench.reports.markdown import write_step_summary
from pytest_llmbench.reports.progress import Progress
from pytest_llmbench.reports.screen import Screen
from pytest_llmbench.reports.summary import common_shifts, not_run, totals, unavailable, undecided
from pytest_llmbench.reports.table import report_tables
from pytest_llmbench.reports.terminal import render
from pytest_llmbench.results import Result, ResultError, ResultLog, read_results
from pytest_llmbench.workload import SEEN_ON_CPU, Workload, parse_injection

__all__ = ["REPORT_ATTRIBUTE", "Run"]

REPORT_ATTRIBUTE = "llmbench"
"""Of a test report: what a process of pytest-xdist has to tell the controller, as plain values."""

_GITIGNORE = "# Results of llmbench runs; baselines are kept elsewhere.\n*\n"
_RESULTS = pytest.StashKey[list[Result]]()


class _News(msgspec.Struct, frozen=True):
    """What a process of pytest-xdist tells the controller after a test."""

    results: tuple[Result, ...]
    announcements: tuple[str, ...]


class Run:
    """
    What the hooks of `plugin.py` share while the switch is on.

    Raises:
        pytest.UsageError: the options cannot be carried out, said with the option's name.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.results: list[Result] = []
        self._settings = settings = resolve(config)
        self._announcements: list[str] = []
        self._is_worker = hasattr(config, "workerinput")
        self._screen = Screen(config)
        self._progress = Progress(self._screen.status, self._screen.line)
        self._tests: dict[tuple[str, str], str] = {}
        self._ahead: list[tuple[RowName, Case]] = []
        self._kept_ahead: set[str] = set()
        if broken := add_extensions():
            raise pytest.UsageError(f"--llmbench: {broken[0]}")
        with _blamed_on("--llmbench-tolerance"):
            tolerances = parse_tolerances(settings.tolerances)
        with _blamed_on("--llmbench-resume"):
            written = read_results(settings.resume) if settings.resume else ()
        if settings.html and (missing := why_unavailable()):
            raise pytest.UsageError(f"--llmbench-html: {missing}")
        if settings.benchmark and config.getoption("--benchmark-disable", None) is None:
            raise pytest.UsageError("--llmbench-benchmark: pytest-benchmark is not installed or switched off")
        workload = _workload(settings)
        executor = self._executor(workload, written)
        self._resumed = self._still_true(written, executor)
        self.gate = Gate(
            settings, workload, executor, tolerances=tolerances, announce=self.announce, resumed=self._resumed
        )
        self._log = None if self._is_worker else _open_log(settings, config.rootpath, written)
        self._before = _ending_on_sigterm()

    def header(self) -> list[str]:
        """What is measured where, for the top of pytest's output."""
        workload = self.gate.workload
        samples = "whole epoch" if workload.samples == "full" else f"{workload.samples} samples"
        baselines = _relative(self.gate.store.root)
        lines = [f"llmbench: {self.gate.executor}, scale {workload.scale}, {samples}, baselines {baselines}"]
        if self._log is not None:
            lines.append(f"llmbench: results {_relative(self._log.path)}")
        if self._settings.resume is not None:
            lines.append(
                f"llmbench: resumes {_relative(self._settings.resume)}, which has {len(self._resumed)} results"
            )
        if workload.injection is not None:
            lines.append(f"llmbench: planted in every step: {workload.injection.told}; nothing will be recorded")
        return lines

    def expect(self, items: Iterable[pytest.Item]) -> None:
        """Count the tests that are going to measure, and have them measured ahead where the executor can."""
        chosen = [item for item in items if _uses_llmbench(item)]
        self._progress.total = len(chosen)
        self.gate.num_rows = max(1, len(chosen))
        if isinstance(self.gate.executor, Scheduling):
            self._ahead = [(row_name(item), case) for item in chosen if (case := _case_of(item)) is not None]
            self.gate.executor.schedule(
                (request for name, case in self._ahead for request in self.gate.requests(name.nodeid, case)),
                on_ahead=self.keep_ahead,
            )

    def bench(self, request: pytest.FixtureRequest) -> Llmbench:
        """The fixture's value for one test."""
        item: pytest.Item = request.node
        results: list[Result] = []
        item.stash[_RESULTS] = results

        def take(result: Result) -> None:
            results.append(result)
            item.user_properties.append(("llmbench_outcome", result.measurement.outcome))
            item.user_properties.append(("llmbench_verdict", result.verdict.status))
            if not self._is_worker:
                self._keep(result)
            if self._settings.benchmark:
                add_benchmark(request, result)

        def stop(why: str) -> None:
            item.session.shouldfail = why  # not pytest.exit, at which pytest-xdist crashes

        return Llmbench(self.gate, row_name(item), self._progress, take, stop)

    def finish(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """A test is over: show its results, or let its last report carry them to the process that shows them."""
        if not _uses_llmbench(item):
            return
        results = item.stash.get(_RESULTS, [])
        if not self._is_worker:
            self._progress.finish(results)
            return
        setattr(report, REPORT_ATTRIBUTE, msgspec.to_builtins(_News(tuple(results), tuple(self._announcements))))
        self._announcements.clear()

    def receive(self, report: pytest.TestReport) -> None:
        """Take in what a process of pytest-xdist has put on a report."""
        if self._is_worker or not hasattr(report, REPORT_ATTRIBUTE):
            return
        news = msgspec.convert(getattr(report, REPORT_ATTRIBUTE), _News)
        for sentence in news.announcements:
            self.announce(sentence)
        for result in news.results:
            self._keep(result)
        self._progress.finish(news.results)

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
    def _tested(self) -> set[str]:
        return {result.nodeid for result in self.results}

    def measured_nothing(self) -> str | None:
        """Why a strict run fails although no test did, or None."""
        judged = any(
            result.measurement.outcome in ("ok", "oom") and result.decision != "skip" for result in self.results
        )
        if not self._settings.strict or self._is_worker or judged:
            return None
        return "--llmbench-strict: no case was measured and judged"

    def summarise(self, reporter: pytest.TerminalReporter) -> None:
        """Tables, announcements and rows that were not run, at the end of pytest's output."""
        nothing = self.measured_nothing()
        if not (self.results or self._announcements or nothing or self._kept_ahead):
            return
        reporter.section("llmbench")
        if reporter.verbosity >= 0:
            text = render(report_tables(self.results), width=reporter._tw.fullwidth, color=reporter._tw.hasmarkup)
            for line in text.splitlines():
                reporter._tw.line(line)
        said = (*common_shifts(self.results), *undecided(self.results), *unavailable(self.results))
        said = (*said, *not_run(self.gate.store, self.results), *self._told_left())
        for line in (*self._announcements, *said, *self._write_reports()):
            reporter.write_line(f"llmbench: {line}")
        where = f"; {_relative(self._log.path)}" if self._log is not None and self.results else ""
        reporter.write_line(f"llmbench: {totals(self.results)}{where}")
        if nothing:
            reporter.write_line(f"llmbench: {nothing}", red=True)

    def _told_left(self) -> Iterator[str]:
        num_left = len(self._kept_ahead - self._tested)
        if num_left and self._log is not None:
            rows = "1 row was" if num_left == 1 else f"{num_left} rows were"
            yield (
                f"{rows} measured whose test the run ended before; "
                f"--llmbench-resume {_relative(self._log.path)} takes them from there"
            )

    def _write_reports(self) -> Iterator[str]:
        """Write what was asked for beside the terminal's tables; where it went, or why it did not."""
        if (told := write_step_summary(self.results, os.environ)) is not None:
            yield told
        if (path := self._settings.html) is None:
            return
        store = self.gate.store
        try:
            name = self._log.path.stem if self._log else "this run"
            page = html_report(
                [ResultFile(name, tuple(self.results))], store=store, published=load_published(store.root)
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
        except (OSError, BaselineError, PublishedError) as error:
            yield f"{path}: no report: {error}"
        else:
            yield f"report {_relative(path)}"

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
        self.results.append(result)
        other = self._tests.setdefault((result.table, result.row), result.nodeid)
        if other != result.nodeid:
            self.announce(f"{other} and {result.nodeid} are one row of table {result.table!r}; rename one of the tests")
        try:
            if self._log is not None:
                self._log.append(result)
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
        if address is None:
            if model is not None:
                raise pytest.UsageError("--llmbench-ray-gpu: say which cluster, with --llmbench-ray")
            return None
        return Cluster(address=address, accelerator=model, working_dir=self.config.rootpath)

    def _still_true(self, written: Iterable[Result], executor: Executor) -> list[Result]:
        """The results of an earlier run that this one would measure the same way."""
        machine = machine_of(executor)
        if machine is None:
            return list(written)
        kept, stale = [], 0
        for result in written:
            if machine.is_as_in(result.measurement.environment, result.measurement.case):
                kept.append(result)
            else:
                stale += 1
        if stale:
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
    return "llmbench" in getattr(item, "fixturenames", ())


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
    device = settings.device
    if device == "auto":
        device = "cuda" if settings.scale == "full" else "cpu"
    if device == "cpu" and settings.scale == "full":
        raise pytest.UsageError("--llmbench-device=cpu runs miniatures only; add --llmbench-scale smoke")
    with _blamed_on("--llmbench-inject"):
        injection = parse_injection(settings.injection) if settings.injection else None
    if injection is not None and injection.kind not in SEEN_ON_CPU and device == "cpu":
        raise pytest.UsageError(
            f"--llmbench-inject: {injection.kind}=... needs a GPU, since no time and no memory is judged on the CPU; "
            "plant memory=64MiB, which the CPU sees as one more operator"
        )
    return Workload(scale=settings.scale, device=device, samples=settings.samples, injection=injection)


def _open_log(settings: Settings, root: Path, written: Iterable[Result]) -> ResultLog:
    """
    Raises:
        pytest.UsageError: results cannot be written there.
    """
    path = settings.results or settings.resume
    with _blamed_on("--llmbench-results"):
        return ResultLog(path or _new_file(root), written if path == settings.resume else ())


def _new_file(root: Path) -> Path:
    """
    Raises:
        ResultError: there can be no folder of results.
    """
    folder = root / "llmbench-results"
    ignore = folder / ".gitignore"
    try:
        folder.mkdir(exist_ok=True)
        if not ignore.exists():
            ignore.write_text(_GITIGNORE, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{folder}: results cannot be written there: {error.strerror}") from error
    return folder / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.jsonl"


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
