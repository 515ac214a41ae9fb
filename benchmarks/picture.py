"""
A picture of a terminal, for the documentation: what a command shows in one, colours included.

    python -m benchmarks.picture docs/images/terminal.svg -- pytest tests/tables/test_lora_rank.py --llmbench

The command runs in a pseudo-terminal. Of a line that is written over, as progress is, the last state stays.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import shlex
import struct
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

WITHOUT_FONTS = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""So that a picture asks nothing of the network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    shown = run(arguments.command, arguments.columns)
    console = Console(record=True, width=arguments.columns, file=io.StringIO(), force_terminal=True)
    for line in (f"$ {shlex.join(arguments.command)}", *shown.replace("\r\n", "\n").rstrip().split("\n")):
        console.print(Text.from_ansi(last_state(line)), soft_wrap=True)
    console.save_svg(str(arguments.file), title="pytest-llmbench", code_format=WITHOUT_FONTS)


def run(command: list[str], columns: int) -> str:
    """What *command* writes to a terminal so wide."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    written = b""
    while data := read(terminal):
        written += data
    os.waitpid(pid, 0)
    return written.decode(errors="replace")


def read(terminal: int) -> bytes:
    """Empty at the end, which Linux tells as an error."""
    try:
        return os.read(terminal, 2**16)
    except OSError:
        return b""


def last_state(line: str) -> str:
    return next((part for part in reversed(line.split("\r")) if part.strip()), "")


if __name__ == "__main__":
    main()
