"""
The pytest hooks and the `llmbench` fixture, nothing else.

Imported by every pytest run on the machine: what measures and judges is imported once it is used.
"""

from __future__ import annotations

import pytest

from pytest_llmbench import options


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
