"""How a case is measured: what the hash covers, and planted faults as users write them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import (
    WORKLOAD_VERSION,
    Injection,
    Workload,
    parse_injection,
    parse_memory,
    workload_hash,
)

CASE = Case(model="qwen-7b-chat")


def test_a_hash_never_changes() -> None:
    """Else no stored baseline would be comparable any more; a new version of the workload has a new one."""
    case = Case(model="qwen-7b-chat", max_length=1024, quantization="bnb-nf4")

    assert workload_hash(case, Workload(samples=32)) == {1: "c53cafbbb9267d39"}[WORKLOAD_VERSION]


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "qwen-14b-chat"},
        {"max_length": 1024},
        {"batch_size": 2},
        {"attention": "eager"},
        {"gradient_checkpointing": False},
        {"lora_rank": 64},
        {"accumulation_steps": 1},
        {"num_gpus": 2},
        {"loop": "trainer"},
    ],
)
def test_every_input_of_the_case_is_in_the_hash(changed: dict[str, Any]) -> None:
    assert workload_hash(msgspec.structs.replace(CASE, **changed), Workload()) != workload_hash(CASE, Workload())


@pytest.mark.parametrize("changed", [{"scale": "smoke"}, {"samples": 64}, {"samples": "full"}])
def test_scale_and_samples_are_in_the_hash(changed: dict[str, Any]) -> None:
    assert workload_hash(CASE, Workload(**changed)) != workload_hash(CASE, Workload())


def test_the_memory_of_the_card_is_in_the_hash() -> None:
    hashes = {workload_hash(CASE, Workload(memory_bytes=memory)) for memory in (None, 24 * 2**30, 80 * 10**9)}

    assert len(hashes) == 3


@pytest.mark.parametrize("changed", [{"device": "cpu"}, {"device": "fake"}, {"injection": Injection("host", 0.1)}])
def test_device_and_planted_faults_are_not_in_the_hash(changed: dict[str, Any]) -> None:
    assert workload_hash(CASE, Workload(**changed)) == workload_hash(CASE, Workload())


def test_a_planted_fault_is_told_as_users_write_it() -> None:
    for text in ("device=10%", "host=5%", "memory=64MiB", "memory-idle=0.5MiB", "memory-outside=1024MiB"):
        assert parse_injection(text).text == text


@pytest.mark.parametrize(
    ("text", "injection"),
    [
        ("device=10%", Injection("device", 0.1)),
        ("host=0.25", Injection("host", 0.25)),
        ("HOST=5 %", Injection("host", 0.05)),
        ("memory=64MiB", Injection("memory", 64 * 2**20)),
        ("memory=1.5GiB", Injection("memory", 1.5 * 2**30)),
        ("memory=512b", Injection("memory", 512)),
        ("memory-idle=1MiB", Injection("memory-idle", 2**20)),
        ("memory-outside=1GiB", Injection("memory-outside", 2**30)),
        (" device=.5 ", Injection("device", 0.5)),
    ],
)
def test_a_planted_fault_is_read(text: str, injection: Injection) -> None:
    found = parse_injection(text)

    assert found.kind == injection.kind
    assert found.amount == pytest.approx(injection.amount)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "device",
        "device=",
        "device=fast",
        "device=-1%",
        "device=64MiB",
        "memory=10%",
        "memory=64",
        "memory=64MB",
        "memory-idle=10%",
        "memory-elsewhere=1MiB",
        "gpu=1%",
        "host=1e3%",
    ],
)
def test_what_is_no_planted_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an injection; write device=10%, host=10%, memory=64MiB, "):
        parse_injection(text)


@pytest.mark.parametrize("text", ["host=0%", "device=0", "memory=0MiB"])
def test_a_fault_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plants nothing"):
        parse_injection(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("24GiB", 24 * 2**30),
        ("79.15 GiB", int(79.15 * 2**30)),
        ("80GB", 80 * 10**9),
        (" 512mib ", 512 * 2**20),
        ("500MB", 500 * 10**6),
        (".5gib", 2**29),
    ],
)
def test_the_memory_of_a_card_is_read(text: str, count: int) -> None:
    assert parse_memory(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "24", "GiB", "24G", "24TiB", "24kib", "-1GiB", "0GiB", "1e3GiB", "infGiB", "24GiB x", "9" * 400 + "GiB"],
)
def test_what_is_no_memory_of_a_card_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no memory of a card; write it as 24GiB or 80GB"):
        parse_memory(text)


@given(
    st.builds(
        Workload,
        scale=st.sampled_from(["full", "smoke"]),
        device=st.sampled_from(["cuda", "cpu", "fake"]),
        samples=st.integers(1, 10_000) | st.just("full"),
        memory_bytes=st.none() | st.integers(1, 2**62),
        injection=st.none()
        | st.builds(Injection, st.sampled_from(["device", "host", "memory"]), st.floats(1e-6, 1e12)),
    )
)
def test_a_workload_survives_json(workload: Workload) -> None:
    assert msgspec.json.decode(msgspec.json.encode(workload), type=Workload) == workload
