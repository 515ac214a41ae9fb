"""What `llmbench doctor` finds where torch is."""

from __future__ import annotations

import sys

import pytest

from pytest_llmbench.cli.diagnosis import check_backends


def test_attention_and_quantization_are_tried_where_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    checks = ["attention:sdpa", "attention:flash", "quantization:bf16"]
    sdpa, flash, bf16 = check_backends(checks, sys.executable, 120.0)

    assert sdpa.usable
    assert flash.trouble == "flash-attn needs a CUDA device and this is 'cpu'; use attention='sdpa'"
    assert bf16.usable
