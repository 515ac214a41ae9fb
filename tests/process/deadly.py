"""Takes the server that imports it along."""

from __future__ import annotations

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
