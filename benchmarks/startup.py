"""
What the plugin costs a pytest run that does not use it: the import of its hooks, beside that of pytest.

    python -m benchmarks.startup
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys

RUNS = 9
IMPORTED = r"import time: +\d+ \| +(\d+) \| {}$"


def milliseconds() -> tuple[float, float]:
    """Import of the plugin, and of pytest, in a fresh interpreter."""
    command = [sys.executable, "-X", "importtime", "-c", "import pytest, pytest_llmbench.plugin"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    plugin, pytest = (
        re.findall(IMPORTED.format(name), told, re.MULTILINE) for name in (r"pytest_llmbench\.plugin", "pytest")
    )
    return int(plugin[0]) / 1000, int(pytest[0]) / 1000


def main() -> None:
    plugin, pytest = zip(*(milliseconds() for _ in range(RUNS)), strict=True)
    print(
        f"plugin {statistics.median(plugin):.1f} ms ({min(plugin):.1f} to {max(plugin):.1f}), "
        f"pytest {statistics.median(pytest):.0f} ms, ratio {statistics.median(plugin) / statistics.median(pytest):.3f}"
    )


if __name__ == "__main__":
    main()
