"""Kernel families: names cut to what a kernel does, and times added up by them."""

from __future__ import annotations

import pytest

from pytest_llmbench.probes.activity import DeviceActivity, Kernel
from pytest_llmbench.probes.kernels import LISTED, family, kernel_shares
from pytest_llmbench.schema.measurement import KernelShare


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>,"
            " std::array<char*, 3ul> >(int, at::native::CUDAFunctor_add<float>)",
            "vectorized_elementwise_kernel[add]",
        ),
        (
            "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::BinaryFunctor"
            "<c10::BFloat16, c10::BFloat16, at::native::binary_internal::MulFunctor<float> > >(...)::{lambda(int)#1}>",
            "elementwise_kernel[Mul]",
        ),
        (
            "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda"
            "(at::TensorIteratorBase&)::{lambda()#3}::operator()() const, 4>(int)",
            "unrolled_elementwise_kernel[direct_copy]",
        ),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::silu_kernel"
            "(at::TensorIteratorBase&)::{lambda()#1}>(int)",
            "vectorized_elementwise_kernel[silu]",
        ),
        (
            "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float> > >(x)",
            "reduce_kernel[Mean]",
        ),
        (
            "void at::native::(anonymous namespace)::fused_dropout_kernel_vec<c10::BFloat16, float>(x)",
            "fused_dropout_kernel_vec",
        ),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopB_TNT", "nvjet_tst"),
        ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_nn", "ampere_bf16_s16816gemm_bf16"),
        ("void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64> >(Flash_fwd_params)", "flash_fwd_kernel"),
        ("triton_poi_fused_mul_0", "triton_poi_fused_mul_0"),
        ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD"),
        ("64x64", "64x64"),
    ],
)
def test_a_family_is_named_after_what_its_kernels_do(name: str, short: str) -> None:
    assert family(name) == short


def activity(*kernels: Kernel) -> DeviceActivity:
    return DeviceActivity(busy_seconds_by_device={0: 1.0}, kernels=0, synchronisations=0, by_kernel=kernels)


def test_micro_batches_and_optimizer_step_count_at_their_own_rates() -> None:
    shares = kernel_shares(
        activity(Kernel("gemm_128x64", 40, 4.0), Kernel("gemm_64x64", 40, 2.0)),
        activity(Kernel("gemm_128x64", 16, 1.6)),
        per_sample=1 / 4,
        per_step_sample=1 / 16,
    )

    assert shares == (KernelShare("gemm", 21.0, pytest.approx(1.6)),)  # type: ignore[arg-type]


def test_families_beyond_the_listed_ones_are_added_up() -> None:
    many = [Kernel("ab" * (index + 1), 1, 100.0 - index) for index in range(LISTED + 2)]

    *listed, last = kernel_shares(activity(*many), activity(), per_sample=1.0, per_step_sample=1.0)

    assert [share.seconds_per_sample for share in listed] == [100.0 - index for index in range(LISTED)]
    assert last == KernelShare("other", 2.0, 200.0 - 2 * LISTED - 1)
