"""
Batches of random tokens with given lengths, padded as the published runs were.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

__all__ = ["Batch", "collate", "make_batches"]

RESPONSE_TOKENS = 8
"""Tokens at a sample's end that carry a loss: the published task answers with a short category."""
IGNORED_LABEL = -100


class Batch(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One micro-batch, its tensors [batch, longest length] int64 on the device."""

    input_ids: Tensor
    attention_mask: Tensor | None
    """1 on tokens, 0 on padding; None if nothing is padded, unless a mask was asked for."""
    labels: Tensor
    """-100 on the prompt and on padding."""
    samples: int
    tokens: int
    """Padding left out."""

    def sequences(self) -> list[Tensor]:
        """The samples without padding, each [length] on the CPU."""
        rows = self.input_ids.cpu()
        if self.attention_mask is None:
            return list(rows)
        return [row[: int(mask.sum())] for row, mask in zip(rows, self.attention_mask.cpu(), strict=True)]

    def inputs(self) -> dict[str, Tensor | None]:
        """Keyword arguments of a model's forward."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "labels": self.labels}


def make_batches(
    lengths: Sequence[int],
    batch_size: int,
    vocab_size: int,
    device: torch.device | str,
    *,
    seed: int,
    pad_token_id: int = 0,
) -> list[Batch]:
    """
    Samples of *lengths* tokens in their order, *batch_size* at a time, padded right to the longest.

    The last batch may be smaller. Tokens are drawn from 1 to *vocab_size* - 1: zeros would save
    power, and speed with it.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = [torch.randint(1, vocab_size, (length,), generator=generator) for length in lengths]
    return [
        collate(samples[start : start + batch_size], device, pad_token_id)
        for start in range(0, len(samples), batch_size)
    ]


def collate(
    samples: list[Tensor], device: torch.device | str = "cpu", pad_token_id: int = 0, *, always_masked: bool = False
) -> Batch:
    """
    One micro-batch of samples [length], padded right to the longest.

    The loss is on the last 8 tokens, or on half of a shorter sample. With *always_masked* there is a mask also where
    nothing is padded, as from the collators of transformers and trl.
    """
    lengths = [len(sample) for sample in samples]
    shape = (len(samples), max(lengths))
    input_ids = torch.full(shape, pad_token_id)
    labels = torch.full(shape, IGNORED_LABEL)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        response = min(RESPONSE_TOKENS, length // 2)
        input_ids[row, :length] = sample
        labels[row, length - response : length] = sample[length - response :]
        attention_mask[row, :length] = 1
    padded = min(lengths) < max(lengths)
    return Batch(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device) if padded or always_masked else None,
        labels=labels.to(device),
        samples=len(samples),
        tokens=sum(lengths),
    )
