"""Credentials in what is stored or printed of requirements and installers; only the installer gets them."""

from __future__ import annotations

import re

__all__ = ["redacted"]

_USER = re.compile(r"(?<=//)[^/?#\s]+@")
"""Name and password of a URL, or the token in their place; the password may hold an `@`."""
_QUERY = re.compile(r"(?P<path>/[^\s?#]*\?)[^\s#]+")
"""Whatever follows the question mark: a token goes by any name there."""


def redacted(text: str) -> str:
    """*text* with `***` in place of the user and of the query of each URL."""
    return _QUERY.sub(r"\g<path>***", _USER.sub("***@", text))
