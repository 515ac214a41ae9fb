"""The run of a CI service in which this process is, from the variables that the services set."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.environment import CiRun
from pytest_llmbench.schema.text import printable

__all__ = ["ci_run"]

_SERVICES = (
    ("GitHub", "GITHUB_ACTIONS", ("GITHUB_RUN_ID",), ()),
    ("GitLab", "GITLAB_CI", ("CI_JOB_ID", "CI_PIPELINE_ID"), ("CI_JOB_URL", "CI_PIPELINE_URL")),
    ("Buildkite", "BUILDKITE", ("BUILDKITE_BUILD_ID",), ("BUILDKITE_BUILD_URL",)),
    ("Jenkins", "JENKINS_URL", ("BUILD_TAG", "BUILD_ID"), ("BUILD_URL", "RUN_DISPLAY_URL")),
    ("CI", "CI", ("BUILD_ID", "BUILD_NUMBER", "CI_BUILD_ID"), ("BUILD_URL", "CI_BUILD_URL")),
)
"""Service, the variable that shows that it is this one, and those of the run's id and URL."""


def ci_run(environ: Mapping[str, str]) -> CiRun | None:
    """The run, credentials taken out of its URL; None outside CI."""
    for service, sign, ids, urls in _SERVICES:
        if environ.get(sign, "").lower() in ("", "false", "0"):
            continue
        url = _first(environ, urls) or (_of_github(environ) if service == "GitHub" else None)
        return CiRun(service=service, id=_first(environ, ids), url=None if url is None else redacted(url))
    return None


def _of_github(environ: Mapping[str, str]) -> str | None:
    parts = [environ.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    if not all(parts):
        return None
    server, repository, run = parts
    attempt = environ.get("GITHUB_RUN_ATTEMPT", "")
    return f"{server}/{repository}/actions/runs/{run}" + (f"/attempts/{attempt}" if attempt else "")


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    found = next((environ[name] for name in names if environ.get(name)), None)
    return None if found is None else printable(found, lines=False)
