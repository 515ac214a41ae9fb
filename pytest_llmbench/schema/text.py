"""
Text that others wrote (files, exceptions, child processes, installers), made fit to be shown anywhere.

A terminal obeys control characters, a CI server obeys lines that begin as its commands do, and a reader
takes what is reordered or invisible for what it looks like.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

__all__ = ["hint_at", "innermost_calls", "no_commands", "printable", "printable_json"]

_INVISIBLE = frozenset(map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, 0xFFA0)))
"""Letters and marks without a shape; all other invisible characters are of the category "other"."""
_COMMAND = re.compile(r"^(\s*):(?=:)|(#)(?=#(?:\[|vso\[))", re.MULTILINE)
"""GitHub obeys `::error::` at the beginning of a line, and `##[error]` anywhere; Azure `##vso[...]`."""
_SUSPECT = (b"\x7f", rb"\u", rb"\b", rb"\f", rb"\r", b"##", b'"::', rb"\n::", rb"\t::", b" ::")
"""JSON in ASCII without any of these is as it should be: most of it is not looked at any closer."""
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)')
_FRAMES = 3
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def hint_at(name: str, known: Iterable[str], otherwise: str) -> str:
    """Ask whether what is most like *name* was meant, or what it is a part of; *otherwise* if there is neither."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1) or [one for one in names if name.lower() in one.lower()][:3]
    return f"did you mean {' or '.join(map(repr, close))}?" if close else otherwise


def innermost_calls(stack: str) -> list[str]:
    """Innermost calls of a stack that faulthandler wrote, as `models/decoder.py:7 in forward`."""
    frames = (_FRAME.match(line) for line in stack.splitlines())
    calls = (f"{Path(*Path(one['file']).parts[-2:])}:{one['line']} in {one['name']}" for one in frames if one)
    return [printable(call, lines=False) for call in itertools.islice(calls, _FRAMES)]


def printable(text: str, *, lines: bool = True) -> str:
    r"""
    *text* with an escape in place of each character that cannot be seen, as `\x1b` or `\u202e`.

    Also the first character of what a CI server would obey is escaped. What is printable is given back as it is.

    Args:
        lines: newlines and tabs stay; a name has none.
    """
    if not text.isprintable():
        text = "".join(one if _is_shown(one, lines) else _escape(one) for one in text)
    elif not _INVISIBLE.isdisjoint(text):
        text = "".join(_escape(one) if one in _INVISIBLE else one for one in text)
    return no_commands(text)


def no_commands(text: str) -> str:
    """*text* without what a CI server would obey: names that were folded may begin a line by what they did not begin by."""
    return _COMMAND.sub(lambda match: f"{match[1] or ''}\\x{ord(match[0][-1]):02x}", text)


def printable_json(document: bytes) -> bytes:
    """A JSON document in which every text is `printable`, keys included; what is not JSON stays as it is."""
    return _JSON_STRING.sub(_printable_string, document) if _is_suspect(document) else document


def _is_suspect(document: bytes) -> bool:
    return not document.isascii() or any(mark in document for mark in _SUSPECT)


def _printable_string(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if not _is_suspect(token):
        return token
    try:
        text: str = json.loads(token)
    except ValueError:  # among them what is not UTF-8
        return token
    shown = printable(text)
    return token if shown == text else json.dumps(shown, ensure_ascii=False).encode()


def _is_shown(character: str, lines: bool) -> bool:
    if character.isprintable():
        return character not in _INVISIBLE
    return (lines and character in "\n\t") or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
