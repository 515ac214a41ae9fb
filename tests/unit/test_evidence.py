from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_llmbench.host.nvml import GpuReading, Occupancy
from pytest_llmbench.probes.evidence import (
    NVML_FIELDS,
    Footprint,
    evidence,
    foreign_processes,
    peak_footprint,
    process_memory,
    process_tree,
)
from pytest_llmbench.schema.measurement import Evidence

GIB = 2**30
OWN = frozenset({100, 101})
READING = GpuReading(
    sm_clock_mhz=1980,
    memory_clock_mhz=3201,
    power_watts=650.0,
    power_limit_watts=700.0,
    temperature_celsius=60,
    power_cap_ns=5 * 10**9,
    sw_thermal_ns=0,
    hw_thermal_ns=10**9,
    hw_power_brake_ns=10**9,
)


def occupied(used_gib: float, processes: dict[int, int | None] | None, **missing: str) -> Occupancy:
    return Occupancy(
        used_bytes=int(used_gib * GIB),
        driver_reserved_bytes=GIB // 2,
        total_bytes=140 * GIB,
        process_bytes=processes,
        missing=missing,
    )


IDLE = occupied(0, {})


def test_a_process_tree_has_the_children_of_its_children() -> None:
    grandchild = "import sys; sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(2)

        tree = process_tree(os.getpid())
        of_child = process_tree(process.pid)
        process.communicate()

    assert {os.getpid(), process.pid} < tree
    assert len(of_child) == 2
    assert of_child < tree
    assert os.getppid() not in tree


def test_the_memory_of_our_processes_is_their_sum() -> None:
    assert process_memory(occupied(9, {100: 3 * GIB, 101: GIB, 7: GIB}), OWN, reserved_bytes=2 * GIB) == (4 * GIB, None)


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ({}, "lists no process although this one uses the GPU"),
        ({4000001: 3 * GIB}, "PIDs of another namespace (4000001)"),
        ({100: None}, "does not say here how much memory"),
        ({100: 3 * GIB, 101: None}, "does not say here how much memory"),
        ({100: GIB}, "torch alone holds 2147483648"),
    ],
)
def test_a_process_figure_that_cannot_be_trusted_is_unknown(listed: dict[int, int | None], reason: str) -> None:
    value, why = process_memory(occupied(4, listed), OWN, reserved_bytes=2 * GIB)

    assert value is None
    assert reason in str(why)


@pytest.mark.parametrize(
    ("before", "after", "foreign"),
    [
        ({}, {100: GIB}, 0),
        ({}, {100: GIB, 7: None}, 1),
        ({7: GIB, 8: GIB}, {100: GIB, 7: GIB}, 2),
        ({100: GIB}, {100: GIB, 101: GIB}, 0),
        ({}, {4000001: GIB}, 0),
        ({}, {4000001: GIB, 4000002: GIB}, 1),
        ({4000002: GIB, 4000003: GIB}, {4000001: GIB}, 2),
    ],
)
def test_foreign_processes_are_the_larger_of_two_counts(
    before: dict[int, int | None], after: dict[int, int | None], foreign: int
) -> None:
    assert foreign_processes(occupied(0, before), occupied(4, after), OWN) == (foreign, None)


@pytest.mark.parametrize(
    ("idle", "busy"),
    [
        (IDLE, occupied(4, {})),
        (IDLE, occupied(4, None, process_bytes="lists no process")),
        (occupied(0, None, process_bytes="lists no process"), occupied(4, {100: GIB})),
    ],
)
def test_foreign_processes_that_cannot_be_seen_are_unknown(idle: Occupancy, busy: Occupancy) -> None:
    value, why = foreign_processes(idle, busy, OWN)

    assert value is None
    assert "lists no process" in str(why)


def test_the_footprint_is_the_process_figure_where_it_can_be_trusted() -> None:
    footprint = peak_footprint(occupied(1, {7: GIB}), occupied(5, {100: 4 * GIB, 7: GIB}), OWN, reserved_bytes=3 * GIB)

    assert footprint == Footprint(peak_bytes=4 * GIB, source="process")


