"""Text of others, made fit to be shown."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmbench.schema.text import hint_at, innermost_calls, printable, printable_json

HIDDEN = (
    *map(chr, (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    *"\u200e\u200f\u061c\u2028\u2029\ufeff\u200b\u200c\u200d\u2060\u00ad\u3164\u115f\ud800\U000e0041",
)


@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
def test_a_character_that_cannot_be_seen_is_shown_escaped(hidden: str) -> None:
    number = ord(hidden)
    escape = f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"

    assert printable(f"a{hidden}b", lines=False) == f"a{escape}b"
    assert printable(f"a{hidden}b") == (f"a{hidden}b" if hidden in "\n\t" else f"a{escape}b")


@pytest.mark.parametrize(
    "text", ["größe", "汉字", "🚀 ❤️", "a\u00a0b", "at::native::add", "t.py::test_x[a]", "# a ## b", r"\x1b"]
)
def test_what_can_be_read_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    "command", ["::error::x", "::add-mask::x", "##[error]x", "##vso[task.complete]x", " \t::error::x"]
)
def test_a_ci_server_obeys_no_line_of_a_text(command: str) -> None:
    for text in (command, f"a\n{command}", f"a\r\n{command}"):
        assert not any(
            line.strip().startswith("::") or "##[" in line or "##vso[" in line for line in printable(text).splitlines()
        )


@given(st.text())
def test_a_printable_text_is_printable_already(text: str) -> None:
    assert printable(printable(text)) == printable(text)


json_texts = st.text(st.characters(codec=None) | st.sampled_from(sorted(set("".join(HIDDEN) + ':#"\\n'))), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | json_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_texts, inner, max_size=3),
    max_leaves=8,
)


def shown(value: object) -> object:
    if isinstance(value, dict):
        return {printable(key): shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    return printable(value) if isinstance(value, str) else value


@given(value=values, ascii_only=st.booleans())
def test_every_text_of_a_document_is_printable_and_all_else_as_it_was(value: object, ascii_only: bool) -> None:
    document = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")

    decoded = printable_json(document).decode(errors="surrogatepass")

    if ascii_only or not any(unicodedata.category(one) == "Cs" for one in document.decode(errors="surrogatepass")):
        assert json.loads(decoded) == shown(value)


@given(st.binary())
def test_bytes_that_are_no_document_raise_nothing(data: bytes) -> None:
    assert isinstance(printable_json(data), bytes)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("losss", "did you mean 'loss'?"), ("row-4", "did you mean 'a-long-table[row-4]'?"), ("speed", "known: two")],
)
def test_what_is_most_like_a_name_is_hinted_at_or_what_it_is_a_part_of(name: str, hint: str) -> None:
    assert hint_at(name, ["loss", "a-long-table[row-4]"], "known: two") == hint


def test_the_innermost_calls_of_a_stack_are_named_by_file_line_and_function() -> None:
    stack = 'Thread 0x1:\n  File "/a/b/c.py", line 3 in f\n' + '  File "/d.py", line 4 in g\n' * 5

    assert innermost_calls(stack) == ["b/c.py:3 in f", "/d.py:4 in g", "/d.py:4 in g"]
