"""Takes longer to import than a case has."""

from __future__ import annotations

import time

from steps import measure

__all__ = ["measure"]

time.sleep(1.5)
