"""
The comment on a pull request: judged rows of an artefact that its own code wrote, set as Markdown here.

No text of the artefact is taken for Markdown; what is known of the run from elsewhere stands first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pytest_llmbench.reports.changes import markdown_changes
from pytest_llmbench.reports.markdown import MAX_CHARACTERS, escaped, markdown_report
from pytest_llmbench.schema.units import counted
from pytest_llmbench.store.artefact import RESULTS, Artefact

__all__ = ["MARKER", "Known", "comment", "of_gate"]

MARKER = "<!-- pytest-llmbench: pull request -->"
"""First line, by which the one comment is found again."""
_HEADINGS = {
    "fake.jsonl": "Full size, on tensors without content",
    "smoke.jsonl": "Miniatures, on real tensors",
}
_MOST_NAMED = 20
_MOST = 300
_GATE = re.compile(
    r"\.github/.*|(?:.*/)?(?:conftest\.py|\.?pytest\.(?:ini|toml)|pyproject\.toml|tox\.ini|setup\.cfg|setup\.py"
    r"|constraints[^/]*\.txt|requirements[^/]*\.txt|[^/]+\.pth|sitecustomize\.py)|baselines/.*"
)
"""Files by which a change could move its own verdict."""


class Known(NamedTuple):
    """What is known of the run by other ways than its artefact."""

    conclusion: str
    """As GitHub has it: `success`, `failure`, `timed_out` and others."""
    commit: str
    run: str
    """Address of the run."""
    changed: tuple[str, ...] = ()
    """Names of the files that the pull request changes."""


def of_gate(names: Iterable[str]) -> list[str]:
    """Those files among *names* by which a change could move its own verdict: workflows, baselines, settings, hooks."""
    return [name for name in names if _GATE.fullmatch(name)]


def comment(known: Known, artefact: Artefact | None, *, max_characters: int = MAX_CHARACTERS) -> str:
    """The whole comment; parts that would make it longer than *max_characters* are left out, and it says so."""
    text = "\n\n".join([MARKER, *_known(known, artefact)])
    for part in _parts(artefact, max_characters - len(text) - 500) if artefact else ():
        text += (
            f"\n\n{part}" if len(text) + len(part) < max_characters - 200 else "\n\nA part is too long to show here."
        )
    return text + "\n"


def _known(known: Known, artefact: Artefact | None) -> Iterator[str]:
    passed = known.conclusion == "success"
    word = "passed" if passed else f"ended as `{known.conclusion}`"
    yield f"**llmbench** {word} for {known.commit[:10]}: [the run]({known.run})"
    failed = sum(one.decision == "fail" for found in artefact.results.values() for one in found) if artefact else 0
    if artefact is None or not artefact.results:
        yield "It left no results that could be read; the log of the run says why."
    elif passed and failed:
        yield f"Its results say that {counted(failed, 'row')} failed, and the run passed all the same: look at it."
    elif not passed and not failed:
        yield "No row of its results failed; the log of the run says what did. A strict run fails for rows not judged."
    if found := of_gate(known.changed):
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        names = ", ".join(escaped(name, _MOST) for name in found[:_MOST_NAMED])
        yield f"This change edits files by which it is judged; review them first: {names}{more}"
    if artefact is not None:
        yield "<sub>What follows was measured and written by code of this pull request.</sub>"


def _parts(artefact: Artefact, room: int) -> Iterator[str]:
    for name in RESULTS:
        if results := artefact.results.get(name):
            yield markdown_report(results, heading=_HEADINGS[name], max_characters=room // 3).rstrip()
    if artefact.changes is not None and (artefact.changes.rows or artefact.changes.unreadable):
        yield markdown_changes(artefact.changes, max_characters=room // 3).rstrip()
    if artefact.refused:
        yield _listed("Not read:", artefact.refused)


def _listed(heading: str, sentences: Sequence[str]) -> str:
    lines = [f"- {escaped(sentence, _MOST)}" for sentence in sentences[:_MOST_NAMED]]
    more = [f"- and {len(sentences) - _MOST_NAMED} more"] if len(sentences) > _MOST_NAMED else []
    return "\n".join([heading, "", *lines, *more])
