"""
How a case is measured: at which scale, over how many samples, with what planted on purpose.

Two measurements compare only if their workload hashes agree, so everything that changes what a
training step computes, and that is not a library, is part of the hash.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

import msgspec

from pytest_llmbench.schema.case import Case

__all__ = [
    "SEEN_ON_CPU",
    "WORKLOAD_VERSION",
    "Device",
    "Injection",
    "Scale",
    "Workload",
    "device_of",
    "parse_count",
    "parse_injection",
    "parse_memory",
    "workload_hash",
    "workload_version",
]

WORKLOAD_VERSION = 1
"""Raised by hand when the built-in models, batches or training step change what they compute."""
_LOOP_VERSIONS = {"trainer": 1}
"""Added to it for cases of a loop that alone has changed: under the Trainer every batch has a mask since 1."""

Device = Literal["cuda", "cpu", "fake"]
"""`fake` is a GPU's work on tensors that have shapes and no content."""
Scale = Literal["full", "smoke"]
"""`full` is the published size; `smoke` is the same row as a two-layer miniature."""


class Injection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    A slow-down or an allocation planted in every step, to prove that the gate sees it.

    A measurement that carries an injection never becomes a baseline.
    """

    kind: Literal["device", "host", "memory", "memory-idle", "memory-outside"]
    """
    `device` keeps the GPU busy longer, `host` the Python thread. `memory` holds a tensor during each
    micro-batch, and so at the peak, `memory-idle` one between optimizer steps only, and `memory-outside`
    memory that torch does not know of.
    """
    amount: Annotated[float, msgspec.Meta(gt=0)]
    """`device` and `host`: added time as a fraction of the step; of memory: bytes."""

    @property
    def text(self) -> str:
        """Injection as users write it."""
        size = f"{self.amount * 100:g}%" if self.kind in ("device", "host") else f"{self.amount / 2**20:g}MiB"
        return f"{self.kind}={size}"


SEEN_ON_CPU = ("memory", "memory-idle")
"""Kinds of injection that the CPU sees: an allocation is an operator and a live tensor. Times are not judged there."""


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the measuring process does with a case."""

    scale: Scale = "full"
    device: Device = "cuda"
    samples: Annotated[int, msgspec.Meta(ge=1)] | Literal["full"] = 16
    """Samples of the measured rounds, rounded up to whole optimizer steps; `full` is the whole epoch."""
    injection: Injection | None = None
    memory_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Memory that torch may take of each GPU; None for all that there is."""


def device_of(scale: Scale, device: Literal["auto"] | Device = "auto") -> Device:
    """The device that is meant: `auto` is the GPU at full scale, and the CPU at smoke scale."""
    if device != "auto":
        return device
    return "cuda" if scale == "full" else "cpu"


def workload_hash(case: Case, workload: Workload) -> str:
    """
    Sixteen hexadecimal digits that agree exactly when two measurements did the same work.

    The device is left out (the environment says it) and so is an injection, which is meant to be
    compared with a baseline that has none.
    """
    # Fields at their defaults are left out, so that a field added later does not change old hashes.
    asked = {name: value for name, value in msgspec.structs.asdict(case).items() if value != _DEFAULTS.get(name)}
    described: tuple[object, ...] = (workload_version(case), asked, workload.scale, workload.samples)
    if workload.memory_bytes is not None:
        described = (*described, workload.memory_bytes)
    return hashlib.sha256(msgspec.json.encode(described, order="deterministic")).hexdigest()[:16]


def workload_version(case: Case) -> int:
    """The version of what *case* computes today; two measurements of other versions do not compare."""
    return WORKLOAD_VERSION + _LOOP_VERSIONS.get(case.loop, 0)


_DEFAULTS = {
    field.name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    for field in msgspec.structs.fields(Case)
    if not field.required
}

_UNITS = {"%": 0.01, "": 1.0, "b": 1.0, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_MEMORY_UNITS = {"mib": 2**20, "gib": 2**30, "mb": 10**6, "gb": 10**9}


def parse_count(text: str, what: str, otherwise: str) -> int:
    """
    A number above 0 as users write it.

    Args:
        what: things that are counted, in the plural; *otherwise*: the word that may stand in place of a number.

    Raises:
        ValueError: not such a number; the message says what to give.
    """
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0:
        return int(text)
    raise ValueError(f"give a number of {what} above 0, or {otherwise!r}")


def parse_memory(text: str) -> int:
    """
    Bytes, as users write the memory of a card: `24GiB`, `79.15 GiB`, `80GB`.

    Raises:
        ValueError: not of this form.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d*)?|\.\d+)\s*([mg]i?b)", text.strip().lower())
    found = int(float(match[1]) * _MEMORY_UNITS[match[2]]) if match else 0
    if not found:
        raise ValueError(f"{text!r} is no memory of a card; write it as 24GiB or 80GB")
    return found


def parse_injection(text: str) -> Injection:
    """
    An injection as users write it: `device=10%`, `host=0.1`, `memory=64MiB`, `memory-idle=1GiB`.

    Raises:
        ValueError: not of this form.
    """
    match = re.fullmatch(
        r"(device|host|memory(?:-idle|-outside)?)=(\d+\.?\d*|\.\d+)\s*(%|[kmg]?i?b|)", text.strip().lower()
    )
    if match is None or match[3] not in _UNITS or match[1].startswith("memory") == (match[3] in ("%", "")):
        raise ValueError(
            f"{text!r} is not an injection; write device=10%, host=10%, memory=64MiB, memory-idle=64MiB or memory-outside=64MiB"
        )
    amount = float(match[2]) * _UNITS[match[3]]
    if not amount > 0:
        raise ValueError(f"{text!r} plants nothing; write an amount above 0")
    return Injection(match[1], amount)  # type: ignore[arg-type]  # one of the five, by the pattern
