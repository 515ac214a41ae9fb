"""Uses the GPU when it is imported."""

from __future__ import annotations

import torch

torch.zeros(1, device="cuda")
