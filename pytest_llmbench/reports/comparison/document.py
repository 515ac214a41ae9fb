"""A comparison as JSON, for programs."""

from __future__ import annotations

import msgspec

from pytest_llmbench.trials.comparison import Comparison, summary

__all__ = ["FORMAT", "to_json"]

FORMAT = 1


def to_json(comparison: Comparison) -> str:
    """
    Sides, packages, summary and every verdict, indented.

    `status` of a row is as in `judge.verdict.Status`, or `unavailable`; changes and intervals are
    relative: 0.02 is 2 %.
    """
    document = {
        "format": FORMAT,
        "a": comparison.a,
        "b": comparison.b,
        "measured_on": comparison.measured_on,
        "package_changes": comparison.changes,
        "packages_unchanged": comparison.num_unchanged,
        "summary": summary(comparison.rows),
        "left_out": comparison.left_out,
        "rows": [
            {
                "table": row.table,
                "row": row.row,
                "status": row.told,
                "outcomes": {"a": row.a, "b": row.b},
                "pairs": row.pairs,
                "reason": row.verdict.reason,
                "explanation": row.verdict.explanation,
                "metrics": row.verdict.metrics,
            }
            for row in comparison.rows
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
