"""Environments: found, refused, brought what they lack, and kept in the cache."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement

from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.bundle import MINIMUM_MSGSPEC
from pytest_llmbench.stacks.cache import cache_folder, prepared
from pytest_llmbench.stacks.dependencies import can_build, implications, needs
from pytest_llmbench.stacks.index import between, known_versions
from pytest_llmbench.stacks.installer import find_installer
from pytest_llmbench.stacks.interpreter import Interpreter, probe
from pytest_llmbench.stacks.stack import Source, absolute, open_stack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A virtual environment with nothing in it."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def python_in(folder: Path, script: str) -> Path:
    """An environment whose interpreter is a shell script."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


def quiet(line: str) -> None:
    pass


def imported(environment: Path, statement: str) -> str:
    """What a statement prints in an environment as it would measure."""
    stack = open_stack(str(environment), Source(), quiet)
    done = subprocess.run([stack.python, "-c", statement], env=stack.environ(), capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_an_empty_environment_is_brought_all_that_the_worker_needs(bare: Path) -> None:
    statement = "import pytest_llmbench.worker.server, pynvml, msgspec; print(msgspec.__version__)"

    assert imported(bare, statement) == msgspec.__version__


def test_nothing_is_written_into_the_environment(bare: Path) -> None:
    before = sorted(bare.rglob("*"))
    imported(bare, "import pytest_llmbench.schema.protocol")

    assert sorted(bare.rglob("*")) == before


def test_the_worker_brings_nothing_else_along(bare: Path) -> None:
    assert (
        imported(bare, "import importlib.util as u; print([u.find_spec(n) for n in ('pytest', 'rich')])")
        == "[None, None]"
    )


def test_the_worker_tells_its_version(bare: Path) -> None:
    import pytest_llmbench

    statement = "import importlib.metadata as m; print(m.version('pytest-llmbench'))"
    assert imported(bare, statement) == pytest_llmbench.__version__


def test_the_worker_tells_which_libraries_it_needs(bare: Path) -> None:
    statement = (
        "import importlib.metadata as m; print(any('transformers' in one for one in m.requires('pytest-llmbench')))"
    )

    assert imported(bare, statement) == "True"


def test_the_current_folder_is_not_measured(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("")
    monkeypatch.chdir(tmp_path)

    assert imported(bare, "import importlib.util as u; print(u.find_spec('torch'))") == "None"


def test_tools_of_the_environment_come_first(bare: Path) -> None:
    stack = open_stack(str(bare), Source(), quiet)
    environ = stack.environ([Path("/steps")])

    assert environ["PATH"].split(":")[0] == str(bare / "bin")
    assert environ["VIRTUAL_ENV"] == str(bare)
    assert environ["PYTHONPATH"].split(":") == [str(stack.worker), "/steps"]


def test_the_current_environment_is_this_one() -> None:
    stack = open_stack("current", Source(), quiet)

    assert stack.python == Path(sys.executable)
    assert stack.packages["msgspec"] == msgspec.__version__
    assert stack.packages["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", "does not run: exit status 3"),
        ("echo no such module >&2; exit 1", "does not run: no such module"),
        ("echo hello", "is not a Python"),
        (
            """echo '{"version":[3,9,1],"soabi":"","prefix":"","site_folders":[],"packages":{}}'""",
            r"is Python 3\.9\.1; measuring needs 3\.11 or newer",
        ),
    ],
)
def test_an_interpreter_that_cannot_measure_is_refused(tmp_path: Path, script: str, told: str) -> None:
    with pytest.raises(StackError, match=told):
        open_stack(str(python_in(tmp_path / "env", script)), Source(), quiet)


def test_what_is_no_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no bin/python"):
        open_stack(str(tmp_path), Source(), quiet)
    with pytest.raises(StackError, match="no such file or folder; name a virtual environment"):
        open_stack(str(tmp_path / "missing"), Source(), quiet)


def test_names_are_made_absolute_but_for_the_current_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")

    assert (absolute("current"), absolute("venv")) == ("current", "/tmp/venv")


def test_a_prepared_folder_is_built_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        folder.mkdir()
        built.append(folder)

    for _ in range(2):
        assert prepared(tmp_path / "c" / "one", build) == tmp_path / "c" / "one"
    assert len(built) == 1
    prepared(tmp_path / "c" / "one", build, refresh=True)
    assert len(built) == 2


def test_a_folder_that_was_left_unfinished_is_built_anew(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "half").touch()

    assert not (prepared(tmp_path / "one", Path.mkdir) / "half").exists()