@pytest.mark.parametrize("listed", [{}, {4000001: 4 * GIB}, {100: None}])
def test_the_footprint_is_else_the_rise_above_the_idle_floor(listed: dict[int, int | None]) -> None:
    footprint = peak_footprint(occupied(0.25, {}), occupied(4.25, listed), OWN, reserved_bytes=3 * GIB)

    assert footprint == Footprint(peak_bytes=4 * GIB, source="device")


@pytest.mark.parametrize(
    ("idle", "busy", "reason"),
    [
        (IDLE, occupied(4, {4000001: GIB, 4000002: GIB}), "other processes (1) are on the GPU"),
        (occupied(2, {}), occupied(4, {}), "rose by 2147483648 bytes and torch alone holds 3221225472"),
        (IDLE, Occupancy(used_bytes=5 * GIB, process_bytes={}), "in one of two readings"),
        (IDLE, Occupancy(process_bytes={}, missing={"used_bytes": "GPU is lost"}), "GPU is lost"),
    ],
)
def test_a_footprint_that_is_not_ours_alone_is_unknown(idle: Occupancy, busy: Occupancy, reason: str) -> None:
    footprint = peak_footprint(idle, busy, OWN, reserved_bytes=3 * GIB)

    assert footprint.peak_bytes is None
    assert reason in str(footprint.missing)


def test_counters_become_the_seconds_between_two_readings() -> None:
    after = GpuReading(
        sm_clock_mhz=1965,
        memory_clock_mhz=3201,
        power_watts=699.5,
        temperature_celsius=66,
        power_cap_ns=7_500_000_000,
        sw_thermal_ns=1_000_000,
        hw_thermal_ns=2_000_000_000,
        hw_power_brake_ns=1_500_000_000,
    )

    kept, missing = evidence([IDLE], [occupied(4, {100: GIB})], [READING], [after], OWN)

    assert missing == {}
    assert kept == Evidence(
        idle_used_bytes=(0,),
        driver_reserved_bytes=(GIB // 2,),
        foreign_processes=(0,),
        sm_clock_mhz=(1965,),
        memory_clock_mhz=(3201,),
        power_watts=(699.5,),
        temperature_celsius=(66,),
        power_cap_seconds=(2.5,),
        thermal_slowdown_seconds=(0.001,),
        hardware_slowdown_seconds=(1.5,),
    )


def test_what_one_device_does_not_say_is_unknown_of_all() -> None:
    silent = GpuReading(missing=dict.fromkeys(READING.__struct_fields__[:-1], "Not Supported"))
    busy = occupied(4, {100: GIB})

    kept, missing = evidence([IDLE, IDLE], [busy, busy], [READING, READING], [READING, silent], OWN)

    assert kept == Evidence(idle_used_bytes=(0, 0), driver_reserved_bytes=(GIB // 2,) * 2, foreign_processes=(0, 0))
    assert missing == dict.fromkeys(NVML_FIELDS[3:], "device 1: Not Supported")


def test_a_counter_that_went_backwards_is_unknown() -> None:
    kept, missing = evidence(
        [IDLE],
        [occupied(4, {100: GIB})],
        [READING],
        [
            GpuReading(
                sm_clock_mhz=1980,
                memory_clock_mhz=3201,
                power_watts=650.0,
                temperature_celsius=60,
                power_cap_ns=0,
                sw_thermal_ns=0,
                hw_thermal_ns=10**9,
                hw_power_brake_ns=10**9,
            )
        ],
        OWN,
    )

    assert kept.power_cap_seconds is None
    assert missing == {
        "power_cap_seconds": "device 0: power_cap_ns went backwards by 5000000000: the driver was loaded anew meanwhile"
    }


def test_every_nvml_field_is_a_field_of_evidence() -> None:
    assert set(NVML_FIELDS) < set(Evidence.__struct_fields__)
