"""
What a waiting person sees while rows are measured: which, in which phase, how long, what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pytest_llmbench.schema.protocol import PRELOADING, Phase
from pytest_llmbench.schema.units import about, seconds
from pytest_llmbench.store.results import Result

__all__ = ["Progress"]


class Progress:
    """
    A status line while a row is measured, and a line that stays once it is judged.

    Args:
        show_status: puts a text in place of the status before it; an empty one takes it away.
        write_line: writes a line that stays.
    """

    def __init__(self, show_status: Callable[[str], None], write_line: Callable[[str], None]) -> None:
        self.total = 0
        """Rows that the run may measure; 0 if that is not known."""
        self._show_status = show_status
        self._write_line = write_line
        self._done = 0
        self._measured: list[float] = []
        self._started = 0.0
        self._row = ""
        self._imports = 0.0
        """Seconds that the row waited for imports, which later rows do not."""
        self._imports_since: float | None = None

    def start(self, row: str) -> None:
        """A row is going to be measured."""
        self._row = row
        self._started = time.monotonic()

    def phase(self, phase: Phase) -> None:
        """Its process enters a phase, knows its speed, or is still where it was."""
        self._note_imports(is_preload=phase.name == PRELOADING)
        speed = f" {phase.samples_per_second:.2f} samples/s" if phase.samples_per_second else ""
        elapsed = seconds(time.monotonic() - self._started)
        self._show_status(f"{self._place(self._done + 1)} {self._row}: {phase.name}{speed}, {elapsed}{self._left()}")

    def _note_imports(self, *, is_preload: bool) -> None:
        now = time.monotonic()
        if self._imports_since is not None:
            self._imports += now - self._imports_since
        self._imports_since = now if is_preload else None

    def end(self) -> None:
        """The row's process is gone."""
        self._note_imports(is_preload=False)
        self._show_status("")

    def finish(self, results: Sequence[Result], *, again: bool = False) -> None:
        """A test has its results; none if it could not be measured here. It is one row however often it runs."""
        self._done += not again
        for result in results:
            if result.seconds:
                self._measured.append(max(0.0, result.seconds - self._imports))
                self._imports = 0.0
            spent = f", {seconds(result.seconds)}" if result.seconds else ""
            told = f"{result.measurement.outcome}, {result.told}{spent}"
            self._write_line(f"{self._place(self._done)} {result.table}[{result.row}]: {told}{self._left()}")

    def _place(self, number: int) -> str:
        return f"[{number}/{self.total}]" if self.total else f"[{number}]"

    def _left(self) -> str:
        """An estimate from the rows measured so far, without the imports that only the first waits for."""
        remaining = self.total - self._done
        if not self._measured or remaining <= 0:
            return ""
        return f", about {about(sum(self._measured) / len(self._measured) * remaining)} left"
