"""
Every option once: its flag, its ini setting, its meaning, and the one rule of precedence.

A flag on the command line beats the ini setting, the ini setting beats the default. Imported by
every pytest run on the machine, so it imports next to nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

__all__ = ["OPTIONS", "Option", "Settings", "add_options", "resolve", "switched_on"]


class Option(NamedTuple):
    """One option: `--llmbench-NAME` on the command line, `llmbench_name` in the ini file."""

    name: str
    """With dashes; empty for the main switch."""
    describe: str
    kind: Literal["flag", "text", "choice", "lines"] = "text"
    default: str = ""
    choices: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def flag(self) -> str:
        return f"--llmbench-{self.name}" if self.name else "--llmbench"

    @property
    def setting(self) -> str:
        return f"llmbench_{self.name.replace('-', '_')}" if self.name else "llmbench"


OPTIONS = (
    Option("", "measure the cases of tests that use the llmbench fixture, and judge them", kind="flag"),
    Option(
        "scale",
        "full: the published size, on a GPU. smoke: the same rows as two-layer miniatures, on the CPU",
        kind="choice",
        default="full",
        choices=("full", "smoke"),
    ),
    Option(
        "device",
        "auto: the GPU at full scale, the CPU at smoke scale. cuda: fail instead of skipping without a GPU",
        kind="choice",
        default="auto",
        choices=("auto", "cuda", "cpu"),
    ),
    Option("samples", "samples that a process measures, or 'full' for the whole epoch", default="16", metavar="N|full"),
    Option("timeout", "seconds after which a measuring process is killed", default="600", metavar="SECONDS"),
    Option("baselines", "folder of the baselines, relative to the root directory", default="baselines", metavar="DIR"),
    Option(
        "update",
        "write results into the baselines: rows that have none, that failed, that moved, or all",
        kind="choice",
        choices=("missing", "failing", "moved", "all"),
    ),
    Option("reason", "why baselines are updated; stored beside them", metavar="TEXT"),
    Option(
        "missing",
        "what a row without a baseline does: fail, skip after measuring, or record one and pass",
        kind="choice",
        default="fail",
        choices=("fail", "skip", "record"),
    ),
    Option(
        "tolerance",
        "how far a metric may move, as samples_per_second=8% or peak_reserved_bytes=2%+64MiB; may be repeated",
        kind="lines",
        metavar="METRIC=LIMIT",
    ),
    Option(
        "results",
        "file to which each result is appended as it comes [llmbench-results/<time>.jsonl]",
        metavar="FILE",
    ),
    Option("resume", "continue the run that wrote FILE: its rows are judged again, not measured", metavar="FILE"),
    Option("strict", "fail a run in which no case was measured", kind="flag"),
    Option(
        "inject",
        "make every step worse on purpose, to see the gate close: device=10%, host=10% or memory=64MiB",
        metavar="KIND=AMOUNT",
    ),
)


@dataclass(frozen=True)
class Settings:
    """The options of one run, resolved and checked."""

    scale: Literal["full", "smoke"]
    device: Literal["auto", "cuda", "cpu"]
    samples: int | Literal["full"]
    timeout_seconds: float
    baselines: Path
    update: Literal["missing", "failing", "moved", "all"] | None
    reason: str | None
    missing: Literal["fail", "skip", "record"]
    tolerances: tuple[str, ...]
    results: Path | None
    resume: Path | None
    strict: bool
    injection: str | None


def add_options(parser: pytest.Parser) -> None:
    """Declare every option as a flag and as an ini setting."""
    group = parser.getgroup("llmbench", "performance-regression tests of LLM fine-tuning")
    for option in OPTIONS:
        shown = f"{option.describe} [{option.default}]" if option.default else option.describe
        shown = shown.replace("%", "%%")  # argparse formats the help of flags, pytest not that of settings
        if option.kind == "flag":
            group.addoption(option.flag, action="store_true", default=None, help=shown)
            parser.addini(option.setting, option.describe, type="bool", default=False)
        elif option.kind == "lines":
            group.addoption(option.flag, action="append", default=None, metavar=option.metavar, help=shown)
            parser.addini(option.setting, option.describe, type="linelist", default=[])
        else:
            choices = option.choices or None
            group.addoption(option.flag, default=None, choices=choices, metavar=option.metavar, help=shown)
            parser.addini(option.setting, option.describe, default=option.default)


def switched_on(config: pytest.Config) -> bool:
    return bool(_value(config, OPTIONS[0]))


def resolve(config: pytest.Config) -> Settings:
    """
    The settings of this run.

    Raises:
        pytest.UsageError: a value that means nothing, named with its option.
    """
    given = {option.name: _checked(config, option) for option in OPTIONS}
    return Settings(
        scale=given["scale"],
        device=given["device"],
        samples=_samples(given["samples"]),
        timeout_seconds=_seconds(given["timeout"]),
        baselines=config.rootpath / given["baselines"],
        update=given["update"] or None,
        reason=given["reason"] or None,
        missing=given["missing"],
        tolerances=tuple(given["tolerance"]),
        results=config.invocation_params.dir / given["results"] if given["results"] else None,
        resume=config.invocation_params.dir / given["resume"] if given["resume"] else None,
        strict=bool(given["strict"]),
        injection=given["inject"] or None,
    )


def _value(config: pytest.Config, option: Option) -> Any:
    flag = config.getoption(option.flag, default=None)
    return config.getini(option.setting) if flag is None else flag


def _checked(config: pytest.Config, option: Option) -> Any:
    value = _value(config, option)
    if option.choices and value and value not in option.choices:
        raise pytest.UsageError(
            f"{option.setting} = {value!r} in the ini file: choose from {', '.join(option.choices)}"
        )
    return value


def _samples(text: str) -> int | Literal["full"]:
    if text == "full":
        return "full"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise pytest.UsageError(f"--llmbench-samples={text}: give a number of samples above 0, or 'full'")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise pytest.UsageError(f"--llmbench-timeout={text}: give a number of seconds above 0")
    return seconds
