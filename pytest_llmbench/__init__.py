"""
Performance-regression tests for LLM fine-tuning, as a pytest plugin.

The names users type. They are imported when first used: every pytest run on a machine that has
the plugin imports this module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_llmbench.plugin.bench import Llmbench
    from pytest_llmbench.schema.case import Case, CaseError
    from pytest_llmbench.schema.measurement import Measurement
    from pytest_llmbench.schema.metrics import Metric, Noise, Tolerance
    from pytest_llmbench.schema.step import StepResult
    from pytest_llmbench.tables import TABLES

__all__ = [
    "TABLES",
    "Case",
    "CaseError",
    "Llmbench",
    "Measurement",
    "Metric",
    "Noise",
    "StepResult",
    "Tolerance",
    "__version__",
]

_HOMES = {
    "TABLES": "tables",
    "Case": "schema.case",
    "CaseError": "schema.case",
    "Llmbench": "plugin.bench",
    "Measurement": "schema.measurement",
    "Metric": "schema.metrics",
    "Noise": "schema.metrics",
    "StepResult": "schema.step",
    "Tolerance": "schema.metrics",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("pytest-llmbench")
        except PackageNotFoundError:
            return "0+checkout"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
