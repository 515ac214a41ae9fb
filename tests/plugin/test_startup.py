"""What the plugin costs a pytest run that does not use it, and where it explains itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "scipy",
    "pynvml",
    "msgspec",
    "rich",
    "typer",
    "filelock",
)
LISTS_IMPORTS = f"""
import sys

def pytest_unconfigure():
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    ours = sorted(name for name in sys.modules if name.startswith("pytest_llmbench"))
    print("heavy:", loaded, "ours:", ours)
"""


def test_a_run_that_does_not_measure_imports_nothing_heavy(bench: Bench) -> None:
    bench.pytester.makeconftest(LISTS_IMPORTS)
    bench.pytester.makepyfile("def test_anything(): pass")

    run = bench.pytester.runpytest_subprocess("-s", "-p", "pytest_llmbench.plugin")

    ours = [
        "pytest_llmbench",
        "pytest_llmbench.plugin",
        "pytest_llmbench.plugin.hookspecs",
        "pytest_llmbench.plugin.options",
        "pytest_llmbench.schema",
        "pytest_llmbench.schema.units",
        "pytest_llmbench.store",
        "pytest_llmbench.store.files",
    ]
    run.stdout.fnmatch_lines_random([f"heavy: [[]] ours: {str(ours).replace('[', '[[]')}"])


def test_a_run_that_measures_imports_no_training_library(bench: Bench) -> None:
    bench.pytester.makeconftest(LISTS_IMPORTS)
    bench.rows("a")

    run = bench.run_apart("-s", "--llmbench-missing=record")

    (line,) = [line for line in run.outlines if line.startswith("heavy:")]
    for name in ("torch", "transformers", "peft", "accelerate", "numpy"):
        assert f"'{name}'" not in line


def test_fixtures_lists_the_fixture_with_its_explanation(bench: Bench) -> None:
    run = bench.run("--fixtures")

    run.stdout.fnmatch_lines(["llmbench -- *", "    Measure a fine-tuning case in a fresh process and assert it*"])


def test_markers_lists_the_marker(bench: Bench) -> None:
    run = bench.run("--markers")

    run.stdout.fnmatch_lines(["@pytest.mark.gpu: needs a CUDA device"])


def test_help_lists_flags_and_settings(bench: Bench) -> None:
    run = bench.run("--help")

    run.stdout.fnmatch_lines(
        [
            "performance-regression tests of LLM fine-tuning:",
            "  --llmbench  *measure the cases of tests*",
            "  --llmbench-inject=KIND=AMOUNT",
            "*device=10%, host=10%*",
            "  llmbench_scale (string):",
            "*two-layer miniatures, on the CPU",
            "* [[]full]",
        ]
    )


@pytest.mark.parametrize("option", ["--help", "--fixtures", "--markers", "--collect-only"])
def test_listing_leaves_no_files(bench: Bench, option: str) -> None:
    bench.rows("a")

    bench.run(option, "-p", "no:cacheprovider")

    assert not (bench.folder / "llmbench-results").exists()


def test_a_run_without_results_leaves_no_result_file(bench: Bench) -> None:
    bench.pytester.makepyfile("def test_anything(): pass")

    assert bench.run().ret == 0
    assert bench.result_files() == []


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    import pytest_llmbench

    assert pytest_llmbench.__version__ == version("pytest-llmbench")
    assert set(pytest_llmbench.__all__) == {name for name in pytest_llmbench.__all__ if hasattr(pytest_llmbench, name)}
    with pytest.raises(AttributeError, match="has no attribute 'Cases'"):
        _ = pytest_llmbench.Cases
