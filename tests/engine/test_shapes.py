"""Tensors without content: what is kept of an operator's answers."""

from __future__ import annotations

import torch

from pytest_llmbench.engine.fake.shapes import Shapes


def test_an_answer_for_one_device_is_not_given_for_another() -> None:
    with Shapes():
        nowhere = torch.empty(3, 5, device="meta").detach()
        here = torch.empty(3, 5).detach()

    assert (nowhere.device.type, here.device.type) == ("meta", "cpu")
