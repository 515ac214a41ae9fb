from __future__ import annotations

from importlib.metadata import entry_points

pytest_plugins = ["pytester"]
if not any(point.name == "llmbench" for point in entry_points(group="pytest11")):
    pytest_plugins.append("pytest_llmbench.plugin")  # a checkout that is not installed
