"""What `llmbench ab` and `bisect` make of their options."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from pytest_llmbench.cli.parameters import new_results_file


def test_a_new_file_is_beside_those_of_pytest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert new_results_file("ab").parent == Path("llmbench-results")


def test_a_folder_of_results_that_leads_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "llmbench-results").symlink_to(tmp_path / "outside")
    monkeypatch.chdir(tmp_path / "here")

    with pytest.raises(typer.Exit) as ended:
        new_results_file("ab")

    assert ended.value.exit_code == 2
    assert f"llmbench-results is a link to {tmp_path / 'outside'}, out of this folder" in capsys.readouterr().err
