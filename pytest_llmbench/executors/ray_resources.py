"""What the nodes of a Ray cluster have, against what a case asks for: pure functions over what `ray.nodes()` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Nodes", "gpu_models", "lacking"]

Nodes = Iterable[Mapping[str, Any]]

_MODEL = "accelerator_type:"
"""With what Ray's name for the resource of a GPU model begins."""


def lacking(nodes: Nodes, options: Mapping[str, Any]) -> str | None:
    """
    Why a task could not run even if nothing else did, or None if a living node has all it needs.

    Args:
        nodes: of the cluster.
        options: of the task: `num_cpus`, and perhaps `num_gpus` and `accelerator_type`.
    """
    wanted = {"CPU": options["num_cpus"]}
    if "num_gpus" in options:
        wanted["GPU"] = options["num_gpus"]
    if "accelerator_type" in options:
        wanted[f"{_MODEL}{options['accelerator_type']}"] = 0.001  # so little of it does Ray itself ask for
    living = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(has.get(name, 0) >= count for name, count in wanted.items()) for has in living):
        return None
    told = ", ".join(f"{count} {name}" if count >= 1 else name for name, count in wanted.items())
    return f"needs {told} on one node, and of the {len(living)} nodes of the Ray cluster none has that"


def gpu_models(nodes: Nodes) -> list[str]:
    """The GPU models of the living nodes, as Ray names them."""
    names = {name for node in nodes if node["Alive"] for name in node["Resources"]}
    return sorted(name.removeprefix(_MODEL) for name in names if name.startswith(_MODEL))
