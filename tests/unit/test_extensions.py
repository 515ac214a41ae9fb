"""Parts of other packages: their names, and the metrics that they bring to whoever judges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import installed
import surroundings
from pytest_llmbench.schema import extensions
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.environment import installed_packages

EXAMPLE = Path(__file__).parents[2] / "examples" / "extension"
METRIC = "saved_tensors_per_sample"
STATISTICAL = f"""
from pytest_llmbench.schema.metrics import Metric
saved_tensors = Metric(name={METRIC!r}, unit="1", better="lower", gate="statistical", describe="")
"""


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the example is installed; on the path of this process and of its children."""
    installed.install(EXAMPLE, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", surroundings.python_path(tmp_path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return tmp_path


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("field", ["model", "attention", "quantization"])
def test_a_case_may_name_what_is_not_installed(field: str) -> None:
    case = Case(**{"model": "qwen-7b-chat", field: "acme:thing"})  # type: ignore[arg-type]

    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case


@pytest.mark.parametrize("name", ["acme:", ":thing", "acme thing:x", "acme:a b", "a:b:c"])
def test_another_name_is_none_of_another_package(name: str) -> None:
    with pytest.raises(CaseError, match="unknown attention"):
        Case(model="qwen-7b-chat", attention=name)


def test_a_name_that_is_nearly_one_of_ours_is_told() -> None:
    with pytest.raises(CaseError, match="unknown quantization 'bnb-nf5'; did you mean 'bnb-nf4'"):
        Case(model="qwen-7b-chat", quantization="bnb-nf5")


def test_what_is_offered_is_known_before_anything_is_loaded(site: Path) -> None:
    (site / "acme_llmbench" / "models.py").write_text("import moons\n")

    assert extensions.offered("models") == ("acme:twin",)


def test_what_nobody_offers_is_told_with_its_group() -> None:
    with pytest.raises(extensions.ExtensionError, match=r"no installed package offers acme:x among .*llmbench\.models"):
        extensions.load("models", "acme:x")


@pytest.mark.usefixtures("site")
def test_the_package_is_a_part_of_the_environment_of_cases_that_use_it() -> None:
    assert installed_packages(Case(model="qwen-7b-chat", attention="acme:plain"))["acme-llmbench"] == "1.0"
    assert "acme-llmbench" not in installed_packages(Case(model="qwen-7b-chat"))


@pytest.mark.usefixtures("site")
def test_a_metric_of_another_package_stands_behind_our_own() -> None:
    code = (
        "from pytest_llmbench.schema.metrics import METRICS, add_extensions; print(add_extensions(), list(METRICS)[-1])"
    )

    assert python(code) == f"() {METRIC}"


@pytest.mark.usefixtures("site")
def test_a_package_may_import_its_metric_before_us() -> None:
    code = "import acme_llmbench.metrics; from pytest_llmbench.schema.metrics import add_extensions; print(add_extensions())"

    assert python(code) == "()"


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("import moons", "saved_tensors_per_sample of acme-llmbench 1.0 does not load: ModuleNotFoundError"),
        ("saved_tensors = 1", "saved_tensors_per_sample: its entry point is no Metric of this name but 1"),
        (STATISTICAL, "metric saved_tensors_per_sample: gate='statistical' needs a prior"),
    ],
)
def test_nothing_is_judged_beside_a_metric_that_is_broken(site: Path, module: str, told: str) -> None:
    (site / "acme_llmbench" / "metrics.py").write_text(module)
    (site / "test_none.py").write_text("def test_none(): pass\n")

    command = [sys.executable, "-c", "from pytest_llmbench.cli import main; main()", "show", "."]
    by_command = subprocess.run(command, capture_output=True, text=True, check=False, cwd=site)
    pytest_ = [sys.executable, "-m", "pytest", "-p", "pytest_llmbench.plugin", "--llmbench", "test_none.py"]
    by_run = subprocess.run(pytest_, capture_output=True, text=True, check=False, cwd=site)

    assert by_command.returncode == 2
    assert by_run.returncode == pytest.ExitCode.USAGE_ERROR
    for shown in (by_command.stderr, by_run.stderr):
        assert told in shown
        assert "mend or remove that package" in shown


def test_the_doctor_is_not_stopped_by_what_it_is_to_find(site: Path) -> None:
    (site / "acme_llmbench" / "metrics.py").write_text("import moons")

    command = [sys.executable, "-c", "from pytest_llmbench.cli import main; main()", "doctor", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=site)

    assert "llmbench: warning: metric saved_tensors_per_sample of acme-llmbench 1.0 does not load: " in done.stdout


def test_our_own_metrics_cannot_be_replaced(site: Path) -> None:
    entries = next(site.glob("*.dist-info")) / "entry_points.txt"
    entries.write_text("[pytest_llmbench.metrics]\nloss_first = acme_llmbench.metrics:own\n")
    (site / "acme_llmbench" / "metrics.py").write_text(
        STATISTICAL.replace("statistical", "exact").replace(METRIC, "loss_first").replace("saved_tensors =", "own =")
    )

    told = python("from pytest_llmbench.schema.metrics import add_extensions; print(add_extensions())")

    assert "metric loss_first is one of pytest-llmbench's own" in told
