"""How long it takes to tell which code each library is: `python -m benchmarks.origins`."""

from __future__ import annotations

import sys
import time

from pytest_llmbench.host.distribution import origins
from pytest_llmbench.schema.environment import installed_packages, version_text


def main() -> None:
    """Print a line per library, the slowest first, and the sum."""
    taken = []
    for name, version in installed_packages().items():
        started = time.perf_counter()
        found = origins([name], sys.path)
        taken.append((time.perf_counter() - started, f"{name} {version_text(version, found.get(name))}"))
    for seconds, told in sorted(taken, reverse=True):
        print(f"{seconds * 1e3:7.1f} ms  {told}")
    print(f"{sum(seconds for seconds, _ in taken) * 1e3:7.1f} ms  together")


if __name__ == "__main__":
    main()
