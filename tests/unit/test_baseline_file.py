"""The baseline format: what it holds comes back, and nothing else is let in."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import surroundings
from pytest_llmbench.schema.case import MODELS, Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Evidence, Measurement, Process, Round
from pytest_llmbench.schema.metrics import METRICS, Noise, Tolerance
from pytest_llmbench.schema.workload import WORKLOAD_VERSION, Workload
from pytest_llmbench.store import baseline as file_module
from pytest_llmbench.store.baseline import BaselineError, BaselineFile, BaselineRow, decode, encode

NOISE = {"process_sd": 0.002, "process_df": 10, "session_sd": 0.003, "session_df": 10}
unhurried = settings(deadline=None)
"""A machine shared with other work is no fault of the code."""

PATH = Path("baselines/nvidia-h200/quantization.json")
Edit = Callable[[dict[str, Any]], object]

sizes = st.integers(min_value=0, max_value=2**60)
numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=20)
environments = st.builds(
    Environment,
    device=names,
    num_devices=st.integers(1, 8),
    device_memory_bytes=st.none() | sizes,
    driver=st.none() | names,
    cuda=st.none() | names,
    power_limit_watts=st.none() | numbers,
    allocator=st.dictionaries(names, names, max_size=2),
    python=names,
    cpu=names,
    num_cpus=st.integers(1, 256),
    system=names,
    packages=st.dictionaries(names, names, max_size=3),
)
processes = st.builds(
    Process,
    outcome=st.sampled_from(("ok", "oom")),
    reason=st.none() | names,
    metrics=st.dictionaries(
        st.sampled_from(tuple(METRICS)),
        sizes | numbers | st.lists(sizes, min_size=1, max_size=3).map(tuple),
        min_size=1,
        max_size=4,
    ),
    missing=st.dictionaries(st.sampled_from(tuple(METRICS)), names, max_size=2),
    rounds=st.lists(st.builds(Round, seconds=numbers, samples=sizes, tokens=sizes), max_size=2).map(tuple),
    ran=st.dictionaries(names, names, max_size=2),
    evidence=st.builds(
        Evidence, power_watts=st.none() | st.tuples(numbers, numbers), allocation_retries=st.none() | sizes
    ),
    phase_seconds=st.dictionaries(names, numbers, max_size=2),
)
measurements = st.builds(
    Measurement,
    case=st.builds(Case, model=st.sampled_from(MODELS), max_length=st.integers(1, 10**6)),
    workload=st.builds(Workload, samples=st.integers(1, 10**4) | st.just("full")),
    environment=environments,
    processes=st.lists(processes, min_size=1, max_size=2).map(tuple),
    measured_at=names,
)
tolerances = st.dictionaries(
    st.sampled_from(tuple(METRICS)),
    st.builds(Tolerance, st.floats(0, 1e6), st.floats(0, 1e12)),
    max_size=2,
)
weights = st.floats(1, 1e3)
noises = st.dictionaries(
    st.sampled_from([name for name, metric in METRICS.items() if metric.gate == "statistical"]),
    st.builds(
        Noise, process_sd=st.floats(1e-9, 1e3), process_df=weights, session_sd=st.floats(0, 1), session_df=weights
    ),
    max_size=2,
)


def a_measurement(**changes: Any) -> Measurement:
    environment = surroundings.environment(
        device_memory_bytes=143771 * 2**20,
        driver="580.159.04",
        cuda="13.0",
        power_limit_watts=700.0,
        num_cpus=16,
        system="Linux 6.8",
        packages={"torch": "2.11.0"},
    )
    process = Process(
        outcome="ok",
        metrics={"samples_per_second": 3.09, "peak_reserved_bytes": (28160000000,), "loss_first": 11.9},
        rounds=(Round(10.1, 32, 27000),),
    )
    default = Measurement(
        case=Case(model="qwen-7b-chat"),
        workload=Workload(),
        environment=environment,
        processes=(process,),
        measured_at="2026-11-24T10:00:00Z",
    )
    return msgspec.structs.replace(default, **changes)


def a_file(*row_names: str) -> BaselineFile:
    measurement = a_measurement()
    assert measurement.environment is not None
    file = BaselineFile(table="quantization")
    for name in row_names or ("qwen-7b-chat",):
        tolerance = {"loss_first": Tolerance(0.05)}
        row = BaselineRow.of(measurement, because="first", tolerances=tolerance)
        file = file.with_row(name, row, measurement.environment)
    return file


def edited(edit: Edit) -> bytes:
    """A good file after somebody worked on it."""
    tree = json.loads(encode(a_file()))
    edit(tree)
    return json.dumps(tree).encode()


def the_row(tree: dict[str, Any]) -> Any:
    return tree["rows"]["qwen-7b-chat"]


def the_metrics(tree: dict[str, Any]) -> Any:
    return the_row(tree)["processes"][0]["metrics"]


@unhurried
@given(measurements, names, names, tolerances, noises)
def test_what_is_encoded_is_decoded_again(
    measurement: Measurement, name: str, because: str, tolerance: dict[str, Tolerance], noise: dict[str, Noise]
) -> None:
    assert measurement.environment is not None
    row = BaselineRow.of(measurement, because=because, tolerances=tolerance, noise=noise)
    file = BaselineFile(table="quantization").with_row(name, row, measurement.environment)

    assert decode(encode(file), PATH) == file


@unhurried
@given(measurements)
def test_a_row_gives_back_the_measurement_it_was_made_of(measurement: Measurement) -> None:
    assert measurement.environment is not None

    assert BaselineRow.of(measurement, because="first").measurement(measurement.environment) == measurement


@unhurried
@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_a_baseline_error(data: bytes) -> None:
    with pytest.raises(BaselineError):
        decode(data, PATH)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@unhurried
@given(st.data(), json_values)
def test_an_arbitrary_value_anywhere_raises_nothing_but_a_baseline_error(data: st.DataObject, value: object) -> None:
    tree = json.loads(encode(a_file()))
    holder, key = tree, data.draw(st.sampled_from(sorted(tree)))
    while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    holder[key] = value
    with suppress(BaselineError):
        decode(json.dumps(tree).encode(), PATH)


def test_a_file_cut_anywhere_is_refused() -> None:
    whole = encode(a_file()).rstrip()
    for end in range(len(whole)):
        with pytest.raises(BaselineError, match="is not whole JSON"):
            decode(whole[:end], PATH)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(
            lambda tree: the_metrics(tree).update(loss_first=float("nan")),
            "row 'qwen-7b-chat', field processes[0].metrics.loss_first: is nan",
            id="NaN",
        ),
        pytest.param(
            lambda tree: the_metrics(tree).update(loss_first=float("inf")),
            "row 'qwen-7b-chat', field processes[0].metrics.loss_first: is inf",
            id="infinity",
        ),
        pytest.param(
            lambda tree: the_metrics(tree).update(parameters=10**30),
            "field processes[0].metrics.parameters: is a number of more than 64 bits",
            id="huge-integer",
        ),
        pytest.param(
            lambda tree: the_metrics(tree).update(peak_reserved_bytes=[]),
            "field processes[0].metrics.peak_reserved_bytes: Expected `array` of length >= 1",
            id="metric-without-an-entry",
        ),
        pytest.param(
            lambda tree: the_metrics(tree).clear(),
            "row 'qwen-7b-chat', field processes[0].metrics: is empty, so nothing can be held against it; restore",
            id="no-metric",
        ),
        pytest.param(
            lambda tree: the_metrics(tree).update(loss_frist=1.0),
            "field processes[0].metrics.loss_frist: unknown metric 'loss_frist'; did you mean 'loss_first'?",
            id="unknown-metric",
        ),
        pytest.param(
            lambda tree: the_metrics(tree).update(loss_first="11.9"),
            "row 'qwen-7b-chat', field processes[0].metrics.loss_first: Expected `int | float | array`, got `str`",
            id="metric-of-wrong-type",
        ),
        pytest.param(
            lambda tree: the_row(tree)["tolerances"].update(loss_first={"relative": "5%"}),
            "row 'qwen-7b-chat', field tolerances.loss_first.relative: Expected `float`, got `str`",
            id="tolerance-not-a-number",
        ),
        pytest.param(
            lambda tree: the_row(tree)["tolerances"].update(loss_first=0.05),
            "row 'qwen-7b-chat', field tolerances.loss_first: Expected `object`, got `float`",
            id="tolerance-without-parts",
        ),
        pytest.param(
            lambda tree: the_row(tree)["tolerances"].update(speed={}),
            "row 'qwen-7b-chat', field tolerances.speed: unknown metric 'speed'",
            id="tolerance-of-unknown-metric",
        ),
        pytest.param(
            lambda tree: the_row(tree)["tolerances"].update(loss_first={"relative": -1}),
            "field tolerances.loss_first.relative: Expected `float` >= 0.0",
            id="negative-tolerance",
        ),
        pytest.param(
            lambda tree: the_row(tree)["noise"].update(samples_per_second={**NOISE, "process_sd": 0}),
            "row 'qwen-7b-chat', field noise.samples_per_second.process_sd: Expected `float` > 0.0",
            id="no-noise-at-all",
        ),
        pytest.param(
            lambda tree: the_row(tree)["noise"].update(samples_per_second={**NOISE, "sd": 1}),
            "row 'qwen-7b-chat', field noise.samples_per_second: Object contains unknown field `sd`",
            id="unknown-key-of-noise",
        ),
        pytest.param(
            lambda tree: the_row(tree)["noise"].update(speed=NOISE),
            "row 'qwen-7b-chat', field noise.speed: unknown metric 'speed'",
            id="noise-of-unknown-metric",
        ),
        pytest.param(
            lambda tree: the_row(tree)["noise"].update(loss_first=NOISE),
            "row 'qwen-7b-chat', field noise.loss_first: is not judged by its noise",
            id="noise-of-a-metric-with-a-limit",
        ),
        pytest.param(
            lambda tree: the_row(tree).update(comment="slow"),
            "row 'qwen-7b-chat': Object contains unknown field `comment`",
            id="unknown-key",
        ),
        pytest.param(
            lambda tree: the_row(tree)["case"].update(model="qwen-8b-chat"),
            "row 'qwen-7b-chat', field case: unknown model 'qwen-8b-chat'; did you mean",
            id="unknown-model",
        ),
        pytest.param(
            lambda tree: the_row(tree)["case"].update(max_length=512),
            "row 'qwen-7b-chat', field workload_hash: does not match the row's case and workload",
            id="edited-case",
        ),
        pytest.param(
            lambda tree: the_row(tree).update(outcome="oom"),
            "row 'qwen-7b-chat', field outcome: does not match the row's last process",
            id="edited-outcome",
        ),
        pytest.param(
            lambda tree: the_row(tree).update(outcome="crashed"),
            "row 'qwen-7b-chat', field outcome: Invalid enum value 'crashed'",
            id="outcome-that-is-no-baseline",
        ),
        pytest.param(
            lambda tree: the_row(tree).update(processes=[]),
            "row 'qwen-7b-chat', field processes: Expected `array` of length >= 1",
            id="no-process",
        ),
        pytest.param(
            lambda tree: the_row(tree).update(environment="0badcafe"),
            "row 'qwen-7b-chat', field environment: there is no environment '0badcafe'",
            id="unknown-environment",
        ),
        pytest.param(
            lambda tree: next(iter(tree["environments"].values())).update(driver="1.0"),
            "was edited: its key does not match",
            id="edited-environment",
        ),
        pytest.param(
            lambda tree: tree.update(note="?"),
            "Object contains unknown field `note`",
            id="unknown-key-of-file",
        ),
        pytest.param(
            lambda tree: tree.update(format=2),
            "field format: has format 2, this pytest-llmbench reads up to 1; upgrade pytest-llmbench",
            id="newer-format",
        ),
        pytest.param(
            lambda tree: tree.update(format=0), "field format: has format 0, which never was", id="format-never-was"
        ),
        pytest.param(lambda tree: tree.pop("format"), "is not a baseline file: it says no format", id="no-format"),
        pytest.param(lambda tree: tree.update(rows=[]), "field rows: Expected `object`, got `array`", id="rows-a-list"),
    ],
)
def test_an_edited_file_is_refused_with_file_row_and_field(edit: Edit, message: str) -> None:
    with pytest.raises(BaselineError) as caught:
        decode(edited(edit), PATH)

    assert str(caught.value).startswith(str(PATH))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"loss_first": 11.9', '"loss_first": NaN', "processes[0].metrics.loss_first: is nan"),
        ('"loss_first": 11.9', '"loss_first": 1e999', "processes[0].metrics.loss_first: is inf"),
        ('"loss_first": 11.9', '"loss_first": 1, "loss_first": 2', "processes[0].metrics.loss_first: comes twice"),
        ('"NVIDIA H200"', '"\\ud800"', "has text that is not Unicode"),
        ('"loss_first": 11.9', '"loss_first": ' + "[" * 200 + "]" * 200, "is nested too deeply"),
        ('"loss_first": 11.9', '"loss_first": ' + "[" * 99999, "nested without end"),
        ('"loss_first": 11.9', '"loss_first": ' + "1" * 9999, "is not whole JSON"),
    ],
)
def test_json_that_a_lenient_parser_lets_pass_is_refused(old: str, new: str, message: str) -> None:
    text = encode(a_file()).decode()
    assert text.count(old) == 1

    with pytest.raises(BaselineError) as caught:
        decode(text.replace(old, new).encode(), PATH)

    assert message in str(caught.value)


def test_an_error_tells_its_parts_apart() -> None:
    with pytest.raises(BaselineError) as caught:
        decode(edited(lambda tree: the_metrics(tree).update(loss_first=None)), PATH)

    assert (caught.value.path, caught.value.row, caught.value.field) == (
        PATH,
        "qwen-7b-chat",
        "processes[0].metrics.loss_first",
    )


def test_a_row_of_another_workload_version_is_read_though_its_hash_cannot_be_checked() -> None:
    data = edited(lambda tree: the_row(tree).update(workload_version=WORKLOAD_VERSION + 1, workload_hash="?"))

    reference = decode(data, PATH).reference("qwen-7b-chat")

    assert reference is not None
    assert reference.workload_version == WORKLOAD_VERSION + 1


def test_a_row_that_was_recorded_before_there_was_a_noise_has_none() -> None:
    reference = decode(edited(lambda tree: the_row(tree).pop("noise")), PATH).reference("qwen-7b-chat")

    assert reference is not None
    assert reference.noise == {}


def test_the_judge_gets_the_noise_of_the_row() -> None:
    data = edited(lambda tree: the_row(tree)["noise"].update(samples_per_second=NOISE))

    reference = decode(data, PATH).reference("qwen-7b-chat")

    assert reference is not None
    assert reference.noise == {"samples_per_second": msgspec.convert(NOISE, Noise)}


def test_a_file_of_an_older_format_is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename_table(tree: dict[str, Any]) -> dict[str, Any]:
        return {**tree, "format": 1, "table": tree["table"].removeprefix("old-")}

    monkeypatch.setitem(file_module._MIGRATIONS, 0, rename_table)

    assert decode(edited(lambda tree: tree.update(format=0, table="old-quantization")), PATH) == a_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_not_encoded(value: float) -> None:
    measurement = a_measurement(processes=(Process(outcome="ok", metrics={"loss_first": value}),))
    assert measurement.environment is not None
    row = BaselineRow.of(measurement, because="first")

    with pytest.raises(BaselineError, match=r"row 'a row', field processes\[0\]\.metrics\.loss_first: is -?(nan|inf)"):
        encode(BaselineFile(table="quantization").with_row("a row", row, measurement.environment))


def test_the_order_of_recording_leaves_no_trace() -> None:
    assert encode(a_file("b", "a", "c")) == encode(a_file("c", "b", "a"))


def test_a_new_row_leaves_every_other_line_alone() -> None:
    before, after = encode(a_file("a", "c")).splitlines(), encode(a_file("a", "b", "c")).splitlines()
    row = encode(a_file("b")).splitlines()
    lines_of_row = [*row[row.index(b'    "b": {') : -3], b"    },"]

    start = after.index(b'    "b": {')
    assert after[start : start + len(lines_of_row)] == lines_of_row
    assert after[:start] + after[start + len(lines_of_row) :] == before


def test_the_text_is_indented_and_ends_in_a_newline() -> None:
    text = encode(a_file()).decode()

    assert text.startswith('{\n  "format": 1,\n  "table": "quantization",\n  "environments": {\n')
    assert '\n            "samples_per_second": 3.09,\n' in text
    assert text.endswith("}\n")


def test_rows_of_one_environment_share_it() -> None:
    assert len(a_file("a", "b").environments) == 1


def test_an_environment_that_no_row_needs_goes() -> None:
    newer = a_measurement().environment
    assert newer is not None
    newer = msgspec.structs.replace(newer, driver="590.1")
    row = BaselineRow.of(a_measurement(environment=newer), because="new driver")

    file = a_file("a").with_row("a", row, newer)

    assert list(file.environments.values()) == [newer]


def test_a_row_that_is_not_stored_has_no_reference() -> None:
    assert a_file("a").reference("b") is None


def test_a_crashed_measurement_is_no_row() -> None:
    with pytest.raises(ValueError, match="'crashed'"):
        BaselineRow.of(a_measurement(processes=(Process(outcome="crashed", reason="signal 11"),)), because="first")
