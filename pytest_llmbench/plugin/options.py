"""
Every option once: its flag, its ini setting, its meaning, and the one rule of precedence.

A flag on the command line beats the ini setting, the ini setting beats the default. Imported by
every pytest run on the machine, so it imports next to nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from pytest_llmbench.store.files import leads_out

__all__ = [
    "FLAGS",
    "OPTIONS",
    "Option",
    "Settings",
    "add_options",
    "chosen_model",
    "ini_value",
    "is_typed",
    "is_used",
    "resolve",
    "switched_on",
]


class Option(NamedTuple):
    """One option: `--llmbench-NAME` on the command line, `llmbench_name` in the ini file."""

    name: str
    """Name with dashes; empty for the main switch."""
    describe: str
    kind: Literal["flag", "text", "lines"] = "text"
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
        default="full",
        choices=("full", "smoke"),
    ),
    Option(
        "device",
        "auto: the GPU at full scale, the CPU at smoke scale. cuda: fail instead of skipping without a GPU. fake: full "
        "scale on any machine, by tensors without content, which count and time nothing",
        default="auto",
        choices=("auto", "cuda", "cpu", "fake"),
    ),
    Option(
        "memory",
        "memory that torch may take of each GPU: rows that need more are 'oom', as on a card of that size",
        metavar="SIZE",
    ),
    Option(
        "model",
        "measure a standard grid over this model, without a test file: one of the published names, a directory, "
        "or a hub id",
        metavar="NAME|DIR|HUB_ID",
    ),
    Option(
        "loop",
        "run every case but custom steps through this loop, instead of the one it says: our bare step, or "
        "transformers' Trainer. Rows whose loop this changes are stored under a name that ends with it",
        choices=("step", "trainer"),
    ),
    Option("samples", "samples that a process measures, or 'full' for the whole epoch", default="16", metavar="N|full"),
    Option(
        "processes",
        "fresh processes that measure each case and are judged together. auto: one, and up to eight more for a row "
        "that a speed makes look worse, or that noise leaves open",
        default="auto",
        metavar="N|auto",
    ),
    Option(
        "jobs",
        "cases that are measured at once, each on GPUs of its own; auto is one for each GPU. On the CPU they share it",
        default="1",
        metavar="N|auto",
    ),
    Option(
        "ray",
        "measure on a Ray cluster instead of here: auto for the one that this machine belongs to, host:6379, or "
        "ray://host:10001",
        metavar="ADDRESS",
    ),
    Option("ray-gpu", "GPU model to ask the cluster for, as Ray names it: H100, A100-80G", metavar="MODEL"),
    Option(
        "budget", "minutes that the confirming processes of --llmbench-processes=auto may take in all", metavar="MIN"
    ),
    Option("shared-gpu", "other programs may use the GPU: that does not make a measurement invalid", kind="flag"),
    Option("timeout", "seconds after which a measuring process is killed", default="600", metavar="SECONDS"),
    Option("baselines", "folder of the baselines", default="baselines", metavar="DIR"),
    Option(
        "baseline-ref",
        "read baselines, and the ini settings that have a say in verdicts, from git as they were at REV, so that a "
        "change cannot pass by editing them. origin/main... is the merge base with HEAD",
        metavar="REV",
    ),
    Option(
        "update",
        "write results into the baselines: rows that have none, that failed, that moved, or all",
        choices=("missing", "failing", "moved", "all"),
    ),
    Option("reason", "why baselines are updated; stored beside them", metavar="TEXT"),
    Option(
        "missing",
        "what a row without a baseline does: fail, skip after measuring, or record one and pass",
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
    Option(
        "benchmark", "have each row in pytest-benchmark's table and files as well, if that is installed", kind="flag"
    ),
    Option("html", "write a report of the run to FILE, one page that needs no network", metavar="FILE"),
    Option(
        "strict",
        "fail a run of which a selected row was not judged: skipped, not checked, without a baseline, or recorded; or "
        "of which something hides a failure: xfail, a limit of --llmbench-tolerance",
        kind="flag",
    ),
    Option(
        "inject",
        "make every step worse on purpose, to see the gate close: device=10%, host=10%, memory=64MiB, memory-idle=64MiB or memory-outside=64MiB",
        metavar="KIND=AMOUNT",
    ),
)


FLAGS = frozenset(option.flag for option in OPTIONS if option.kind != "flag")
"""Options that take a value."""


@dataclass(frozen=True)
class Settings:
    """The options of one run, resolved and checked."""

    scale: Literal["full", "smoke"]
    device: Literal["auto", "cuda", "cpu", "fake"]
    memory: str | None
    model: str | None
    loop: Literal["step", "trainer"] | None
    samples: int | Literal["full"]
    processes: int | Literal["auto"]
    jobs: int | Literal["auto"]
    ray: str | None
    ray_gpu: str | None
    budget_seconds: float | None
    shared_gpu: bool
    timeout_seconds: float
    baselines: Path
    baseline_ref: str | None
    update: Literal["missing", "failing", "moved", "all"] | None
    reason: str | None
    missing: Literal["fail", "skip", "record"]
    tolerances: tuple[str, ...]
    results: Path | None
    resume: Path | None
    benchmark: bool
    html: Path | None
    strict: bool
    injection: str | None


def add_options(parser: pytest.Parser) -> None:
    """Declare every option as a flag and as an ini setting."""
    group = parser.getgroup("llmbench", "performance-regression tests of LLM fine-tuning")
    for option in OPTIONS:
        told = f"{option.describe} [{option.default}]" if option.default else option.describe
        escaped = told.replace("%", "%%")  # argparse formats the help of flags, pytest not that of settings
        if option.kind == "flag":
            group.addoption(option.flag, action="store_true", default=None, help=escaped)
            parser.addini(option.setting, told, type="bool", default=False)
        elif option.kind == "lines":
            group.addoption(option.flag, action="append", default=None, metavar=option.metavar, help=escaped)
            parser.addini(option.setting, told, type="linelist", default=[])
        else:
            choices = option.choices or None
            group.addoption(option.flag, default=None, choices=choices, metavar=option.metavar, help=escaped)
            parser.addini(option.setting, told, default=option.default)


def is_used(config: pytest.Config) -> bool:
    """Whether one of the flags that take a value was typed."""
    return any(config.getoption(flag, None) is not None for flag in FLAGS)


def switched_on(config: pytest.Config) -> bool:
    """Whether the run is to measure; one that only lists tests or fixtures does not."""
    lists_only = any(
        config.getoption(name, False) for name in ("collectonly", "showfixtures", "show_fixtures_per_test")
    )
    return not lists_only and bool(_given(config, OPTIONS[0]).value)


def chosen_model(config: pytest.Config) -> str:
    """The model of the standard grid, or nothing."""
    model: str = _given(config, next(option for option in OPTIONS if option.name == "model")).value
    return model


def resolve(config: pytest.Config, committed: Mapping[str, Any] | None = None) -> Settings:
    """
    The settings of this run.

    Args:
        config: flags and ini settings.
        committed: by option name, ini settings of a commit, which count in place of those of the working tree.

    Raises:
        pytest.UsageError: a value that means nothing, named with its option.
    """
    given = {option.name: _given(config, option, committed or {}) for option in OPTIONS}
    return Settings(
        scale=given["scale"].value,
        device=given["device"].value,
        memory=given["memory"].value or None,
        model=given["model"].value or None,
        loop=given["loop"].value or None,
        samples="full" if given["samples"].value == "full" else _count(given["samples"], "samples", "full"),
        processes="auto" if given["processes"].value == "auto" else _count(given["processes"], "processes", "auto"),
        jobs="auto" if given["jobs"].value == "auto" else _count(given["jobs"], "cases", "auto"),
        ray=given["ray"].value or None,
        ray_gpu=given["ray-gpu"].value or None,
        budget_seconds=60 * _duration(given["budget"], "minutes") if given["budget"].value else None,
        shared_gpu=bool(given["shared-gpu"].value),
        timeout_seconds=_duration(given["timeout"], "seconds"),
        baselines=_path(config, given["baselines"]),
        baseline_ref=given["baseline-ref"].value or None,
        update=given["update"].value or None,
        reason=given["reason"].value or None,
        missing=given["missing"].value,
        tolerances=tuple(given["tolerance"].value),
        results=_path(config, given["results"]) if given["results"].value else None,
        resume=_path(config, given["resume"]) if given["resume"].value else None,
        benchmark=bool(given["benchmark"].value),
        html=_path(config, given["html"]) if given["html"].value else None,
        strict=bool(given["strict"].value),
        injection=given["inject"].value or None,
    )


class _Given(NamedTuple):
    """The value of an option, and where it comes from."""

    value: Any
    option: Option
    by_flag: bool

    @property
    def text(self) -> str:
        if self.by_flag:
            return f"{self.option.flag}={self.value}"
        return f"{self.option.setting} = {self.value} in the configuration file"


def is_typed(config: pytest.Config, option: Option) -> bool:
    """Whether a flag gives the option's value."""
    return config.getoption(option.flag, default=None) not in (None, "")


