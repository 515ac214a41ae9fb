from __future__ import annotations

import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import pytest

import marked
import surroundings
from nursery import Ended, Nursery
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result, read_results

HERE = Path(__file__).parent
PATIENCE_SECONDS = 60.0
"""For a busy machine; nothing here takes so long."""
LOADER = ("LD_LIBRARY_PATH", "LD_PRELOAD")
ROWS = """
import pytest
from pytest_llmbench import Case

@pytest.mark.parametrize("name", {names!r})
def test_{table}(llmbench, name):
    llmbench(Case.custom("steps:build", name=name))
"""


class Suite:
    """
    A folder with tests that measure, and runs of pytest over it, each in a process of its own.

    What a row does is in its name, see `faulty.measure`. Everything that a run starts carries a mark.
    """

    def __init__(self, folder: Path, nursery: Callable[[Mapping[str, str]], Nursery]) -> None:
        self.folder = folder
        self._nursery = nursery
        self.mark = uuid.uuid4().hex
        self.environ = _clean_environ(self.mark)
        self.prefix: Sequence[str] = ()
        """A command that runs the command that follows it."""

    @property
    def result_file(self) -> Path:
        return self.folder / "r.jsonl"

    def rows(self, *names: str, table: str = "speed") -> None:
        """One test with a row for each name."""
        (self.folder / f"test_{table}.py").write_text(ROWS.format(names=names, table=table))

    def test(self, body: str) -> None:
        """One test that is no row."""
        (self.folder / "test_own.py").write_text(f"import pytest\nfrom pytest_llmbench import Case\n\n{body}")

    def start(self, *options: str, plugin: str = "faulty", results: str = "--llmbench-results") -> Run:
        """Start a run that writes `result_file`."""
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "pytest",
            *self._arguments(*options, plugin=plugin, results=results),
        ]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=marked.heed_signals,  # noqa: PLW1509 - these tests have no threads
        )
        return Run(self, process)

    def run(self, *options: str, plugin: str = "faulty", results: str = "--llmbench-results") -> Ended:
        """Run to the end."""
        if self.prefix:
            return self.start(*options, plugin=plugin, results=results).end()
        arguments = self._arguments(*options, plugin=plugin, results=results)
        return self._nursery(self.environ).run(self.folder, self.environ, *arguments)

    def _arguments(self, *options: str, plugin: str, results: str) -> list[str]:
        plugins = ("-p", "no:cacheprovider", "-p", plugin, "-p", "pytest_llmbench.plugin")
        return [*plugins, "--llmbench", f"{results}={self.result_file}", *options]

    def resume(self, *options: str) -> Ended:
        """Run again where the run before was ended; its rows do now as they should."""
        self.environ["LLMBENCH_TEST_MENDED"] = "yes"
        return self.run(*options, results="--llmbench-resume")

    def results(self) -> tuple[Result, ...]:
        return read_results(self.result_file)

    def rows_on_disk(self) -> list[str]:
        """The rows of whole lines, while a run is still writing."""
        return [result.row for result in self.results()] if self.result_file.exists() else []

    def recorded(self, table: str = "speed") -> list[str]:
        """Rows that have a baseline."""
        file = BaselineStore(self.folder / "baselines").load("cpu", table)
        return sorted(file.rows) if file else []

    def running(self) -> dict[int, int]:
        return marked.running(self.mark)


class Run:
    """A run of pytest that goes on meanwhile."""

    def __init__(self, suite: Suite, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._suite = suite
        self._shown = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: int) -> None:
        """A signal, as from a terminal or a scheduler: to pytest alone."""
        self.process.send_signal(number)

    def await_rows(self, *rows: str) -> None:
        """Wait until these rows are in the result file."""
        self._await(lambda: set(rows) <= set(self._suite.rows_on_disk()), f"row {rows}")

    def await_measuring(self, name: str) -> None:
        """Wait until a process is measuring the row of this name."""
        self._await((self._suite.folder / f"{name}.reached").exists, f"a process that measures {name}")

    def read_until(self, text: str) -> str:
        """Wait until the run has shown *text*; everything that it has shown since it was last read."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self._shown:
            ready = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(self.process.stdout.fileno(), 2**16) if ready else b""
            assert data, f"the run did not show {text!r}:\n{self._shown}"
            self._shown += data.decode(errors="replace")
        return self._shown

    def end(self) -> Ended:
        """Wait for the end."""
        shown, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return Ended(self.process.returncode, self._shown + shown.decode(errors="replace"))

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        def condition_or_end() -> bool:
            return condition() or self.process.poll() is not None

        await_that(condition_or_end)
        assert condition(), f"the run ended before there was {what}:\n{self.end().text}"


def _clean_environ(mark: str) -> dict[str, str]:
    """This process's, without what would have a say in the runs."""
    ours = ("CUDA_", "FAKE_NVML_", "PYTEST_", "LLMBENCH_")
    unwanted = (*ours, "PYTHONUNBUFFERED", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "PY_COLORS")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return environ | {
        marked.MARK: mark,
        "PYTHONPATH": surroundings.python_path(HERE),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
    }


