"""torch's caching allocator by its rules: what it reserves, what it gives back, and where it ends."""

from __future__ import annotations

import pytest

from pytest_llmbench.probes.reserving import Allocator, OutOfMemory

KIB, MIB, GIB = 2**10, 2**20, 2**30


@pytest.mark.parametrize(
    ("asked", "allocated"),
    [
        pytest.param(0, 512, id="nothing"),
        pytest.param(1, 512, id="one-byte"),
        pytest.param(512, 512, id="a-whole-unit"),
        pytest.param(513, 1024, id="one-more"),
        pytest.param(3 * MIB + 1, 3 * MIB + 512, id="large"),
    ],
)
def test_sizes_are_rounded_up_to_512_bytes(asked: int, allocated: int) -> None:
    gpu = Allocator()

    gpu.take(asked)

    assert gpu.allocated == allocated


@pytest.mark.parametrize(
    ("asked", "reserved"),
    [
        pytest.param(1, 2 * MIB, id="small"),
        pytest.param(MIB, 2 * MIB, id="the-largest-small-one"),
        pytest.param(MIB + 1, 20 * MIB, id="the-smallest-large-one"),
        pytest.param(10 * MIB - 512, 20 * MIB, id="the-largest-of-a-shared-segment"),
        pytest.param(10 * MIB, 10 * MIB, id="a-segment-of-its-own"),
        pytest.param(11 * MIB - 1, 12 * MIB, id="rounded-up-to-2-MiB"),
    ],
)
def test_a_segment_is_as_large_as_torch_makes_it(asked: int, reserved: int) -> None:
    gpu = Allocator()

    gpu.take(asked)

    assert gpu.reserved == reserved


def test_what_is_left_of_a_block_is_taken_next() -> None:
    gpu = Allocator()

    gpu.take(8 * MIB)
    gpu.take(8 * MIB)

    assert gpu.reserved == 20 * MIB


def test_small_and_large_tensors_share_no_segment() -> None:
    gpu = Allocator()

    gpu.take(8 * MIB)
    gpu.take(MIB)

    assert gpu.reserved == 20 * MIB + 2 * MIB


def test_a_large_block_that_would_leave_no_more_than_1_mib_is_taken_whole() -> None:
    gpu = Allocator()
    gpu.give_back(gpu.take(20 * MIB))

    gpu.take(19 * MIB)

    assert gpu.allocated == 20 * MIB


def test_a_large_block_that_would_leave_more_than_1_mib_is_split() -> None:
    gpu = Allocator()
    gpu.give_back(gpu.take(20 * MIB))

    gpu.take(19 * MIB - 512)

    assert gpu.allocated == 19 * MIB - 512


def test_a_small_block_is_split_where_512_bytes_are_left() -> None:
    gpu = Allocator()
    blocks = [gpu.take(MIB), gpu.take(MIB)]
    for block in blocks:
        gpu.give_back(block)

    gpu.take(MIB - 512)

    assert gpu.allocated == MIB - 512


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    gpu = Allocator()
    blocks = [gpu.take(size * MIB) for size in (40, 20, 30)]
    for block in blocks:
        gpu.give_back(block)

    gpu.take(20 * MIB)
    gpu.take(30 * MIB)
    gpu.take(40 * MIB)

    assert gpu.reserved == 90 * MIB


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_free_neighbours_merge_in_whatever_order_they_are_given_back(order: tuple[int, ...]) -> None:
    gpu = Allocator()
    gpu.give_back(gpu.take(30 * MIB))
    blocks = [gpu.take(10 * MIB) for _ in range(3)]
    for index in order:
        gpu.give_back(blocks[index])

    gpu.take(30 * MIB)

    assert gpu.reserved == 30 * MIB


def test_segments_do_not_merge() -> None:
    gpu = Allocator()
    for block in [gpu.take(20 * MIB), gpu.take(20 * MIB)]:
        gpu.give_back(block)

    gpu.take(40 * MIB)

    assert gpu.reserved == 80 * MIB


def test_a_block_between_two_in_use_is_of_no_use_to_a_larger_tensor() -> None:
    gpu = Allocator()
    gpu.give_back(gpu.take(30 * MIB))
    _, middle, _ = [gpu.take(10 * MIB) for _ in range(3)]
    gpu.give_back(middle)

    gpu.take(12 * MIB)

    assert gpu.reserved == 42 * MIB


def test_what_is_given_back_stays_reserved() -> None:
    gpu = Allocator()

    gpu.give_back(gpu.take(GIB))

    assert (gpu.allocated, gpu.reserved) == (0, GIB)


def test_a_full_gpu_gives_free_segments_back_before_it_fails() -> None:
    gpu = Allocator(limit=100 * MIB)
    gpu.give_back(gpu.take(60 * MIB))

    gpu.take(80 * MIB)

    assert (gpu.reserved, gpu.peak_reserved) == (80 * MIB, 80 * MIB)


def test_a_segment_that_is_in_use_in_part_is_not_given_back() -> None:
    gpu = Allocator(limit=100 * MIB)
    gpu.give_back(gpu.take(60 * MIB))
    gpu.take(10 * MIB)

    with pytest.raises(OutOfMemory):
        gpu.take(80 * MIB)


def test_all_of_the_limit_can_be_taken() -> None:
    gpu = Allocator(limit=100 * MIB)

    gpu.take(100 * MIB)

    assert gpu.reserved == 100 * MIB


def test_out_of_memory_is_told_as_torch_tells_it() -> None:
    gpu = Allocator(limit=79 * GIB, index=1)
    gpu.take(78 * GIB)

    with pytest.raises(OutOfMemory) as caught:
        gpu.take(1536 * MIB)

    assert str(caught.value) == (
        "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 1 has a total capacity of 79.00 GiB of which 1.00 GiB is "
        "free; 78.00 GiB is allocated."
    )


def test_a_tensor_that_did_not_fit_is_no_part_of_the_peaks() -> None:
    gpu = Allocator(limit=100 * MIB)
    gpu.take(60 * MIB)

    with pytest.raises(OutOfMemory):
        gpu.take(60 * MIB)

    assert (gpu.most_allocated, gpu.peak_reserved) == (60 * MIB, 60 * MIB)


def test_a_peak_begins_anew_with_what_is_there() -> None:
    gpu = Allocator()
    gpu.take(20 * MIB)
    gpu.give_back(gpu.take(100 * MIB))

    gpu.reset_peak()
    gpu.take(30 * MIB)

    assert (gpu.peak_allocated, gpu.most_allocated) == (50 * MIB, 120 * MIB)
