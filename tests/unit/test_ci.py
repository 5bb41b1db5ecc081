"""The workflow files: what their systems' schemas say of them, and that the runner of `scripts/ci-local` is right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.shards import as_gitlab, share
from tests.ci.actions import ROOT, Expression, NotUnderstood, Runner
from tests.needs import needs_program

GITHUB = ROOT / ".github/workflows/kernels.yml"
CHECKS = ROOT / ".github/workflows/checks.yml"
GITLAB = (ROOT / ".gitlab-ci.yml", ROOT / ".gitlab/shard.yml")


def check(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("check-jsonschema")
    words = [str(program), "--builtin-schema", schema, *map(str, files)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def choices(count: int) -> list[Choice]:
    return [Choice(f"6.{number}", KernelVersion(6, number), "debian", f"6.{number}=1") for number in range(count)]


def test_the_github_workflows_follow_their_schema() -> None:
    assert check("vendor.github-workflows", GITHUB, CHECKS).returncode == 0


def test_the_checks_are_on_every_python_and_on_the_lowest_and_newest_versions() -> None:
    jobs = YAML(typ="safe").load(CHECKS.read_text())["jobs"]
    declared = re.search(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text())
    assert declared is not None
    assert jobs["check"]["strategy"]["matrix"]["python"][0] == declared[1]
    assert jobs["versions"]["strategy"]["matrix"]["python"][0] == declared[1]
    script = (ROOT / "scripts/test-versions").read_text()
    assert (
        re.findall(r"^    (\w+)\) choose=", script, re.MULTILINE) == jobs["versions"]["strategy"]["matrix"]["versions"]
    )


def test_the_gitlab_pipelines_follow_their_schema(tmp_path: Path) -> None:
    made = tmp_path / "shards.yml"
    made.write_text(as_gitlab(share(choices(5), 2), "locks/"))
    assert check("vendor.gitlab-ci", *GITLAB, made).returncode == 0


def test_the_schemas_are_not_content_with_anything(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(GITHUB.read_text().replace("runs-on:", "run-on:"))
    done = check("vendor.github-workflows", broken)
    assert done.returncode == 1
    assert "run-on" in done.stdout
    broken.write_text(GITLAB[0].read_text().replace("    - scripts/setup\n", "    - {}\n"))
    assert check("vendor.gitlab-ci", broken).returncode == 1


def test_every_expression_of_the_workflow_is_understood() -> None:
    contexts: dict[str, Any] = {
        "matrix": {"shard": "1/2", "number": "1", "lock": "l", "kernels": "6.1"},
        "needs": {name: {"result": "success", "outputs": {"matrix": "{}"}} for name in ("prepare", "test", "report")},
        "steps": {},
        "vars": {},
        "inputs": {},
        "github": {"ref": "refs/heads/main", "event_name": "push"},
    }
    functions: dict[str, Callable[..., Any]] = {
        "fromJSON": json.loads,
        "cancelled": bool,
        "always": bool,
        "hashFiles": lambda *_: "h",
    }
    text = re.sub(r"#.*", "", GITHUB.read_text())
    assert "${{" not in Expression(contexts, functions).fill(text)


def test_the_jobs_need_each_other_and_the_records_reach_the_report() -> None:
    jobs = YAML(typ="safe").load(GITHUB.read_text())["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "prepare": None,
        "test": "prepare",
        "report": ["prepare", "test"],
        "comment": "report",
    }
    # A job that runs on after the failure of another says on its own when it does not.
    assert "cancelled()" in jobs["report"]["if"]
    steps = [step.get("name", "") for step in jobs["report"]["steps"]]
    assert steps[-1] == "Gate"


# the runner


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("matrix.lock", "l"),
        ("inputs.kernels || vars.KERNELS || 'lts newest'", "lts newest"),
        ("inputs.a && 'x' || 'it''s'", "it's"),
        ("github.ref == 'refs/heads/main' && github.event_name != 'pull_request'", True),
        ("!(github.ref == 'x') && !cancelled()", True),
        ("fromJSON('{\"a\": [1]}')", {"a": [1]}),
        ("needs.test.result", None),
        ("1 == 1", True),
    ],
)
def test_expressions(text: str, value: object) -> None:
    contexts = {
        "matrix": {"lock": "l"},
        "inputs": {},
        "vars": {},
        "needs": {},
        "github": {"ref": "refs/heads/main", "event_name": "push"},
    }
    expression = Expression(contexts, {"fromJSON": json.loads, "cancelled": lambda: False})
    assert expression.evaluate(text) == value
    assert expression.evaluate("${{ " + text + " }}") == value


@pytest.mark.parametrize("text", ["unknown.x", "matrix.x ? 1", "toJSON(matrix)", "matrix.x ==", "matrix.x 'y'"])
def test_what_is_not_understood_is_said(text: str) -> None:
    with pytest.raises(NotUnderstood):
        Expression({"matrix": {}}, {}).evaluate(text)


WORKFLOW = """
name: x
on: push
env:
  WHO: ${{ vars.WHO || 'world' }}
