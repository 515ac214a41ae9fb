"""Takes longer to import than a case has."""

from __future__ import annotations

import time
from importlib import import_module

measure = import_module("steps").measure

time.sleep(1.5)
