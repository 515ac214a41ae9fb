"""The command line by which an executor starts a server: `python -m pytest_llmbench.worker`."""

from __future__ import annotations

import argparse
import socket

from pytest_llmbench.worker.descendants import keep
from pytest_llmbench.worker.server import serve


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_llmbench.worker", description="Fork one measuring process per request."
    )
    parser.add_argument(
        "--control-fd", type=int, required=True, help="inherited Unix socket (SOCK_SEQPACKET) to the executor"
    )
    parser.add_argument("--preload", default="", help="modules to import once, before forking, separated by commas")
    parser.add_argument(
        "--measure",
        default="pytest_llmbench.worker.entry:measure",
        help="module:function that measures a request; imported in the forked process",
    )
    arguments = parser.parse_args()
    keep()
    with socket.socket(fileno=arguments.control_fd) as control:
        control.set_inheritable(False)
        serve(control, preload=tuple(filter(None, arguments.preload.split(","))), measure=arguments.measure)


if __name__ == "__main__":
    main()
