"""Every option works as a flag and as a setting, and the flag wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_llmbench.plugin.options import OPTIONS, Option, Settings, resolve, switched_on


class Example(NamedTuple):
    """Two values of an option as they are typed, and what the settings make of them."""

    field: str
    one: str
    other: str
    as_one: Any
    as_other: Any


EXAMPLES = {
    "scale": Example("scale", "smoke", "full", "smoke", "full"),
    "device": Example("device", "cpu", "cuda", "cpu", "cuda"),
    "memory": Example("memory", "24GiB", "80GB", "24GiB", "80GB"),
    "model": Example("model", "yi-6b-chat", "org/name", "yi-6b-chat", "org/name"),
    "loop": Example("loop", "trainer", "step", "trainer", "step"),
    "samples": Example("samples", "8", "full", 8, "full"),
    "processes": Example("processes", "3", "auto", 3, "auto"),
    "jobs": Example("jobs", "4", "auto", 4, "auto"),
    "ray": Example("ray", "auto", "host:6379", "auto", "host:6379"),
    "ray-gpu": Example("ray_gpu", "H100", "H200", "H100", "H200"),
    "budget": Example("budget_seconds", "1.5", "10", 90.0, 600.0),
    "html": Example("html", "a.html", "b.html", Path("a.html"), Path("b.html")),
    "timeout": Example("timeout_seconds", "7.5", "60", 7.5, 60.0),
    "baselines": Example("baselines", "here", "there", Path("here"), Path("there")),
    "baseline-ref": Example("baseline_ref", "main", "v1", "main", "v1"),
    "update": Example("update", "moved", "all", "moved", "all"),
    "reason": Example("reason", "a new card", "another", "a new card", "another"),
    "missing": Example("missing", "skip", "record", "skip", "record"),
    "tolerance": Example("tolerances", "loss_first=1%", "loss_last=2%", ("loss_first=1%",), ("loss_last=2%",)),
    "results": Example("results", "a.jsonl", "b.jsonl", Path("a.jsonl"), Path("b.jsonl")),
    "resume": Example("resume", "a.jsonl", "b.jsonl", Path("a.jsonl"), Path("b.jsonl")),
    "inject": Example("injection", "host=10%", "host=20%", "host=10%", "host=20%"),
}
FIELDS_OF_SWITCHES = {"strict": "strict", "shared-gpu": "shared_gpu", "benchmark": "benchmark"}
VALUED = [option for option in OPTIONS if option.kind != "flag"]
SWITCHES = [option for option in OPTIONS if option.kind == "flag"]

valued = pytest.mark.parametrize("option", VALUED, ids=lambda option: option.name)
switches = pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.name or "llmbench")

Configure = Callable[..., pytest.Config]


@pytest.fixture
def configure(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """The configuration of a run with flags and settings, and nothing from elsewhere."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def parse(*flags: str, **settings: str) -> pytest.Config:
        lines = [f"{name} = {value}" for name, value in settings.items()]
        pytester.makeini("\n".join(["[pytest]", *lines]))
        return pytester.parseconfig("-p", "pytest_llmbench.plugin", *flags)

    return parse


def value_of(config: pytest.Config, option: Option) -> Any:
    """The field of the settings that the option fills in, paths relative to the root directory."""
    value = getattr(resolve(config), EXAMPLES[option.name].field)
    return value.relative_to(config.rootpath) if isinstance(value, Path) else value


def test_every_option_is_tried_and_every_setting_has_one() -> None:
    assert set(EXAMPLES) == {option.name for option in VALUED}
    assert {field.name for field in fields(Settings)} == {
        *(example.field for example in EXAMPLES.values()),
        *FIELDS_OF_SWITCHES.values(),
    }


@valued
def test_a_flag_has_an_effect(configure: Configure, option: Option) -> None:
    example = EXAMPLES[option.name]

    assert value_of(configure(f"{option.flag}={example.one}"), option) == example.as_one
    assert value_of(configure(f"{option.flag}={example.other}"), option) == example.as_other


