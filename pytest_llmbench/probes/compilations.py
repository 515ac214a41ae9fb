"""
How many graphs torch.compile has compiled in this process.
"""

from __future__ import annotations

import sys

__all__ = ["compiled_graphs"]


def compiled_graphs() -> int:
    """0 where nothing has been compiled; looks, and imports nothing."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
