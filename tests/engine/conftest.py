"""Tests of this folder import torch and what stands on it; without these none of them is collected."""

from __future__ import annotations

from importlib.util import find_spec

if not all(map(find_spec, ("torch", "transformers", "peft"))):
    collect_ignore_glob = ["test_*.py"]
