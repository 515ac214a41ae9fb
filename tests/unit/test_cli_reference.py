"""The generated reference: it is up to date, and its schemas describe the files that there are."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from pytest_llmbench.cli.reference import PAGES, reference
from pytest_llmbench.plugin.options import OPTIONS
from pytest_llmbench.schema.metrics import METRICS

ROOT = Path(__file__).parents[2]
app = typer.Typer()
app.command()(reference)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    stored = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")

    assert stored == PAGES[name](), "run: llmbench reference --write docs/reference"


def test_every_option_is_in_the_reference() -> None:
    assert all(f"`{option.setting}`" in PAGES["options.md"]() for option in OPTIONS)


def test_every_metric_is_in_the_reference() -> None:
    assert all(f"`{name}`" in PAGES["metrics.md"]() for name in METRICS)


@pytest.mark.parametrize("path", sorted((ROOT / "baselines").glob("nvidia-*/*.json")), ids=lambda path: path.stem)
def test_stored_baselines_are_as_the_schema_says(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema validates: pip install jsonschema")

    jsonschema.validate(json.loads(path.read_bytes()), json.loads(PAGES["baselines.schema.json"]()))


def test_a_page_is_printed() -> None:
    ran = CliRunner().invoke(app, ["metrics"])

    assert ran.exit_code == 0
    assert ran.stdout == PAGES["metrics.md"]()


def test_all_pages_are_written(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["--write", str(tmp_path / "new")]).exit_code == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(PAGES)
    assert msgspec.json.decode((tmp_path / "new" / "results.schema.json").read_bytes())


def test_without_a_page_it_says_what_to_give() -> None:
    ran = CliRunner().invoke(app, [])

    assert ran.exit_code == 2
    assert "name a page, or a folder with --write DIR" in ran.stderr