@valued
def test_a_setting_has_an_effect(configure: Configure, option: Option) -> None:
    example = EXAMPLES[option.name]

    assert value_of(configure(**{option.setting: example.one}), option) == example.as_one
    assert value_of(configure(**{option.setting: example.other}), option) == example.as_other


@valued
def test_a_flag_beats_a_setting(configure: Configure, option: Option) -> None:
    example = EXAMPLES[option.name]

    config = configure(f"{option.flag}={example.one}", **{option.setting: example.other})

    assert value_of(config, option) == example.as_one


@valued
def test_an_empty_setting_is_the_default(configure: Configure, option: Option) -> None:
    assert value_of(configure(**{option.setting: ""}), option) == value_of(configure(), option)


@pytest.mark.parametrize(
    "option", [one for one in VALUED if one.kind == "text" and not one.choices], ids=lambda option: option.name
)
def test_an_empty_flag_is_no_flag(configure: Configure, option: Option) -> None:
    example = EXAMPLES[option.name]

    assert value_of(configure(f"{option.flag}=", **{option.setting: example.one}), option) == example.as_one


def test_the_defaults(configure: Configure) -> None:
    config = configure()

    assert resolve(config) == Settings(
        scale="full",
        device="auto",
        memory=None,
        model=None,
        loop=None,
        samples=16,
        processes="auto",
        jobs=1,
        ray=None,
        ray_gpu=None,
        budget_seconds=None,
        shared_gpu=False,
        timeout_seconds=600.0,
        baselines=config.rootpath / "baselines",
        baseline_ref=None,
        update=None,
        reason=None,
        missing="fail",
        tolerances=(),
        results=None,
        resume=None,
        benchmark=False,
        html=None,
        strict=False,
        injection=None,
    )
    assert not switched_on(config)


def is_on(config: pytest.Config, option: Option) -> bool:
    field = FIELDS_OF_SWITCHES.get(option.name)
    return bool(getattr(resolve(config), field)) if field else switched_on(config)


@switches
def test_a_switch_is_turned_on_by_its_flag_and_by_its_setting(configure: Configure, option: Option) -> None:
    assert not is_on(configure(), option)
    assert is_on(configure(option.flag), option)
    assert is_on(configure(**{option.setting: "true"}), option)
    assert not is_on(configure(**{option.setting: "false"}), option)
    assert is_on(configure(option.flag, **{option.setting: "false"}), option)
    assert not is_on(configure("-o", f"{option.setting}=false", **{option.setting: "true"}), option)


def test_tolerances_can_be_given_several_times(configure: Configure) -> None:
    flags = ("--llmbench-tolerance=loss_first=1%", "--llmbench-tolerance=loss_last=2%")

    assert resolve(configure(*flags)).tolerances == ("loss_first=1%", "loss_last=2%")
    setting = "\n  loss_first=1%\n  loss_last=2%"
    assert resolve(configure(llmbench_tolerance=setting)).tolerances == ("loss_first=1%", "loss_last=2%")


@pytest.mark.parametrize("option", ["baselines", "results", "resume"])
def test_a_flags_path_starts_where_it_is_typed_and_a_settings_at_the_root(
    configure: Configure, pytester: pytest.Pytester, option: str
) -> None:
    below = pytester.mkdir("below")
    configure(**{f"llmbench_{option}": "set"})
    pytester.chdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(below)
        flag = pytester.parseconfig("-p", "pytest_llmbench.plugin", f"--llmbench-{option}=typed")
        setting = pytester.parseconfig("-p", "pytest_llmbench.plugin")

    assert getattr(resolve(flag), option) == below / "typed"
    assert getattr(resolve(setting), option) == pytester.path / "set"


@pytest.mark.parametrize("listing", ["--collect-only", "--fixtures", "--fixtures-per-test"])
def test_a_run_that_only_lists_is_not_switched_on(configure: Configure, listing: str) -> None:
    assert not switched_on(configure("--llmbench", listing))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name or "llmbench")
def test_flag_and_setting_are_named_alike(option: Option) -> None:
    assert option.flag.removeprefix("--").replace("-", "_") == option.setting
    assert option.describe
    assert not option.describe.endswith(".")
