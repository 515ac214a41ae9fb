"""A path behind an option and a space, which pytest takes for a path to tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

OPTIONS = ["model", "baselines", "results", "resume", "html"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A file outside of the project."""
    path = tmp_path / "elsewhere" / "file"
    path.parent.mkdir()
    path.write_text("")
    return path


@pytest.fixture
def project(bench: Bench) -> Bench:
    """A project with an ini file, a row, and a folder beside it."""
    bench.pytester.makeini("[pytest]\nllmbench_scale = smoke")
    bench.rows("a")
    (bench.folder / "inside").mkdir()
    return bench


@pytest.mark.parametrize("option", OPTIONS)
def test_a_path_elsewhere_behind_a_space_is_refused(project: Bench, elsewhere: Path, option: str) -> None:
    run = project.run(f"--llmbench-{option}", str(elsewhere), "--collect-only")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(
        [f"ERROR: --llmbench-{option} {elsewhere}: *should be {project.folder}; write --llmbench-{option}={elsewhere}"]
    )


def test_a_path_elsewhere_is_refused_beside_a_path_to_tests_where_no_ini_file_holds_the_root(
    bench: Bench, elsewhere: Path
) -> None:
    bench.rows("a")

    run = bench.run("test_rows.py", "--llmbench-baselines", str(elsewhere.parent), "--collect-only")

    assert run.ret == pytest.ExitCode.USAGE_ERROR


def test_a_path_elsewhere_in_the_environment_is_refused(
    project: Bench, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--llmbench-baselines {elsewhere.parent}")

    assert project.run("--collect-only").ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    "options",
    [
        ["--llmbench-baselines={elsewhere}"],
        ["--llmbench-baselines", "{inside}"],
        ["--llmbench-baselines", "inside"],
        ["--llmbench-html", "inside/new.html"],
        ["--llmbench-html", "{elsewhere}/new.html"],
        ["--llmbench-baselines", "{elsewhere}", "test_rows.py"],
        ["--llmbench-baselines", "{elsewhere}", "-c", "tox.ini"],
        ["--llmbench-scale", "smoke", "test_rows.py"],
    ],
    ids=" ".join,
)
def test_whatever_leaves_the_root_directory_where_it_is_runs(
    project: Bench, elsewhere: Path, options: list[str]
) -> None:
    filled = [option.format(elsewhere=elsewhere.parent, inside=project.folder / "inside") for option in options]

    run = project.run(*filled, "--collect-only")

    assert run.ret == 0
    run.stdout.fnmatch_lines([f"rootdir: {project.folder}*"])
