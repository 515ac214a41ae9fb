"""Remembers which process imported it."""

from __future__ import annotations

import os

PROCESS = os.getpid()
