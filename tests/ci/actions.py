"""Runs the steps of a GitHub Actions workflow on this machine, so that what the file says is known to work.

The `run:` steps are read from the YAML and run as they stand there, in a checkout of their own. Of the actions that
steps use, those are imitated that move files (checkout, cache, upload-artifact, download-artifact); others are named
and left out. Containers are not made: the jobs run one after the other in one folder on this machine, cleaned in
between.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent

_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(==|!=|&&|\|\||[!(),])|([A-Za-z_][\w.*-]*)|(\d+))")


class NotUnderstood(Exception):
    """The workflow uses something that this runner does not imitate."""


class Expression:
    """Evaluates an expression of GitHub Actions, of those forms that the project's workflows use.

    Args:
        contexts: Values by name, nested: {"matrix": {"lock": ...}}.
        functions: What an expression may call.
    """

    def __init__(self, contexts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> None:
        self._contexts = contexts
        self._functions = functions
        self._tokens: list[tuple[str, str]] = []

    def evaluate(self, text: str) -> Any:
        """Return an expression's value; of a text with `${{ }}` around all of it, the value inside."""
        text = text.strip()
        if text.startswith("${{") and text.endswith("}}") and text.count("${{") == 1:
            text = text[3:-2]
        self._tokens = list(self._split(text))
        value = self._either()
        if self._tokens:
            raise NotUnderstood(f"{text!r}: {self._tokens[0][1]!r} is left over")
        return value

    def fill(self, text: str) -> str:
        """Replace each `${{ }}` in a text."""
        return re.sub(r"\$\{\{(.*?)\}\}", lambda match: as_text(self.evaluate(match[1])), text, flags=re.DOTALL)

    def _split(self, text: str) -> list[tuple[str, str]]:
        tokens = []
        place = 0
        text = text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise NotUnderstood(f"{text!r} at {text[place:]!r}")
            kind = ("text", "sign", "name", "number")[(match.lastindex or 1) - 1]
            tokens.append((kind, match[match.lastindex or 1]))
            place = match.end()
        return tokens

    def _takes(self, *signs: str) -> str:
        if self._tokens and self._tokens[0][0] == "sign" and self._tokens[0][1] in signs:
            return self._tokens.pop(0)[1]
        return ""

    def _either(self) -> Any:
        value = self._both()
        while self._takes("||"):
            other = self._both()
            value = value or other
        return value

    def _both(self) -> Any:
        value = self._compared()
        while self._takes("&&"):
            other = self._compared()
            value = value and other
        return value

    def _compared(self) -> Any:
        value = self._one()
        while sign := self._takes("==", "!="):
            other = self._one()
            value = (value == other) == (sign == "==")
        return value

    def _one(self) -> Any:
        if self._takes("!"):
            return not self._one()
        if self._takes("("):
            value = self._either()
            self._takes(")")
            return value
        if not self._tokens:
            raise NotUnderstood("an expression ends early")
        kind, word = self._tokens.pop(0)
        if kind == "text":
            return word[1:-1].replace("''", "'")
        if kind == "number":
            return int(word)
        if kind == "name" and self._takes("("):
            values = []
            while not self._takes(")"):
                values.append(self._either())
                self._takes(",")
            if word not in self._functions:
                raise NotUnderstood(f"the function {word}")
            return self._functions[word](*values)
        if word in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[word]
        return self._value_of(word)

    def _value_of(self, name: str) -> Any:
        value: Any = self._contexts
        if name.split(".")[0] not in self._contexts:
            raise NotUnderstood(f"the context {name}")
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def as_text(value: Any) -> str:
    """Return a value as it is put into a text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)


@dataclass
class Job:
    """One job, or one of its matrix.

    Attributes:
        name: Its key in the workflow.
        matrix: Its values of the matrix.
        steps: Outputs of its steps, by their id.
        failed: Whether a step failed.
    """

    name: str
    matrix: Mapping[str, Any] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: bool = False


class Runner:
    """Runs a workflow.

    Args:
        workflow: The file.
        work: Folder to run in; holds the checkout, artefacts and the summary afterwards.
        github: The context `github`; a push to main by default.
        inputs: The context `inputs`.
        environment: Variables that go before those of the workflow.
        source: The repository that is checked out.
    """

    def __init__(
        self,
        workflow: Path,
        work: Path,
        *,
        github: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        source: Path = ROOT,
    ) -> None:
        self._workflow = YAML(typ="safe").load(workflow.read_text())
        self._work = work
        self._checkout = work / "checkout"
        self._artifacts = work / "artifacts"
        self._caches = work / "caches"
        self._source = source
        self._environment = dict(environment or {})
        self._github = {"ref": "refs/heads/main", "event_name": "push", "run_id": "1", **(github or {})}
        self._inputs = dict(inputs or {})
        self._needs: dict[str, dict[str, Any]] = {}
        self.summary = work / "summary.md"
        self.ran: list[str] = []
        self.left_out: list[str] = []

    def run(self) -> bool:
        """Run all jobs, in the order of their needs; return whether all succeeded."""
        self._artifacts.mkdir(parents=True, exist_ok=True)
        self.summary.write_text("")
        waiting = dict(self._workflow["jobs"])
        while waiting:
            ready = [name for name, job in waiting.items() if not set(_list(job.get("needs"))) & set(waiting)]
            if not ready:
                raise NotUnderstood(f"jobs that need each other: {', '.join(waiting)}")
            self._run_job(ready[0], waiting.pop(ready[0]))
        return all(need["result"] in ("success", "skipped") for need in self._needs.values())

    def _run_job(self, name: str, job: Mapping[str, Any]) -> None:
        needs = [self._needs[one]["result"] for one in _list(job.get("needs"))]
        if not _goes(self._expression(Job(name, failed="failure" in needs), {}, needs), job):
            self._say(f"job {name}: skipped")
            self._needs[name] = {"result": "skipped", "outputs": {}}
            return
        matrix = job.get("strategy", {}).get("matrix", {"include": [{}]})
        if isinstance(matrix, str):
            matrix = self._expression(Job(name), {}, needs).evaluate(matrix)
        results = [self._run_one(Job(name, values), job) for values in _combinations(matrix)]
        outputs = {}
        for one in results:
            fill = self._expression(one, {}, needs).fill
            outputs = {key: fill(text) for key, text in job.get("outputs", {}).items()}
        self._needs[name] = {
            "result": "failure" if any(one.failed for one in results) else "success",
            "outputs": outputs,
        }

    def _run_one(self, job: Job, definition: Mapping[str, Any]) -> Job:
        self._say(f"job {job.name}" + (f" {as_text(job.matrix)}" if job.matrix else ""))
        self._clean()
        for number, step in enumerate(definition["steps"], 1):
            environment: dict[str, str] = {}
            for level in (self._workflow, definition, step):
                fill = self._expression(job, environment).fill
                environment |= {key: fill(str(value)) for key, value in level.get("env", {}).items()}
            environment |= self._environment
            expression = self._expression(job, environment)
            if not _goes(expression, step):
                continue
            values = {key: expression.fill(str(value)) for key, value in step.get("with", {}).items()}
            title = step.get("name") or step.get("uses") or f"step {number}"
            self._say(f"{job.name}: {title}")
            if "run" in step:
                ended = self._run_script(job, step, expression.fill(step["run"]), environment)
                self.ran.append(f"{job.name}: {title}")
            else:
                ended = self._imitate(step["uses"], values)
            if not ended:
                self._say(f"{job.name}: {title}: FAILED")
                job.failed = True
        return job

    def _run_script(self, job: Job, step: Mapping[str, Any], script: str, environment: Mapping[str, str]) -> bool:
        output = self._work / "output"
        output.write_text("")
        # As GitHub runs `shell: bash`.
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self._checkout,
            env={
                **{
                    name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "VIRTUAL_ENV"))
                },
                **environment,
                "CI": "true",
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self.summary),
            },
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if "id" in step:
            lines = [line.partition("=") for line in output.read_text().splitlines()]
            job.steps[step["id"]] = {"outputs": {name: value for name, _, value in lines}}
        return done.returncode == 0

    def _imitate(self, action: str, values: Mapping[str, str]) -> bool:
        name = action.partition("@")[0]
        if name == "actions/checkout":
            return True
        if name == "actions/upload-artifact":
            return self._upload(values)
        if name == "actions/download-artifact":
            return self._download(values)
        paths = [Path(path).expanduser() for path in values.get("path", "").split()]
        if name.startswith("actions/cache") and not all(path.is_absolute() for path in paths):
            return self._cache(name, values)
        # The machine's own cache folder is there as it is.
        self.left_out.append(action)
        return True

    def _upload(self, values: Mapping[str, str]) -> bool:
        found = [path for pattern in values["path"].split() for path in self._checkout.glob(pattern.rstrip("/"))]
        # As the action does it: what several paths have in common is left out, a folder alone is its content.
        place = self._artifacts / values["name"]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        several = len(values["path"].split()) > 1
        for path in found:
            if path.is_dir():
                shutil.copytree(path, place / path.name if several else place, dirs_exist_ok=True)
            else:
                shutil.copy2(path, place / path.name)
        return bool(found)

    def _download(self, values: Mapping[str, str]) -> bool:
        wanted = values.get("name") or values["pattern"]
        found = sorted(self._artifacts.glob(wanted))
        for path in found:
            shutil.copytree(path, self._checkout / values.get("path", "."), dirs_exist_ok=True)
        return bool(found) or "pattern" in values

    def _cache(self, name: str, values: Mapping[str, str]) -> bool:
        path = self._checkout / values["path"]
        if name.endswith("/save"):
            shutil.rmtree(self._caches / values["key"], ignore_errors=True)
            shutil.copytree(path, self._caches / values["key"])
            return True
        for prefix in (values["key"], *values.get("restore-keys", "").split()):
            known = sorted(self._caches.glob(f"{prefix}*"))
            if known:
                shutil.copytree(known[-1], path, dirs_exist_ok=True)
                break
        return True

    def _clean(self) -> None:
        """Bring the checkout to what is committed; its virtual environment stays, as on a machine of one's own."""
        if not (self._checkout / ".git").exists():
            subprocess.run(["git", "clone", "--quiet", str(self._source), str(self._checkout)], check=True)
        head = subprocess.run(
            ["git", "-C", str(self._source), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        git = ["git", "-C", str(self._checkout)]
        subprocess.run([*git, "fetch", "--quiet", str(self._source), head], check=True)
        subprocess.run([*git, "checkout", "--quiet", "--force", "--detach", head], check=True)
        subprocess.run([*git, "clean", "--quiet", "-fdx", "--exclude=.venv"], check=True)

    def _expression(self, job: Job, environment: Mapping[str, str], needs: Sequence[str] = ()) -> Expression:
        failed = job.failed
        return Expression(
            {
                "matrix": job.matrix,
                "needs": self._needs,
                "steps": job.steps,
                "env": environment,
                "github": self._github,
                "inputs": self._inputs,
                "vars": {},
            },
            {
                "fromJSON": json.loads,
                "success": lambda: not failed and all(result == "success" for result in needs),
                "failure": lambda: failed,
                "always": lambda: True,
                "cancelled": lambda: False,
                "hashFiles": lambda *_: "hash",
            },
        )

    def _say(self, line: str) -> None:
        print(f"== {line}", file=sys.stderr, flush=True)


def _goes(expression: Expression, part: Mapping[str, Any]) -> bool:
    """Whether a job or step runs: as its condition says, and only after success where that is not spoken of."""
    condition = str(part.get("if", "success()"))
    after_all = re.search(r"\b(success|failure|always|cancelled)\(", condition)
    return bool(expression.evaluate(condition)) and bool(after_all or expression.evaluate("success()"))


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _combinations(matrix: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    axes = {name: values for name, values in matrix.items() if name not in ("include", "exclude")}
    if not axes:
        return list(matrix["include"])
    if len(axes) != len(matrix):
        raise NotUnderstood("a matrix with axes and includes")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def main() -> int:
    """Run a workflow; the exit status says whether all of it succeeded."""
    parser = argparse.ArgumentParser(prog="scripts/ci-local", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workflow", type=Path, default=ROOT / ".github/workflows/kernels.yml")
    parser.add_argument("--work", type=Path, required=True, help="folder to run in; it is kept, with the artefacts")
    parser.add_argument("--event", default="push", help="the event that starts the workflow (default: push)")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="goes before what the workflow sets; repeats"
    )
    arguments = parser.parse_args()
    runner = Runner(
        arguments.workflow,
        arguments.work.absolute(),
        github={"event_name": arguments.event},
        environment=dict(one.split("=", 1) for one in arguments.env),
    )
    succeeded = runner.run()
    for action in dict.fromkeys(runner.left_out):
        print(f"left out: {action}", file=sys.stderr)
    print(f"{len(runner.ran)} steps ran; artefacts: {runner._artifacts}; summary: {runner.summary}")
    print("succeeded" if succeeded else "FAILED")
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
