"""The messages between the pytest side and a measuring process: one line each, decoded strictly."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process, Round, failed
from pytest_llmbench.schema.protocol import (
    PROTOCOL_VERSION,
    Answer,
    Ended,
    Message,
    Phase,
    Ready,
    Request,
    Started,
    decode_message,
    decode_request,
    encode,
)
from pytest_llmbench.schema.workload import Workload

CASE = Case.custom("steps:build", name="a row")
texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.floats(allow_nan=False, allow_infinity=False)
processes = st.builds(
    Process,
    outcome=st.sampled_from(["ok", "oom", "crashed", "timeout", "diverged", "unavailable", "invalid"]),
    reason=st.none() | texts,
    metrics=st.dictionaries(texts, numbers | st.integers(-(2**62), 2**62)),
    missing=st.dictionaries(texts, texts),
    rounds=st.lists(st.builds(Round, numbers, st.integers(0, 1000), st.integers(0, 1000)), max_size=3).map(tuple),
    ran=st.dictionaries(texts, texts),
    phase_seconds=st.dictionaries(texts, numbers),
)
measurements = st.builds(
    Measurement,
    case=st.just(CASE),
    workload=st.just(Workload()),
    environment=st.none(),
    processes=st.lists(processes, min_size=1, max_size=2).map(tuple),
    measured_at=texts,
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ready, st.none() | texts),
    st.builds(Started, st.integers(1, 2**22)),
    st.builds(Ended, st.integers(1, 2**22), st.integers(-64, 255)),
    st.builds(Phase, texts, st.none() | numbers),
    st.builds(Answer, measurements),
)


@given(messages)
def test_a_message_is_one_line_and_comes_back(message: Message) -> None:
    line = encode(message)

    assert line.index(b"\n") == len(line) - 1
    assert decode_message(line) == message


@pytest.mark.parametrize("devices", [None, "GPU-1,GPU-2"])
def test_a_request_comes_back(devices: str | None) -> None:
    request = Request(case=CASE, workload=Workload(scale="smoke", device="cpu"), visible_devices=devices)

    assert decode_request(encode(request)) == request
    assert request.protocol == PROTOCOL_VERSION


@pytest.mark.parametrize(
    "line", [b"", b"hello\n", b"{}", b'{"type":"answer"}', b'{"type":"phase","name":3}', b'{"type":"other"}']
)
def test_rubbish_is_no_message(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_message(line)


def test_a_request_with_an_unknown_field_is_refused() -> None:
    line = encode(Request(case=CASE, workload=Workload())).replace(b'"protocol"', b'"priority":1,"protocol"')

    with pytest.raises(msgspec.ValidationError, match="unknown field `priority`"):
        decode_request(line)


def test_a_measurement_has_the_outcome_of_its_last_process() -> None:
    measurement = failed(CASE, Workload(), "crashed", "first", measured_at="now")
    again = msgspec.structs.replace(measurement, processes=(*measurement.processes, Process(outcome="ok")))

    assert (measurement.outcome, measurement.reason) == ("crashed", "first")
    assert (again.outcome, again.reason) == ("ok", None)
    assert again.workload_hash == measurement.workload_hash
