"""The workflows: those that `llmbench init` writes are those of this repository, and none gives a stranger a say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_llmbench.cli.init import FILES, VALUES, scaffold
from pytest_llmbench.reports.comment import MARKER

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
HERE = {
    "@TESTS@": "tests/tables -m pull_request",
    "@INSTALL@": "-c constraints-fake.txt -e '.[train,bnb]'",
    "@PACKAGE@": '"git+$GITHUB_SERVER_URL/$GITHUB_REPOSITORY@$GITHUB_SHA"',
}
"""What stands in the templates of the workflows of this repository."""
SHARED = {path: template for path, template in FILES.items() if "llmbench-" in path and path.endswith(".yml")}


def workflow(text: str) -> dict[str, Any]:
    found: dict[Any, Any] = yaml.safe_load(text)
    return {"on" if key is True else str(key): value for key, value in found.items()}  # which YAML takes for a yes


def steps(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in found["jobs"].values():
        yield from job["steps"]


ALL = {
    **{path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yml"))},
    **{f"init: {path}": scaffold(template, VALUES) for path, template in FILES.items() if path.endswith(".yml")},
}


@pytest.fixture(params=list(ALL), ids=str)
def any_workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    return workflow(ALL[request.param])


@pytest.fixture
def gate() -> dict[str, Any]:
    return workflow(ALL["llmbench-pull-request.yml"])


@pytest.fixture
def comment() -> dict[str, Any]:
    return workflow(ALL["llmbench-comment.yml"])


@pytest.mark.parametrize("path", list(SHARED))
def test_a_workflow_of_this_repository_is_the_one_that_init_writes(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == scaffold(SHARED[path], HERE)


def test_both_workflows_are_shared() -> None:
    assert len(SHARED) == 2


def test_no_placeholder_is_left(any_workflow: dict[str, Any]) -> None:
    assert not re.search(r"@[A-Z]+@", json.dumps(any_workflow))


def test_no_expression_stands_in_a_script(any_workflow: dict[str, Any]) -> None:
    assert [step["run"] for step in steps(any_workflow) if "${{" in step.get("run", "")] == []


def test_no_workflow_runs_with_rights_on_a_strangers_commit(any_workflow: dict[str, Any]) -> None:
    triggers = any_workflow["on"]
    assert "pull_request_target" not in triggers
    if "workflow_run" in triggers:
        assert [step["uses"] for step in steps(any_workflow) if "uses" in step] == []


def test_every_workflow_says_what_it_may_do(any_workflow: dict[str, Any]) -> None:
    granted = [any_workflow["permissions"], *(job.get("permissions", {}) for job in any_workflow["jobs"].values())]
    may_write = {name for one in granted for name, right in one.items() if right == "write"}

    assert may_write <= ({"pull-requests"} if "workflow_run" in any_workflow["on"] else set())


def test_no_secret_is_named(any_workflow: dict[str, Any]) -> None:
    assert "secrets." not in json.dumps(any_workflow)


def test_the_gate_may_read_the_repository_and_no_more(gate: dict[str, Any]) -> None:
    assert gate["on"] == {"pull_request": None}
    assert gate["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in gate["jobs"].values())
    [checkout] = [step for step in steps(gate) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}


def test_the_commit_that_counts_is_found_before_code_of_the_change_runs(gate: dict[str, Any]) -> None:
    scripts = [step.get("run", "") for step in steps(gate)]
    found = next(number for number, script in enumerate(scripts) if "git merge-base" in script)
    assert not any(scripts[:found])
    assert all('--llmbench-baseline-ref="$BASE"' in one for one in scripts if ".venv/bin/pytest" in one)
    assert all("--llmbench-strict" in one for one in scripts if ".venv/bin/pytest" in one)


def test_the_gate_uploads_what_it_has_though_rows_failed(gate: dict[str, Any]) -> None:
    *_, last = steps(gate)
    assert last["uses"].startswith("actions/upload-artifact@")
    assert last["if"] == "${{ !cancelled() }}"


def test_the_comment_may_post_and_fetch_and_no_more(comment: dict[str, Any]) -> None:
    assert comment["on"] == {"workflow_run": {"workflows": ["llmbench pull request"], "types": ["completed"]}}
    assert comment["permissions"] == {}
    [job] = comment["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}


def test_the_comment_waits_for_the_gate_by_its_name(gate: dict[str, Any], comment: dict[str, Any]) -> None:
    assert comment["on"]["workflow_run"]["workflows"] == [gate["name"]]


def test_the_comment_fetches_the_artefact_that_the_gate_uploads(gate: dict[str, Any], comment: dict[str, Any]) -> None:
    *_, upload = steps(gate)
    assert any(f'"{upload["with"]["name"]}"' in step.get("run", "") for step in steps(comment))


def test_the_comment_is_found_by_the_marker_that_it_begins_with(comment: dict[str, Any]) -> None:
    *_, post = steps(comment)
    assert f'startswith("{MARKER}")' in post["run"]


GH = """#!/usr/bin/env python3
import json, os, pathlib, sys
asked = [word for word in sys.argv[1:]]
with pathlib.Path("asked.jsonl").open("a") as stream:
    body = sys.stdin.read() if "--input" in asked else None
    stream.write(json.dumps([asked, body]) + "\\n")
