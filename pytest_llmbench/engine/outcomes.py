"""
Why a case did not give numbers although nothing crashed; the worker turns each into its outcome.
"""

from __future__ import annotations

__all__ = ["Diverged", "FellBack", "Unavailable"]


class Unavailable(Exception):
    """A part that the case asks for is missing or cannot run here; the message says which and why."""


class Diverged(Exception):
    """The loss or the gradient norm is not finite."""


class FellBack(Exception):
    """Something else ran than the case asked for."""
