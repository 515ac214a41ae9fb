"""Whether a case fits on a node of a Ray cluster; no Ray is needed to tell."""

from __future__ import annotations

from typing import Any

from pytest_llmbench.executors.ray_cluster import gpu_models, lacking


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {name.replace("__", ":"): count for name, count in resources.items()}}


H100 = node(CPU=16, GPU=2, accelerator_type__H100=1)
A100 = node(CPU=16, GPU=8, accelerator_type__A100=1)


def test_a_node_that_has_all_of_it_is_enough() -> None:
    assert lacking([H100, A100], {"num_cpus": 2, "num_gpus": 2, "accelerator_type": "H100"}) is None


def test_two_nodes_do_not_make_one() -> None:
    why = lacking([H100, A100], {"num_cpus": 4, "num_gpus": 4, "accelerator_type": "H100"})

    assert why == (
        "needs 4 CPU, 4 GPU, accelerator_type:H100 on one node, and of the 2 nodes of the Ray cluster none has that"
    )


def test_a_dead_node_has_nothing() -> None:
    assert lacking([node(alive=False, CPU=4)], {"num_cpus": 1}) is not None
    assert gpu_models([node(alive=False, GPU=1, accelerator_type__H100=1)]) == []


def test_models_are_named_once_each() -> None:
    assert gpu_models([H100, A100, H100]) == ["A100", "H100"]
