"""Asks what every GPU can do when it is imported, as bitsandbytes does."""

from __future__ import annotations

import torch

FOUND = [torch.cuda.get_device_capability(torch.cuda.device(index)) for index in range(torch.cuda.device_count())]
FIRST = torch.cuda.get_device_capability() if FOUND else None