def ini_value(config: pytest.Config, option: Option) -> Any:
    """
    The option's value without its flag.

    Raises:
        pytest.UsageError: the configuration file has one of another type.
    """
    try:
        value = config.getini(option.setting)
    except (TypeError, ValueError, pytest.UsageError) as error:  # a usage error since pytest 9.2
        raise pytest.UsageError(f"{option.setting} in the configuration file: {error}") from None
    return option.default if value == "" else value


_NONE: Mapping[str, Any] = {}


def _given(config: pytest.Config, option: Option, committed: Mapping[str, Any] = _NONE) -> _Given:
    if is_typed(config, option):
        return _Given(config.getoption(option.flag), option, by_flag=True)
    value = committed[option.name] if option.name in committed else ini_value(config, option)
    given = _Given(value, option, by_flag=False)
    if option.choices and value not in ("", *option.choices):
        raise pytest.UsageError(f"{given.text}: choose from {', '.join(option.choices)}")
    return given


def _path(config: pytest.Config, given: _Given) -> Path:
    """
    As everywhere in pytest: a flag's path starts where the command was typed, a setting's at the root directory.

    Raises:
        pytest.UsageError: a link leads out of the root directory, and no flag names where.
    """
    if given.by_flag:
        return Path(config.invocation_params.dir / given.value)
    path = Path(config.rootpath / given.value)
    is_below = Path(os.path.normpath(path)).is_relative_to(config.rootpath)
    if is_below and (there := leads_out(path, config.rootpath)):  # which is for the user to decide, not for a link
        flag = given.option.flag
        raise pytest.UsageError(
            f"{flag}: {path} is a link to {there}, out of {config.rootpath}; remove it, or say {flag}={there}"
        )
    return path


def _count(given: _Given, what: str, otherwise: str) -> int:
    from pytest_llmbench.schema.workload import (
        parse_count,  # which imports what a run without the switch does not pay for
    )

    try:
        return parse_count(given.value, what, otherwise)
    except ValueError as error:
        raise pytest.UsageError(f"{given.text}: {error}") from None


def _duration(given: _Given, unit: str) -> float:
    try:
        duration = float(given.value)
    except ValueError:
        duration = -1.0
    if not 0 < duration < 1e9:
        raise pytest.UsageError(f"{given.text}: give a number of {unit} above 0")
    return duration
