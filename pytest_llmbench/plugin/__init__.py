"""
The pytest hooks and the `llmbench` fixture, nothing else.

Imported by every pytest run on the machine: what measures and judges is imported once it is used.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmbench.plugin import hookspecs, options

if TYPE_CHECKING:
    from pytest_llmbench.plugin.bench import Llmbench
    from pytest_llmbench.plugin.run import Run

_GRID = Path(__file__).with_name("grid.py")
_RUN = pytest.StashKey["Run"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    if options.is_used(config):
        from pytest_llmbench.plugin.rootdir import why_lost

        if why := why_lost(config, options.FLAGS):
            raise pytest.UsageError(why)
    if options.chosen_model(config):
        asked_for = config.args if config.args_source is config.ArgsSource.ARGS else []
        config.args = [*asked_for, str(_GRID)]


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """The file of the standard grid is not in the user's project, where pytest would give its tests no file's name."""
    if module_path != _GRID:
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid=f"pytest_llmbench/{_GRID.name}")


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if options.switched_on(config):
        from pytest_llmbench.plugin.run import Run

        config.stash[_RUN] = run = Run(config)
        config.pluginmanager.register(_ReportListener(run), "llmbench-report-listener")


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    run = config.stash.get(_RUN, None)
    return run.header() if run is not None else []


def pytest_collection_finish(session: pytest.Session) -> None:
    run = session.config.stash.get(_RUN, None)
    if run is not None:
        run.expect(session.items)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    run = items[0].config.stash.get(_RUN, None) if items else None
    if run is not None:
        run.collected(items)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A process of pytest-xdist is about to start."""
    run = node.config.stash.get(_RUN, None)
    if run is not None:
        node.workerinput.update(run.for_worker())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of pytest-xdist has ended."""
    run = node.config.stash.get(_RUN, None)
    if run is not None:
        run.take_from_worker(getattr(node, "workeroutput", {}))


@pytest.fixture
def llmbench(request: pytest.FixtureRequest) -> Llmbench:
    """
    Measure a fine-tuning case in a fresh process and assert it against the stored baseline.

    `llmbench(Case(...))` does both; `llmbench.measure(case)` and `llmbench.check(measurement)` are
    the halves. Skips without `--llmbench`.
    """
    run = request.config.stash.get(_RUN, None)
    if run is None:
        pytest.skip("measures only with --llmbench")
    return run.bench(request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    run = item.config.stash.get(_RUN, None)
    if run is not None and report.when == "teardown":
        run.finish(item, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    run = session.config.stash.get(_RUN, None)
    if run is None:
        return
    run.keep_ahead()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput.update(run.for_controller())
    if exitstatus == pytest.ExitCode.OK and run.unjudged():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.summarise(terminalreporter)


class _ReportListener:
    """Hears of test reports together with the run, which the bare hook is not given."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(trylast=True)  # after the terminal has shown the test's letter
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._run.receive(report)