def await_that(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Mapping[str, str]], Nursery]]:
    """The one whose forks have what the dynamic loader is told by an environment."""
    with ExitStack() as opened:
        known: dict[tuple[str | None, ...], Nursery] = {}

        def of(environ: Mapping[str, str]) -> Nursery:
            loader = tuple(map(environ.get, LOADER))
            if loader not in known:
                plain = _clean_environ("none") | {name: environ[name] for name in LOADER if name in environ}
                said = tmp_path_factory.mktemp("nursery") / "said.txt"
                known[loader] = opened.enter_context(Nursery(plain, said, ["pytest_llmbench.plugin.run"]))
            return known[loader]

        yield of


@pytest.fixture
def suite(tmp_path: Path, nursery: Callable[[Mapping[str, str]], Nursery]) -> Iterator[Suite]:
    """An empty one; whatever its test did, nothing may be left running."""
    made = Suite(tmp_path, nursery)
    yield made
    try:
        await_that(lambda: not made.running())
    finally:
        for pid in made.running():
            os.kill(pid, signal.SIGKILL)


class Executor:
    """A local executor whose processes carry a mark, and what it said."""

    def __init__(self, timeout_seconds: float, folder: Path, measure: str) -> None:
        self.mark = uuid.uuid4().hex
        self.announced: list[str] = []
        self.environ = _clean_environ(self.mark) | {"LLMBENCH_TEST_FOLDER": str(folder)}
        preload = (measure.partition(":")[0],) if measure.startswith("faulty") else ()
        self.local = LocalExecutor(
            timeout_seconds=timeout_seconds,
            announce=self.announced.append,
            measure=measure,
            preload=preload,
            environ=self.environ,
        )

    def run(self, name: str, device: Literal["cpu", "cuda"] = "cpu", visible_devices: str | None = None) -> Measurement:
        """Measure the case of this name."""
        case, workload = Case.custom("steps:build", name=name), Workload(device=device)
        request = Request(case=case, workload=workload, visible_devices=visible_devices)
        return self.local.run(request, lambda _: None)

    def survivors(self) -> list[int]:
        """Whatever runs beside the server."""
        return marked.survivors(self.mark)


@pytest.fixture
def new_executor(tmp_path: Path) -> Iterator[Callable[..., Executor]]:
    made: list[Executor] = []

    def make(timeout_seconds: float = PATIENCE_SECONDS, measure: str = "faulty:measure") -> Executor:
        made.append(Executor(timeout_seconds, tmp_path, measure))
        return made[-1]

    yield make
    for executor in made:
        assert executor.survivors() == []
        executor.local.close()
        assert marked.running(executor.mark) == {}


@pytest.fixture
def executor(new_executor: Callable[..., Executor]) -> Executor:
    """One that waits as long as it takes."""
    return new_executor()


@pytest.fixture(scope="session")
def compile_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a shared library from C, once; skips where there is no compiler."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)

    @functools.cache
    def build(source: Path | str, name: str) -> Path:
        if compiler is None:
            pytest.skip("no C compiler")
        folder = tmp_path_factory.mktemp("library")
        if isinstance(source, str):
            (folder / "source.c").write_text(source)
            source = folder / "source.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / name, source, "-ldl"], check=True)
        return folder / name

    return build


@pytest.fixture(scope="session")
def fake_nvml(compile_library: Callable[..., Path]) -> Path:
    """The folder of the library built from `tests/unit/fake_nvml.c`."""
    return compile_library(HERE.parent / "unit" / "fake_nvml.c", "libnvidia-ml.so.1").parent
