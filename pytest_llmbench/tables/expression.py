"""
Which names a `-k` expression selects: words with `and`, `or`, `not` and brackets, as for pytest.

pytest's own matcher is private and has changed its signature between releases; this one reads the
same language, in which a word is a part of the name in any case of letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["ExpressionError", "matcher"]

_TOKEN = re.compile(r"\s*(?:(?P<bracket>[()])|(?P<word>[\w:+.\[\]\\/-]+))")
_KEYWORDS = ("and", "or", "not")

Match = Callable[[str], bool]


class ExpressionError(ValueError):
    """An expression that cannot be read; the message says where."""


def matcher(expression: str) -> Match:
    """
    A function that says whether a name is selected; an empty expression selects every name.

    Raises:
        ExpressionError: *expression* is not one.
    """
    tokens = _tokens(expression)
    if not tokens:
        return lambda name: True
    reader = _Reader(expression, tokens)
    match = reader.any_of()
    reader.expect_end()
    return lambda name: match(name.lower())


def _tokens(expression: str) -> list[str]:
    tokens, position = [], 0
    text = expression.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ExpressionError(f"-k {expression!r}: unexpected {text[position:].strip()[0]!r}")
        tokens.append(found["bracket"] or found["word"])
        position = found.end()
    return tokens


class _Reader:
    """Recursive descent: `or` binds least, `not` most."""

    def __init__(self, expression: str, tokens: list[str]) -> None:
        self._expression = expression
        self._tokens = tokens

    def any_of(self) -> Match:
        parts = [self._all_of()]
        while self._next_is("or"):
            parts.append(self._all_of())
        return lambda name: any(part(name) for part in parts)

    def expect_end(self) -> None:
        if self._tokens:
            raise ExpressionError(f"-k {self._expression!r}: unexpected {self._tokens[0]!r}; join words by and, or")

    def _all_of(self) -> Match:
        parts = [self._one()]
        while self._next_is("and"):
            parts.append(self._one())
        return lambda name: all(part(name) for part in parts)

    def _one(self) -> Match:
        if self._next_is("not"):
            part = self._one()
            return lambda name: not part(name)
        if self._next_is("("):
            part = self.any_of()
            if not self._next_is(")"):
                raise ExpressionError(f"-k {self._expression!r}: a bracket is not closed")
            return part
        if not self._tokens or self._tokens[0] in (*_KEYWORDS, ")"):
            after = f"before {self._tokens[0]!r}" if self._tokens else "at the end"
            raise ExpressionError(f"-k {self._expression!r}: a word is missing {after}")
        word = self._tokens.pop(0).lower()
        return lambda name: word in name

    def _next_is(self, token: str) -> bool:
        found = bool(self._tokens) and self._tokens[0] == token
        if found:
            self._tokens.pop(0)
        return found
