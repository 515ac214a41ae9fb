"""The terminal that a command prints to."""

from __future__ import annotations

import os
import shutil
import sys

__all__ = ["columns", "has_color"]


def columns(otherwise: int = 120) -> int:
    """Of the terminal; where there is none, *otherwise*, which is enough for a table."""
    return shutil.get_terminal_size((otherwise, 24)).columns


def has_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
