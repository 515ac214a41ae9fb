"""The run of a CI service, from its variables."""

from __future__ import annotations

import pytest

from pytest_llmbench.host.ci import ci_run
from pytest_llmbench.schema.environment import CiRun

GITHUB = {
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "a/b",
    "GITHUB_RUN_ID": "7",
}


@pytest.mark.parametrize(
    ("environ", "run"),
    [
        (GITHUB, CiRun("GitHub", "7", "https://github.com/a/b/actions/runs/7")),
        (
            {**GITHUB, "GITHUB_RUN_ATTEMPT": "2"},
            CiRun("GitHub", "7", "https://github.com/a/b/actions/runs/7/attempts/2"),
        ),
        (
            {"CI": "true", "GITLAB_CI": "true", "CI_JOB_ID": "5", "CI_JOB_URL": "https://gitlab.com/a/b/-/jobs/5"},
            CiRun("GitLab", "5", "https://gitlab.com/a/b/-/jobs/5"),
        ),
        (
            {"JENKINS_URL": "http://j/", "BUILD_TAG": "jenkins-x-3", "BUILD_URL": "http://j/job/x/3/"},
            CiRun("Jenkins", "jenkins-x-3", "http://j/job/x/3/"),
        ),
        (
            {"CI": "true", "BUILDKITE": "true", "BUILDKITE_BUILD_ID": "u-1", "BUILDKITE_BUILD_URL": "https://b/1"},
            CiRun("Buildkite", "u-1", "https://b/1"),
        ),
        ({"CI": "1", "BUILD_ID": "9", "BUILD_URL": "https://ci/9"}, CiRun("CI", "9", "https://ci/9")),
        ({"CI": "true"}, CiRun("CI")),
        ({"CI": "false"}, None),
        ({"BUILD_URL": "https://ci/9"}, None),
        ({}, None),
    ],
)
def test_the_run_is_that_of_the_service(environ: dict[str, str], run: CiRun | None) -> None:
    assert ci_run(environ) == run


@pytest.mark.parametrize("url", ["https://user:s3cret@ci/9", "https://s3cret@ci/9", "https://ci/9?token=s3cret"])
def test_no_credentials_of_the_url_are_kept(url: str) -> None:
    assert "s3cret" not in str(ci_run({"CI": "true", "BUILD_URL": url}))
