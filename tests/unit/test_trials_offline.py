"""Two result files held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from measurements import good, measured
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.environment import Origin, PackageChange
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.store.results import Result, ResultError, ResultLog
from pytest_llmbench.trials.comparison import Comparison, compare_files
from surroundings import environment


def kernels(count: float = 100.0, **fields: Any) -> Measurement:
    return measured(good({"kernels_per_sample": count}), environment=environment(**fields))


def written(path: Path, **rows: Measurement) -> Path:
    log = ResultLog(path)
    for name, measurement in rows.items():
        log.append(
            Result(
                nodeid=f"t.py::test[{name}]",
                table="t",
                row=name,
                measurement=measurement,
                verdict=RowVerdict(status="no baseline", reason="r"),
                decision="pass",
                message="",
                seconds=1.0,
            )
        )
    log.close()
    return path


def compared(folder: Path, a: dict[str, Measurement], b: dict[str, Measurement], **options: Any) -> Comparison:
    files = written(folder / "a.jsonl", **a), written(folder / "b.jsonl", **b)
    return compare_files(*files, options.get("tolerances", {}), options.get("left_out", lambda _: None))


def test_b_is_held_against_a(tmp_path: Path) -> None:
    found = compared(tmp_path, {"r": kernels(100.0)}, {"r": kernels(150.0)})

    [row] = found.rows
    assert (row.name, row.verdict.status, row.pairs) == ("t[r]", "regressed", None)
    assert row.verdict.metrics[0].change == 0.5
    assert (found.a, found.b) == (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))


def test_a_tolerance_lets_a_row_move(tmp_path: Path) -> None:
    tolerances = {"kernels_per_sample": Tolerance(relative=0.6)}
    found = compared(tmp_path, {"r": kernels(100.0)}, {"r": kernels(150.0)}, tolerances=tolerances)

    assert found.rows[0].verdict.status == "unchanged"


def test_rows_of_one_side_are_named_and_counted_by_side(tmp_path: Path) -> None:
    found = compared(
        tmp_path, {"both": kernels(), "old": kernels()}, {"both": kernels(), "new": kernels(), "newer": kernels()}
    )

    assert [row.name for row in found.rows] == ["t[both]"]
    assert set(found.one_sided) == {"t[old]", "t[new]", "t[newer]"}
    assert found.left_out == ("only in A, 1 row: t[old]", "only in B, 2 rows: t[new], t[newer]")


def test_without_rows_of_one_side_nothing_is_left_out(tmp_path: Path) -> None:
    found = compared(tmp_path, {"r": kernels()}, {"r": kernels()})

    assert (found.one_sided, found.left_out) == ((), ())


def test_what_differs_between_the_environments_is_told_and_the_rest_counted(tmp_path: Path) -> None:
    before = kernels(python="3.11", driver="5", cuda="13", packages={"torch": "1", "pytest-llmbench": "1"})
    after = kernels(python="3.12", driver="6", cuda="13", packages={"torch": "2", "pytest-llmbench": "2"})

    found = compared(tmp_path, {"r": before}, {"r": after})

    assert set(found.changes) == {
        PackageChange("driver", "5", "6"),
        PackageChange("python", "3.11", "3.12"),
        PackageChange("torch", "1", "2"),
    }
    assert found.num_unchanged == 1


def test_of_a_package_with_several_versions_all_are_told(tmp_path: Path) -> None:
    sides = {"one": kernels(packages={"peft": "1"}), "two": kernels(packages={"peft": "2"})}

    found = compared(tmp_path, sides, {"one": kernels(packages={"peft": "2"})})

    assert found.changes == (PackageChange("peft", "1 and 2", "2"),)


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ({}, {}, "NVIDIA H200"),
        ({}, {"device": "NVIDIA H100"}, "NVIDIA H200 and NVIDIA H100"),
        ({"device": "cpu", "cpu": "a CPU"}, {"device": "cpu", "cpu": "a CPU"}, "a CPU"),
    ],
)
def test_devices_are_named_once_each(tmp_path: Path, a: dict[str, Any], b: dict[str, Any], told: str) -> None:
    assert compared(tmp_path, {"r": kernels(**a)}, {"r": kernels(**b)}).measured_on == told


def test_a_row_whose_environment_is_not_known_says_nothing_of_packages(tmp_path: Path) -> None:
    unknown = measured(good({"kernels_per_sample": 1.0}), environment=None)

    found = compared(tmp_path, {"r": unknown}, {"r": unknown})

    assert (found.measured_on, found.changes, found.num_unchanged) == ("", (), 0)


def test_a_file_without_a_result_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")

    with pytest.raises(ResultError, match=r"empty\.jsonl: there is no result in it"):
        compare_files(empty, empty, {}, lambda _: None)


def test_a_line_that_is_no_result_is_told(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a.jsonl", r=kernels()), written(tmp_path / "b.jsonl", r=kernels())
    for file in (a, b):
        file.write_text("{}\n" + file.read_text())
    told: list[str] = []

    compare_files(a, b, {}, told.append)

    assert len([line for line in told if "a.jsonl" in line]) == 1
    assert len([line for line in told if "b.jsonl" in line]) == 1


def of(digest: str, **edited: str) -> dict[str, Any]:
    return {"packages": {"peft": "1"}, "origins": {"peft": Origin(digest=digest, edited=edited)}}


def test_files_that_differ_are_a_change_of_the_package(tmp_path: Path) -> None:
    found = compared(tmp_path, {"r": kernels(**of("0"))}, {"r": kernels(**of("1", a="1"))})

    assert [str(change) for change in found.changes] == ["peft 1, files changed: a"]


def test_a_file_of_several_codes_names_all_of_them(tmp_path: Path) -> None:
    found = compared(tmp_path, {"r": kernels(**of("0"))}, {"r": kernels(**of("0")), "s": kernels(**of("1", a="1"))})

    assert [str(change) for change in found.changes] == ["peft 1 -> 1 and 1, files changed: a"]


def test_packages_of_which_the_versions_alone_are_known_are_not_called_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, {"r": kernels(packages={"peft": "1"})}, {"r": kernels(**of("1"))})

    assert (found.changes, found.same) == ((), "have the same version")
