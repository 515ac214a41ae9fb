"""`python -m pytest_llmbench.cli` is `llmbench`."""

from __future__ import annotations

from pytest_llmbench.cli import main

main()