def test_a_build_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        folder.mkdir()
        raise StackError("no")

    with pytest.raises(StackError, match="no"):
        prepared(tmp_path / "one", build)
    assert not (tmp_path / "one").exists()


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    assert cache_folder() == Path("/big/pytest-llmbench")
    monkeypatch.setenv("LLMBENCH_CACHE", "/other")
    assert cache_folder() == Path("/other")


def test_without_an_installer_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StackError, match="uv is not on PATH"):
        find_installer("uv")
    with pytest.raises(StackError, match="uv does not see"):
        find_installer("uv", sees_base=True)


def interpreter(packages: dict[str, str], requires: dict[str, tuple[str, ...]]) -> Interpreter:
    return Interpreter((3, 11, 0), "", "", (), packages, requires)


def test_packages_that_need_each_others_versions_change_together() -> None:
    good = interpreter({"a": "1", "b": "1", "c": "1"}, {"a": ("b<2",), "c": ("b>=1",)})
    bad = interpreter(
        {"a": "2", "b": "2", "c": "2"}, {"a": ("b>=1",), "c": ('b>=2; python_version > "3"', "x; extra=='y'")}
    )

    assert needs(("a", "b", "c"), bad) == {"a": frozenset("b"), "b": frozenset(), "c": frozenset("b")}
    assert implications(("a", "b", "c"), good, bad) == {
        "a": frozenset("a"),
        "b": frozenset("ab"),
        "c": frozenset("abc"),
    }


def test_a_package_that_is_new_comes_with_what_needs_it() -> None:
    good = interpreter({"a": "1"}, {})
    bad = interpreter({"a": "2", "new": "1"}, {"a": ("new",)})

    assert implications(("a", "new"), good, bad) == {"a": frozenset({"a", "new"}), "new": frozenset({"new"})}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ("[build-system]\nrequires = ['setuptools>=61']", True),
        ("[build-system]\nrequires = ['setuptools>=99']", False),
        ("[build-system]\nrequires = ['hatchling']", False),
        ("[build-system]\nrequires = ['setuptools', 'hatchling; python_version < \"3.8\"']", True),
        ("[build-system]\nrequires = []", True),
        ("[tool.ruff]\nline-length = 100", True),
        ("not toml", False),
        (None, True),
    ],
)
def test_the_base_builds_a_package_if_it_has_what_that_is_built_with(
    tmp_path: Path, about: str | None, expected: bool
) -> None:
    if about is not None:
        (tmp_path / "pyproject.toml").write_text(about)
    base = Interpreter((3, 11, 0), "", "/env", (), packages={"setuptools": "80.0"})

    assert can_build(tmp_path, base) == expected


def test_versions_between_two_are_in_the_order_of_the_search() -> None:
    known = ("0.1", "0.2", "0.10", "0.9", "0.10rc1", "1.0")

    assert between(known, "0.1", "1.0") == ("0.2", "0.9", "0.10")
    assert between(known, "1.0", "0.2") == ("0.10", "0.9")
    assert between(known, "0.9", "0.10rc2") == ("0.10rc1",)
    with pytest.raises(StackError, match="nothing between"):
        between(known, "0.1", "https://e.org/x.whl")


def test_versions_are_listed_by_the_index_of_the_lock_file(tmp_path: Path, bare: Path) -> None:
    for version in ("1.0", "1.1"):
        (tmp_path / f"part-{version}-py3-none-any.whl").touch()
    options = ("--no-index", f"--find-links={tmp_path}", "--hash=ignored")

    assert set(known_versions("part", bare / "bin" / "python", options)) == {"1.0", "1.1"}
    with pytest.raises(StackError, match=r"versions of other cannot be listed .*--among"):
        known_versions("other", bare / "bin" / "python", options)


def test_the_least_msgspec_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (needed,) = [one for text in project["dependencies"] if (one := Requirement(text)).name == "msgspec"]

    assert str(needed.specifier) == f">={MINIMUM_MSGSPEC}"


def test_the_probe_takes_the_package_that_is_imported(bare: Path) -> None:
    (site,) = probe(bare / "bin" / "python", {}).site_folders
    for version in ("1.0", "2.0"):
        folder = Path(site) / f"my_part-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: My_Part\nVersion: {version}\nRequires-Dist: torch\n"
        )
    found = probe(bare / "bin" / "python", {})

    assert found.packages["my-part"] in ("1.0", "2.0")
    assert found.requires["my-part"] == ("torch",)
