"""Every library that can move a training step, once: how it is imported, installed and asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from importlib import metadata
from typing import NamedTuple

__all__ = ["EXTRAS", "LIBRARIES", "Library", "distribution_of", "extra_of", "modules_of", "outside_bounds"]


class Library(NamedTuple):
    """One library, and the extra of this package that installs it."""

    distribution: str
    """Normalised name on the package index."""
    modules: tuple[str, ...] = ()
    """Names under which it is imported, the first its own; empty for one that is only ever a part of another."""
    extra: str | None = None
    is_checked: bool = False
    """Whether `llmbench doctor` imports it."""


LIBRARIES = (
    Library("torch", ("torch",), "train", is_checked=True),
    Library("triton", ("triton",), is_checked=True),
    Library("transformers", ("transformers",), "train", is_checked=True),
    Library("peft", ("peft",), "train", is_checked=True),
    Library("accelerate", ("accelerate",), "train", is_checked=True),
    Library("bitsandbytes", ("bitsandbytes",), "bnb", is_checked=True),
    Library("gptqmodel", ("gptqmodel",), "gptq", is_checked=True),
    Library("auto-gptq", ("auto_gptq",), is_checked=True),
    Library("optimum", ("optimum",), "gptq"),
    Library("flash-attn", ("flash_attn", "flash_attn_2_cuda"), "flash", is_checked=True),
    Library("xformers", ("xformers",), "xformers", is_checked=True),
    Library("liger-kernel", ("liger_kernel",), "liger", is_checked=True),
    Library("torchao", ("torchao",), is_checked=True),
    Library("numpy", ("numpy",)),
    Library("safetensors", ("safetensors",)),
    Library("nvidia-cublas"),
    Library("nvidia-cublas-cu12"),
    Library("nvidia-cudnn-cu12"),
    Library("nvidia-cudnn-cu13"),
    Library("nvidia-ml-py", ("pynvml",)),
    Library("pytest-llmbench", ("pytest_llmbench",)),
)
"""In the order in which reports name them."""

EXTRAS = frozenset(library.extra for library in LIBRARIES if library.extra is not None)
"""The extras of this package that install a library."""

_BY_DISTRIBUTION = {library.distribution: library for library in LIBRARIES}
_BY_MODULE = {module: library for library in LIBRARIES for module in library.modules}


def extra_of(module: str) -> str | None:
    """The extra of this package that installs the library of *module*; None where no extra does."""
    library = _BY_MODULE.get(module)
    return None if library is None else library.extra


def distribution_of(module: str) -> str:
    """The name on the package index of what is imported as *module*; an unknown module is taken for its own."""
    library = _BY_MODULE.get(module)
    return module if library is None else library.distribution


def outside_bounds(extras: Collection[str]) -> Iterator[str]:
    """
    A sentence for each installed library that an extra of this package declares another version of.

    None where the environment has no `packaging`, or no metadata of this package.
    """
    with suppress(ImportError):  # PackageNotFoundError is one
        from packaging.requirements import Requirement

        for text in metadata.requires("pytest-llmbench") or ():
            needed = Requirement(text)
            of_stack = needed.marker is not None and any(needed.marker.evaluate({"extra": extra}) for extra in extras)
            if not of_stack:
                continue
            with suppress(metadata.PackageNotFoundError):
                version = metadata.version(needed.name)
                if not needed.specifier.contains(version, prereleases=True):
                    bounds = ", ".join(f"{one.operator} {one.version}" for one in sorted(needed.specifier, key=str))
                    yield f"pytest-llmbench needs {needed.name} {bounds}, and {version} is installed"


def modules_of(distribution: str) -> tuple[str, ...]:
    """Names under which a distribution is imported; an unknown one is taken to have a module of its own name."""
    library = _BY_DISTRIBUTION.get(distribution)
    return (distribution.replace("-", "_"),) if library is None else library.modules
