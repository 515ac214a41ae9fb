"""Two environments, or two result files, held against each other case by case."""

from __future__ import annotations
