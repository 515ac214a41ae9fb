"""
Environments to measure in: this one, a virtual environment, or one installed from a requirements file.

The worker is brought along, so that an environment needs the libraries under test and nothing of ours.
"""

from __future__ import annotations

__all__ = ["StackError"]


class StackError(ValueError):
    """An environment that cannot be measured in; the message says which, why, and what would do."""
