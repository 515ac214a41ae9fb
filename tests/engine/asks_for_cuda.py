"""Asks, as many libraries do when they are imported, whether there is a GPU."""

from __future__ import annotations

import torch

torch.cuda.is_available()
