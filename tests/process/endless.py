"""Takes longer to import than anybody waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

Path(os.environ["LLMBENCH_TEST_REACHED"]).touch()
time.sleep(600)
