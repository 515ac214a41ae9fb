"""Changes, as some libraries do when they are imported, how torch allocates memory."""

from __future__ import annotations

import os

os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
