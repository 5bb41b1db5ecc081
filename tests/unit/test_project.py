"""What is written down in several files of the project says the same in each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import harness

ROOT = Path(__file__).parent.parent.parent
FIRST = ("lint", "format", "types")


def quick_steps(script: str) -> list[list[str]]:
    """Return the commands of the script's first steps: lint, format and types."""
    found = dict(re.findall(r'^step "([^"]+)" "?\$bin/(.*)$', script, re.MULTILINE))
    return [shlex.split(".venv/bin/" + found[name].replace('"', "")) for name in FIRST]


def missing(steps: Iterable[list[str]], commands: Iterable[str]) -> list[str]:
    there = [shlex.split(command) for command in commands]
    return [shlex.join(step) for step in steps if step not in there]


def hooks(text: str) -> list[str]:
    return [hook["entry"] for repo in YAML(typ="safe").load(text)["repos"] for hook in repo["hooks"]]


def gitlab(text: str) -> list[str]:
    script: list[str] = YAML(typ="safe").load(text)["check"]["script"]
    return script


@pytest.mark.parametrize(("file", "commands"), [(".pre-commit-config.yaml", hooks), (".gitlab-ci.yml", gitlab)])
def test_the_quick_checks_are_those_of_the_script(file: str, commands: object) -> None:
    assert callable(commands)
    steps = quick_steps((ROOT / "scripts/test").read_text())
    text = (ROOT / file).read_text()
    assert missing(steps, commands(text)) == []
    assert missing(steps, commands(text.replace("/mypy", "/pyright"))) == [".venv/bin/mypy"]


def test_the_installed_version_is_that_of_the_package() -> None:
    assert metadata.version("kernel-harness") == harness.__version__
    assert "\nversion = " not in (ROOT / "pyproject.toml").read_text()