answers = json.loads(pathlib.Path("answers.json").read_text())
path = next(word for word in asked if word.startswith("repos/"))
if path.endswith("/zip"):
    sys.stdout.buffer.write(pathlib.Path("artefact.zip").read_bytes())
else:
    print(answers.get(path.partition("?")[0], ""))
"""


class Runner:
    """Runs the scripts of the comment's workflow as GitHub does, with a `gh` that answers what it is told."""

    def __init__(self, folder: Path, found: dict[str, Any]) -> None:
        self.folder = folder
        self.steps = {step["name"]: step["run"] for step in steps(found)}
        (folder / "gh").write_text(GH)
        (folder / "gh").chmod(0o755)
        self.output = folder / "output"
        self.environ = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_OUTPUT": str(self.output),
            "RUNNER_TEMP": str(folder),
            "RUN_ID": "7",
            "HEAD_SHA": "a" * 40,
            "HEAD_BRANCH": "$(touch hacked); `touch hacked` \"'",
            "HEAD_OWNER": "stranger",
            "HEAD_REPOSITORY": "stranger/r",
            "NUMBER": "5",
        }

    def run(self, name: str, answers: dict[str, Any]) -> list[tuple[list[str], str | None]]:
        """What `gh` was asked for."""
        texts = {path: answer if isinstance(answer, str) else json.dumps(answer) for path, answer in answers.items()}
        (self.folder / "answers.json").write_text(json.dumps(texts))
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.steps[name]]
        done = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not (self.folder / "hacked").exists()
        return [tuple(json.loads(line)) for line in (self.folder / "asked.jsonl").read_text().splitlines()]


@pytest.fixture
def runner(tmp_path: Path, comment: dict[str, Any]) -> Runner:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    return Runner(tmp_path, comment)


def pull(number: int, sha: str, repository: str) -> dict[str, Any]:
    return {"number": number, "head": {"sha": sha, "repo": {"full_name": repository}}}


def test_the_pull_request_is_the_one_of_the_commit_and_the_repository_that_were_measured(runner: Runner) -> None:
    gone = {"number": 1, "head": {"sha": "a" * 40, "repo": None}}
    others = [gone, pull(2, "b" * 40, "stranger/r"), pull(3, "a" * 40, "other/r"), pull(5, "a" * 40, "stranger/r")]

    [(asked, _)] = runner.run("Find the pull request", {"repos/o/r/pulls": others})

    assert runner.output.read_text() == "number=5\n"
    assert f"head=stranger:{runner.environ['HEAD_BRANCH']}" in asked


def test_no_pull_request_is_found_where_it_has_another_commit_by_now(runner: Runner) -> None:
    runner.run("Find the pull request", {"repos/o/r/pulls": [pull(5, "b" * 40, "stranger/r")]})

    assert runner.output.read_text() == "number=\n"


def artefact(number: int, size: int, name: str = "llmbench-pull-request") -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "size_in_bytes": size,
        "expired": False,
        "created_at": f"2026-01-01T00:00:{number:02}Z",
    }


def test_the_last_artefact_of_a_fitting_size_and_name_is_fetched(runner: Runner) -> None:
    with zipfile.ZipFile(runner.folder / "artefact.zip", "w"):
        pass
    listed = {"artifacts": [artefact(3, 9), artefact(1, 9), artefact(4, 2**30), artefact(5, 9, "other")]}

    asked = runner.run(
        "Fetch what the run left behind",
        {"repos/o/r/actions/runs/7/artifacts": listed, "repos/o/r/pulls/5/files": [{"filename": "a\nb"}]},
    )

    assert any("repos/o/r/actions/artifacts/3/zip" in words for words, _ in asked)
    assert not any("repos/o/r/actions/artifacts/4/zip" in words for words, _ in asked)


@pytest.mark.parametrize(
    ("there", "method", "path"),
    [
        ([], "POST", "repos/o/r/issues/5/comments"),
        ([("github-actions[bot]", MARKER, 8)], "PATCH", "repos/o/r/issues/comments/8"),
        ([("stranger", MARKER, 8)], "POST", "repos/o/r/issues/5/comments"),
        ([("github-actions[bot]", f"see {MARKER}", 8)], "POST", "repos/o/r/issues/5/comments"),
    ],
)
def test_the_one_comment_of_before_is_replaced(
    runner: Runner, there: list[tuple[str, str, int]], method: str, path: str
) -> None:
    (runner.folder / "comment.md").write_text(f'{MARKER}\n"$(touch hacked)"\n')
    comments = [{"id": number, "user": {"login": login}, "body": body} for login, body, number in there]
    pages = json.dumps(comments[:1]) + json.dumps(comments[1:])  # as `gh api --paginate` prints them

    asked = runner.run("Post it, or put it in place of the one before", {"repos/o/r/issues/5/comments": pages})

    words, body = asked[-1]
    assert (words[2], words[3]) == (method, path)
    assert json.loads(body or "") == {"body": f'{MARKER}\n"$(touch hacked)"\n'}
