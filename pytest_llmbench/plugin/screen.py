"""
Where pytest's own reporter shows things, for what is said while tests run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest
    from _pytest.capture import CaptureManager

__all__ = ["Screen"]


class Screen:
    """
    The terminal reporter of a run; silent with -q, and in a process of pytest-xdist, which has none.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager
        self._is_worker = hasattr(config, "workerinput")

    def status(self, text: str) -> None:
        """
        Put *text* in place of the status before it; an empty one takes it away.

        On a terminal only, on a line of its own that pytest does not know of.
        """
        reporter = self._reporter()
        if reporter is None or not reporter.isatty:
            return
        with self._uncaptured():
            if text and reporter._tw.width_of_current_line:
                reporter._tw.line()
            width = reporter._tw.fullwidth - 1
            reporter._tw._file.write(f"\r{text[:width]:<{width}}" + ("" if text else "\r"))
            reporter._tw.flush()

    def line(self, text: str) -> None:
        """Write a line that stays, to be read at once, in the log of a CI job too."""
        reporter = self._reporter()
        if reporter is None:
            return
        with self._uncaptured():
            if reporter._tw.width_of_current_line:
                reporter._tw.line()
            reporter._tw.line(f"llmbench {text}")
            reporter._tw.flush()

    def _reporter(self) -> pytest.TerminalReporter | None:
        reporter: pytest.TerminalReporter | None = self._plugins.get_plugin("terminalreporter")
        silent = reporter is None or self._is_worker or reporter.verbosity < 0
        return None if silent else reporter

    def _uncaptured(self) -> AbstractContextManager[None]:
        capture: CaptureManager | None = self._plugins.get_plugin("capturemanager")
        return nullcontext() if capture is None else capture.global_and_fixture_disabled()