jobs:
  first:
    runs-on: ubuntu-latest
    outputs:
      matrix: ${{ steps.made.outputs.matrix }}
    steps:
      - uses: actions/checkout@v4
      - name: make
        id: made
        run: echo 'matrix={"include":[{"n":"1"},{"n":"2"}]}' >>"$GITHUB_OUTPUT"
  each:
    needs: first
    runs-on: ubuntu-latest
    strategy:
      matrix: ${{ fromJSON(needs.first.outputs.matrix) }}
    steps:
      - uses: actions/checkout@v4
      - run: test -e README && mkdir out && echo "$WHO" >out/${{ matrix.n }}
      - run: test ${{ matrix.n }} != "$FAIL"
      - if: ${{ matrix.n == '2' }}
        run: echo reached >>"$GITHUB_STEP_SUMMARY"
      - if: always()
        uses: actions/upload-artifact@v4
        with: {name: "out-${{ matrix.n }}", path: out/}
  last:
    needs: [first, each]
    if: ${{ !cancelled() && needs.first.result == 'success' }}
    runs-on: ubuntu-latest
    steps:
      - uses: actions/download-artifact@v4
        with: {pattern: out-*, merge-multiple: true}
      - uses: actions/cache/restore@v4
        with: {path: kept, key: kept-2, restore-keys: kept-}
      - run: cat 1 2 >>"$GITHUB_STEP_SUMMARY"; [ ! -e kept/1 ] || echo again >>"$GITHUB_STEP_SUMMARY"
      - run: mkdir -p kept && cp 1 kept/
      - uses: actions/cache/save@v4
        with: {path: kept, key: kept-1}
      - uses: someone/else@v1
  skipped:
    needs: each
    runs-on: ubuntu-latest
    if: ${{ github.event_name == 'pull_request' }}
    steps:
      - run: exit 1
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A repository with one commit."""
    needs_program("git")
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "README").touch()
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    (folder / "workflow.yml").write_text(WORKFLOW)
    return folder


def runner(source: Path, **environment: str) -> Runner:
    return Runner(source / "workflow.yml", source.parent / "work", environment=environment, source=source)


def test_a_workflow_is_run_from_its_yaml(source: Path) -> None:
    run = runner(source, FAIL="0")
    assert run.run()
    assert run.summary.read_text() == "reached\nworld\nworld\n"
    assert run.left_out == ["someone/else@v1"]
    assert len(run.ran) == 8
    again = runner(source, FAIL="0", WHO="all")
    assert again.run()
    assert again.summary.read_text() == "reached\nall\nall\nagain\n"


def test_a_step_that_fails_fails_the_run_and_what_is_always_to_run_runs(source: Path) -> None:
    run = runner(source, FAIL="2")
    assert not run.run()
    # Both were uploaded, so the last job had them.
    assert run.summary.read_text() == "world\nworld\n"
