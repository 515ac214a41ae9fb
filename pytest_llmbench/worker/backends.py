"""
Which libraries load here and which parts of a case can run: `python -m pytest_llmbench.worker.backends CHECK...`.

A library that is broken may take the process with it, so whoever asks runs this in a child, and goes on
in another one after the check that was begun last.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from importlib.util import find_spec

__all__ = ["main"]

from pytest_llmbench.schema.libraries import distribution_of


def main(checks: Iterable[str], say: Callable[[str], None]) -> None:
    """
    Carry out each check, as `library:torch`, `device:cuda`, `attention:flash`, `quantization:bnb-nf4` or
    `model:acme:retriever`.

    Says a line of JSON before each check, and after it one with what came of it.
    """
    for check in checks:
        kind, _, name = check.partition(":")
        say(json.dumps({"begun": check}))
        started = time.monotonic()
        try:
            told = _CHECKS[kind](name)
        except Exception as error:  # noqa: BLE001 - whatever a broken library raises is what is asked for
            told = {"trouble": " ".join(f"{type(error).__name__}: {error}".split())}
        found = {"kind": kind, "name": name, "seconds": round(time.monotonic() - started, 3), **told}
        say(json.dumps({"backend": found}))


def _library(name: str) -> dict[str, str]:
    if find_spec(name) is None:
        return {"absent": "not installed"}
    told = {}
    try:
        told["version"] = metadata.version(distribution_of(name))
    except metadata.PackageNotFoundError:
        told["version"] = "unknown"
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001
        told["trouble"] = " ".join(f"{type(error).__name__}: {error}".split())
    return told


def _device(name: str) -> dict[str, str]:
    import torch

    device = torch.device(name)
    torch.ones(1, device=device).add_(1).item()
    if device.type != "cuda":
        return {"version": f"torch {torch.__version__}"}
    major, minor = torch.cuda.get_device_capability()
    return {"version": f"{torch.cuda.get_device_name()}, capability {major}.{minor}, CUDA {torch.version.cuda}"}


def _attention(name: str) -> dict[str, str]:
    import torch

    from pytest_llmbench.engine.attention import check_available

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _tried(lambda: check_available(name, device))


def _quantization(name: str) -> dict[str, str]:
    from pytest_llmbench.engine.quantization import quantizer

    return _tried(lambda: quantizer(name))


def _model(name: str) -> dict[str, str]:
    from pytest_llmbench.engine.models.extension import find_model

    return _tried(lambda: find_model(name))


def _tried(part: Callable[[], object]) -> dict[str, str]:
    from pytest_llmbench.engine.outcomes import Unavailable

    try:
        part()
    except Unavailable as reason:
        return {"trouble": str(reason)}
    return {}


_CHECKS: dict[str, Callable[[str], dict[str, str]]] = {
    "library": _library,
    "device": _device,
    "attention": _attention,
    "quantization": _quantization,
    "model": _model,
}


def _say(line: str) -> None:
    sys.__stdout__.write(f"{line}\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main(sys.argv[1:], _say)
