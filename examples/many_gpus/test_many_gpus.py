from __future__ import annotations

import pytest

from pytest_llmbench import Case, Llmbench


@pytest.mark.gpu
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_many_gpus(llmbench: Llmbench, parallelism: str) -> None:
    llmbench(Case(model="qwen-7b-chat", num_gpus=2, parallelism=parallelism))
