"""
One pytest run with the main switch on: builds the gate, collects the results, says what came of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from pytest_llmbench.baselines.file import BaselineError
from pytest_llmbench.baselines.store import folder_name
from pytest_llmbench.bench import Llmbench, row_name
from pytest_llmbench.gate import Gate, GateError
from pytest_llmbench.judge.tolerance import ToleranceError, parse_tolerances
from pytest_llmbench.options import Settings, resolve
from pytest_llmbench.reports.progress import Progress
from pytest_llmbench.reports.table import report_tables
from pytest_llmbench.reports.terminal import render
from pytest_llmbench.results import Result, ResultError, ResultLog, read_results
from pytest_llmbench.units import gib, seconds
from pytest_llmbench.workload import Workload, parse_injection

if TYPE_CHECKING:
    from _pytest.capture import CaptureManager

__all__ = ["RESULTS_PROPERTY", "Run"]

RESULTS_PROPERTY = "llmbench"
"""Attribute of a test report that carries results, as plain values, from an xdist worker to the controller."""

_GITIGNORE = "# Results of llmbench runs; baselines are kept elsewhere.\n*\n"


class Run:
    """
    What the hooks of `plugin.py` share while the switch is on.

    Raises:
        pytest.UsageError: the options cannot be carried out, said with the option's name.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.results: list[Result] = []
        self._settings = resolve(config)
        self._announcements: list[str] = []
        self._is_worker = hasattr(config, "workerinput")
        self._log: ResultLog | None = None
        self._progress = Progress(self._show_status, self._write_line)
        try:
            resumed = read_results(self._settings.resume) if self._settings.resume else ()
            self.gate = Gate(
                self._settings,
                _workload(self._settings),
                parse_tolerances(self._settings.tolerances),
                resumed,
                self.announce,
            )
            if not self._is_worker:
                self._log = ResultLog(
                    self._settings.results or self._settings.resume or _new_result_file(config.rootpath)
                )
        except (GateError, ResultError, ToleranceError) as error:
            raise pytest.UsageError(f"llmbench: {error}") from None

    def header(self) -> list[str]:
        """What is measured where, for the top of pytest's output."""
        workload = self.gate.workload
        samples = "whole epoch" if workload.samples == "full" else f"{workload.samples} samples"
        lines = [f"llmbench: {self._devices()}, scale {workload.scale}, {samples}, baselines {self._baselines()}"]
        if self._log is not None:
            lines.append(f"llmbench: results {_relative(self._log.path)}")
        if workload.injection is not None:
            lines.append(f"llmbench: planted in every step: {self._settings.injection}; nothing will be recorded")
        return lines

    def expect(self, items: Iterable[pytest.Item]) -> None:
        """Count the cases that are going to be measured."""
        self._progress.total = sum("llmbench" in getattr(item, "fixturenames", ()) for item in items)

    def bench(self, item: pytest.Item) -> Llmbench:
        """The fixture's value for one test; its results travel on the test's report."""
        results: list[Result] = []
        item.stash[_RESULTS] = results
        return Llmbench(self.gate, row_name(item), self._progress, results.append)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Put the test's results on its report as plain values, which xdist can send."""
        results = item.stash.get(_RESULTS, None)
        if report.when != "call" or results is None:
            return
        setattr(report, RESULTS_PROPERTY, msgspec.to_builtins(results))
        for result in results:
            report.user_properties.append(("llmbench_outcome", result.measurement.outcome))
            report.user_properties.append(("llmbench_verdict", result.verdict.status))

    def collect(self, report: pytest.TestReport) -> None:
        """
        Keep the results of a report, and write them down at once.

        Raises:
            pytest.Exit: the result file cannot be written any more.
        """
        if not hasattr(report, RESULTS_PROPERTY):
            return
        results = msgspec.convert(getattr(report, RESULTS_PROPERTY), tuple[Result, ...])
        self._progress.finish(results)
        for result in results:
            self.results.append(result)
            try:
                if self._log is not None and result.seconds:
                    self._log.append(result)
            except ResultError as error:
                pytest.exit(f"llmbench: {error}", returncode=pytest.ExitCode.INTERNAL_ERROR)
            self.config.hook.pytest_llmbench_result(result=result, config=self.config)

    def measured_nothing(self) -> str | None:
        """Why a strict run fails although no test did, or None."""
        if not self._settings.strict or any(result.measurement.outcome in ("ok", "oom") for result in self.results):
            return None
        return "--llmbench-strict: no case was measured"

    def summarise(self, reporter: pytest.TerminalReporter) -> None:
        """Tables, announcements and rows that were not run, at the end of pytest's output."""
        nothing = self.measured_nothing()
        if not (self.results or self._announcements or nothing):
            return
        reporter.section("llmbench")
        if reporter.verbosity >= 0:
            text = render(report_tables(self.results), width=reporter._tw.fullwidth, color=reporter._tw.hasmarkup)
            for line in text.splitlines():
                reporter._tw.line(line)
        for line in (*self._announcements, *self._not_run()):
            reporter.write_line(f"llmbench: {line}")
        reporter.write_line(self._totals())
        if nothing:
            reporter.write_line(f"llmbench: {nothing}", red=True)

    def announce(self, sentence: str) -> None:
        """Keep what the user should know for the end, once."""
        if sentence not in self._announcements:
            self._announcements.append(sentence)

    def close(self) -> None:
        self.gate.close()
        if self._log is not None:
            self._log.close()

    def _show_status(self, text: str) -> None:
        """On a terminal only, on a line of its own that pytest does not know of."""
        reporter = self._reporter()
        if reporter is None or not reporter.isatty:
            return
        with self._uncaptured():
            if text and reporter._tw.width_of_current_line:
                reporter._tw.line()
            width = reporter._tw.fullwidth - 1
            reporter._tw._file.write(f"\r{text[:width]:<{width}}" + ("" if text else "\r"))
            reporter._tw.flush()

    def _write_line(self, text: str) -> None:
        reporter = self._reporter()
        if reporter is None:
            return
        if reporter._tw.width_of_current_line:
            reporter._tw.line()
        reporter._tw.line(f"llmbench {text}")

    def _reporter(self) -> pytest.TerminalReporter | None:
        """pytest's own, unless nobody reads it: with -q, and in a process of pytest-xdist."""
        reporter: pytest.TerminalReporter | None = self.config.pluginmanager.get_plugin("terminalreporter")
        silent = reporter is None or self._is_worker or reporter.verbosity < 0
        return None if silent else reporter

    def _uncaptured(self) -> AbstractContextManager[None]:
        capture: CaptureManager | None = self.config.pluginmanager.get_plugin("capturemanager")
        return nullcontext() if capture is None else capture.global_and_fixture_disabled()

    def _devices(self) -> str:
        if self.gate.workload.device == "cpu":
            return "CPU"
        if not self.gate.gpus:
            return "no CUDA device"
        first = self.gate.gpus[0]
        memory = f" ({gib(first.total_memory_bytes)} GiB)" if first.total_memory_bytes else ""
        return f"{first.name}{memory}" + (f" x {len(self.gate.gpus)}" if len(self.gate.gpus) > 1 else "")

    def _baselines(self) -> str:
        return _relative(self.gate.store.root)

    def _not_run(self) -> list[str]:
        """Rows that have a baseline in a table of this run and were not part of it."""
        ran: dict[tuple[str, str], set[str]] = {}
        for result in self.results:
            environment = result.measurement.environment
            if environment is not None:
                folder = folder_name(environment, result.measurement.workload.scale)
                ran.setdefault((folder, result.table), set()).add(result.row)
        lines = []
        for (folder, table), rows in ran.items():
            try:
                stored = self.gate.store.load(folder, table)
            except BaselineError:
                continue  # the tests that needed it have failed with it
            missing = [row for row in stored.rows if row not in rows] if stored else []
            if missing:
                lines.append(f"{table}: {len(missing)} rows with a baseline were not run: {', '.join(missing)}")
        return lines

    def _totals(self) -> str:
        counts: dict[str, int] = {}
        for result in self.results:
            counts[result.verdict.status] = counts.get(result.verdict.status, 0) + 1
        told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no case was measured"
        spent = seconds(sum(result.seconds for result in self.results))
        where = f"; {_relative(self._log.path)}" if self._log is not None and self.results else ""
        return f"llmbench: {told}; {spent} of measuring{where}"


_RESULTS = pytest.StashKey[list[Result]]()


def _workload(settings: Settings) -> Workload:
    """
    Raises:
        pytest.UsageError: device and scale contradict each other, or the injection means nothing.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if settings.scale == "full" else "cpu"
    if device == "cpu" and settings.scale == "full":
        raise pytest.UsageError("llmbench: --llmbench-device=cpu runs miniatures only; add --llmbench-scale smoke")
    try:
        injection = parse_injection(settings.injection) if settings.injection else None
    except ValueError as error:
        raise pytest.UsageError(f"--llmbench-inject: {error}") from None
    return Workload(scale=settings.scale, device=device, samples=settings.samples, injection=injection)


def _new_result_file(root: Path) -> Path:
    folder = root / "llmbench-results"
    try:
        folder.mkdir(exist_ok=True)
        (folder / ".gitignore").write_text(_GITIGNORE, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{folder}: results cannot be written there: {error.strerror}") from error
    return folder / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.jsonl"


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
