"""Rows that an earlier release named otherwise: what was stored or is typed under the old name is still found."""

from __future__ import annotations

import re

__all__ = ["former_row", "row_of_today"]

_MODELS = ("qwen-7b-chat", "qwen-14b-chat", "qwen-72b-chat")
_QUANTIZATIONS = {"int4-gptq": "gptq-int4", "int8-gptq": "gptq-int8", "int4-bnb": "bnb-nf4"}
_LOOPS = ("", "-step", "-trainer")
"""At the end of the name of a row whose loop the run's options changed."""

_TODAY = {
    f"{model}-{former}{loop}": f"{model}-{today}{loop}"
    for model in _MODELS
    for former, today in _QUANTIZATIONS.items()
    for loop in _LOOPS
}
"""Rows of the table `quantization`."""
_FORMER = {today: former for former, today in _TODAY.items()}
_GRID = re.compile(rf"(?<!-bnb)-nf4-(?=(512|1024|2048)({'|'.join(_LOOPS)})$)")


def row_of_today(table: str, row: str) -> str:
    """The name of a row in this release; the same one for a row that never had another."""
    if table == "quantization":
        return _TODAY.get(row, row)
    return _GRID.sub("-bnb-nf4-", row) if table == "standard_grid" else row


def former_row(table: str, row: str) -> str | None:
    """The name of a published row in earlier releases, by whose words it can be selected too; None without one."""
    return _FORMER.get(row) if table == "quantization" else None
