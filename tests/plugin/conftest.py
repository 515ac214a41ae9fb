from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import scipy.special  # noqa: TID253 - see below

# Imported once here: pytester forgets whatever a run of its own was the first to import.
import forks
import pytest_llmbench.plugin.run
import surroundings
from pytest_llmbench.store.baseline import BaselineFile
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result, read_results

HERE = Path(__file__).parent
ROWS = """
import pytest
from pytest_llmbench import Case

@pytest.mark.parametrize("name", {names!r})
def test_speed(llmbench, name):
    llmbench(Case.custom("steps:build", name=name))
"""

assert pytest_llmbench.plugin.run
assert scipy.special


class Bench:
    """Runs of pytest in an empty folder, over an executor of `canned` or `processes`."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.folder = pytester.path
        self._answers: dict[str, Any] = {}

    def rows(self, *names: str) -> None:
        """One test with a row for each name."""
        self.pytester.makepyfile(test_rows=ROWS.format(names=names))

    def test(self, body: str) -> None:
        """One test that is no row."""
        self.pytester.makepyfile(
            test_own=f"import pytest\nfrom pytest_llmbench import Case\n\n{body}",
        )

    def answer(self, name: str, **fields: Any) -> None:
        """What the canned executor says of a row from now on."""
        self._answers[name] = fields
        (self.folder / "answers.json").write_bytes(msgspec.json.encode(self._answers))

    def answers(self, name: str, *each: dict[str, Any]) -> None:
        """What the canned executor says of a row, time after time; counts from the first time ever asked."""
        self._answers[name] = list(each)
        (self.folder / "answers.json").write_bytes(msgspec.json.encode(self._answers))

    def run(self, *options: str, plugin: str = "canned") -> pytest.RunResult:
        """In this process."""
        return self.pytester.runpytest_inprocess("-p", "pytest_llmbench.plugin", "-p", plugin, "--llmbench", *options)

    def run_apart(self, *options: str, plugin: str = "canned") -> pytest.RunResult:
        """In a process of its own."""
        return self.pytester.runpytest_subprocess("-p", "pytest_llmbench.plugin", "-p", plugin, "--llmbench", *options)

    def run_in_fork(self, *options: str, plugin: str) -> pytest.RunResult:
        """In a fork of this process, which has the imports; pytest-xdist does not start there."""
        return forks.run_pytest(self.pytester, "-p", "pytest_llmbench.plugin", "-p", plugin, "--llmbench", *options)

    def record(self) -> None:
        """Make a baseline of whatever the executor says now."""
        assert self.run("-q", "--llmbench-update=all").ret == 0
        self.forget()

    def asked(self) -> list[str]:
        """The rows that the canned executor was asked to measure so far."""
        path = self.folder / "asked.txt"
        return path.read_text().split() if path.exists() else []

    def forget(self) -> None:
        """Remove the traces of the runs so far, baselines apart."""
        (self.folder / "asked.txt").unlink(missing_ok=True)
        for path in self.result_files():
            path.unlink()

    def result_files(self) -> list[Path]:
        return sorted((self.folder / "llmbench-results").glob("*.jsonl"))

    def results(self, path: Path | None = None) -> tuple[Result, ...]:
        """Those of a file, or of the only run so far."""
        if path is None:
            (path,) = self.result_files()
        return read_results(path)

    def baseline(self, table: str = "speed", folder: str = "test-gpu") -> BaselineFile:
        file = BaselineStore(self.folder / "baselines").load(folder, table)
        assert file is not None
        return file

    def baseline_path(self, table: str = "speed", folder: str = "test-gpu") -> Path:
        return self.folder / "baselines" / folder / f"{table}.json"


def summary_of(run: pytest.RunResult) -> list[str]:
    """The lines of the plugin's own section at the end."""
    lines = run.outlines
    start = next(number for number, line in enumerate(lines) if re.fullmatch("=+ llmbench =+", line))
    end = next((number for number in range(start + 1, len(lines)) if lines[number].startswith("===")), len(lines))
    return lines[start + 1 : end]


def has_line(lines: Iterable[str], *words: str) -> bool:
    """Whether one line holds all of *words*."""
    return any(all(word in line for word in words) for line in lines)


@pytest.fixture
def bench(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Bench:
    pytester.syspathinsert(HERE)
    monkeypatch.setenv("PYTHONPATH", surroundings.python_path(HERE))
    # Neither other plugins that are installed nor the machine's GPUs have a say.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in (
        "NO_COLOR",
        "FORCE_COLOR",
        "PY_COLORS",
        "PYTEST_ADDOPTS",
        "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return Bench(pytester)
