"""Other plugins of pytest beside this one.

`scripts/test-plugins` installs each in a folder of its own, names the folders' parent in HARNESS_TEST_PLUGINS and runs
this file. Without that, the plugins are tested that are installed beside this one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from harness.results.file import read
from tests.plugin.inner import KERNEL, Inner, Result

FOLDER = os.environ.get("HARNESS_TEST_PLUGINS", "")

MODULES = {
    "pytest-rerunfailures": "pytest_rerunfailures",
    "pytest-timeout": "pytest_timeout",
    "pytest-randomly": "pytest_randomly",
    "pytest-cov": "pytest_cov",
    "pytest-html": "pytest_html",
    "pytest-sugar": "pytest_sugar",
    "allure-pytest": "allure_pytest",
    "pytest-bdd": "pytest_bdd",
    "pytest-repeat": "pytest_repeat",
    "pytest-parallel": "pytest_parallel",
    "pytest-asyncio": "pytest_asyncio",
    "pytest-subtests": "pytest_subtests",
    "hypothesis": "hypothesis",
}
"""The plugins, and the module that each is."""


def needs(plugin: str) -> pytest.MarkDecorator:
    """Return the marker of a test that runs where the plugin is."""
    there = bool(FOLDER) or importlib.util.find_spec(MODULES[plugin]) is not None
    return pytest.mark.parametrize("plugin", [plugin] if there else [])


def run(inner: Inner, plugin: str, *options: str) -> Result:
    """Run the tests in the folder with a plugin and the kernel."""
    path = {}
    if FOLDER:
        folder = Path(FOLDER, plugin).absolute()
        assert folder.is_dir(), f"scripts/test-plugins did not install {plugin}"
        path = {"PYTHONPATH": str(folder)}
    inner.warnings = "default"  # what other plugins are warned of is theirs
    return inner.run(f"--harness-kernel={KERNEL}", "--accel=tcg", *options, env=path)


MIXED = """
import os

import pytest


def release():
    print("said in the guest")
    return os.uname().release


@pytest.mark.parametrize("number", [1, 2])
def test_passes(guest, number):
    assert guest.call(release) == guest.release


def test_fails(guest):
    assert guest.call(release) == "another"


def test_leaks(bpf):
    bpf.map("array", name="left").pin("/sys/fs/bpf/left")


@pytest.mark.skip(reason="no")
def test_skips(guest):
    pass


def test_is_about_no_kernel():
    pass
"""


def counts(result: Result) -> dict[str, int]:
    """Return the counts of outcomes in the last line."""
    found = re.findall(r"(\d+) ([a-z]+)", result.last.partition(" in ")[0])
    return {word: int(number) for number, word in found if not word.startswith("warning")}


RERUN = """
import os
import signal

seen = []


def one():
    return 1


def test_infrastructure(guest, vm):
    seen.append("infrastructure")
    if seen.count("infrastructure") == 1:
        os.kill(vm.process.pid(), signal.SIGKILL)
    assert guest.call(one) == 2


def test_leak(bpf):
    seen.append("leak")
    left = bpf.map("array")
    if seen.count("leak") == 1:
        left.pin("/sys/fs/bpf/left")
"""


@needs("pytest-rerunfailures")
def test_what_is_known_of_a_test_is_of_one_attempt(inner: Inner, plugin: str) -> None:
    inner.write(test_rerun=RERUN)
    result = run(inner, plugin, "--reruns=1", "--record=r.json", "--verdicts", "-rA")
    assert counts(result) == {"failed": 1, "passed": 1, "rerun": 2}, result.out
    assert result.status == 1
    assert "INFRASTRUCTURE" not in result.out
    found = {one.test.partition("::")[2]: one for one in read(inner.folder / "r.json").results}
    failed, passed = found["test_infrastructure"], found["test_leak"]
    assert (failed.outcome.value, failed.attempts, failed.trouble) == ("failed", 2, ())
    assert (passed.outcome.value, passed.attempts, passed.trouble, passed.leaks) == ("passed", 2, (), ())
    assert re.search(r"^  leak +✓ passed$", result.out, re.MULTILINE)


SLOW = """
import time


def sleep():
    time.sleep(1000)


def test_slow(guest):
    guest.call(sleep, timeout=1000)


def test_after(guest):
    assert guest.release
"""


@needs("pytest-timeout")
def test_a_test_that_takes_too_long_ends_and_the_next_runs(inner: Inner, plugin: str) -> None:
    inner.write(test_slow=SLOW)
    result = run(inner, plugin, "--timeout=20")
    assert counts(result) == {"failed": 1, "passed": 1}, result.out
    assert "Timeout" in result.out


@needs("pytest-randomly")
def test_a_random_order(inner: Inner, plugin: str) -> None:
    inner.write(test_mixed="pytestmark = __import__('pytest').mark.vm(scope='module')\n" + MIXED)
    result = run(inner, plugin, "-p", "randomly", "-p", "no:hypothesispytest")
    assert "Using --randomly-seed" in result.out
    assert counts(result) == {"failed": 2, "passed": 3, "skipped": 1}, result.out


COVERED = """
import helpers


def in_the_guest(number):
    if number > 1:
        return helpers.double(number)
    return number


def never():
    return 1


def test_it(guest):
    assert guest.call(in_the_guest, 2) == 4
"""


@needs("pytest-cov")
@pytest.mark.parametrize("branch", [(), ("--cov-branch",)], ids=["lines", "branches"])
def test_lines_that_run_in_the_guest_are_covered(inner: Inner, plugin: str, branch: tuple[str, ...]) -> None:
    inner.write(
        test_covered=COVERED.replace("import helpers", "from helpers import double").replace("helpers.", ""),
        helpers="def unused():\n    return 0\n\n\ndef double(number):\n    return 2 * number\n",
    )
    result = run(inner, plugin, "--cov=.", "--cov-report=json:c.json", *branch)
    assert result.status == 0, result.out
    files = json.loads((inner.folder / "c.json").read_text())["files"]
    lines = (inner.folder / "test_covered.py").read_text().splitlines()
    missing = [lines[number - 1].strip() for number in files["test_covered.py"]["missing_lines"]]
    assert missing == ["return number", "return 1"]
    assert files["helpers.py"]["missing_lines"] == [2]
    if branch:
        assert len(files["test_covered.py"]["executed_branches"]) == 1
        assert len(files["test_covered.py"]["missing_branches"]) == 1


@needs("pytest-html")
def test_a_report_in_html(inner: Inner, plugin: str) -> None:
    inner.write(test_mixed=MIXED)
    result = run(inner, plugin, "--html=r.html", "--self-contained-html")
    assert counts(result)["failed"] == 2, result.out
    assert f"test_passes[{KERNEL}-1]" in (inner.folder / "r.html").read_text()
    assert "Guest stdout of release" in (inner.folder / "r.html").read_text()


@needs("pytest-sugar")
def test_another_terminal(inner: Inner, plugin: str) -> None:
    inner.write(test_mixed=MIXED)
    result = run(inner, plugin, "--force-sugar", "--verdicts")
    assert re.search(r"^  passes +✓ passed 2$", result.out, re.MULTILINE), result.out
    assert re.search(r"^  leaks +. LEAKED$", result.out, re.MULTILINE), result.out
    assert result.status == 1


@needs("allure-pytest")
def test_results_for_allure(inner: Inner, plugin: str) -> None:
    inner.write(test_mixed=MIXED)
    result = run(inner, plugin, "--alluredir=a")
    assert counts(result)["failed"] == 2, result.out
    found = [json.loads(path.read_text()) for path in (inner.folder / "a").glob("*-result.json")]
    statuses = sorted((one["name"].partition("[")[0], one["status"]) for one in found)
    assert ("test_fails", "failed") in statuses
    assert ("test_leaks", "failed") in statuses or ("test_leaks", "broken") in statuses
    assert statuses.count(("test_passes", "passed")) == 2


@needs("pytest-bdd")
def test_steps_of_a_feature(inner: Inner, plugin: str) -> None:
    (inner.folder / "maps.feature").write_text(
        "Feature: maps\n  Scenario: a map keeps a value\n    Given a map\n    When 7 is stored\n    Then it has 7\n"
    )
    inner.write(
        test_bdd="""
from pytest_bdd import given, scenarios, then, when

scenarios("maps.feature")


@given("a map", target_fixture="counters")
def counters(bpf):
    return bpf.map("array")


@when("7 is stored")
def store(counters):
    counters[0] = 7


@then("it has 7")
def check(counters):
    assert counters[0] == 7
"""
    )
    result = run(inner, plugin, "-v")
    assert counts(result) == {"passed": 1}, result.out


@needs("pytest-repeat")
def test_each_test_several_times(inner: Inner, plugin: str) -> None:
    inner.write(test_mixed=MIXED)
    result = run(inner, plugin, "--count=3", "-k", "passes", "--record=r.json")
    assert counts(result)["passed"] == 6, result.out
    assert len(read(inner.folder / "r.json").results) == 6


@needs("pytest-parallel")
def test_threads_and_forks_of_pytest_are_refused(inner: Inner, plugin: str) -> None:
    inner.write(test_mixed=MIXED)
    result = run(inner, plugin, "--workers=2")
    assert result.status == pytest.ExitCode.USAGE_ERROR, result.out
    assert "tests of kernels do not run under pytest-parallel" in result.out
    assert "use pytest-xdist: -n 2" in result.out


@needs("pytest-asyncio")
def test_tests_that_are_coroutines(inner: Inner, plugin: str) -> None:
    inner.write(
        test_async="""
import asyncio
import os


def double(number):
    return 2 * number


async def test_calls(guest, bpf):
    called = await asyncio.gather(*(asyncio.to_thread(guest.call, double, number) for number in range(4)))
    assert called == [0, 2, 4, 6]
    assert (await asyncio.to_thread(bpf.map, "array")).fd > 2
"""
    )
    result = run(inner, plugin, "-o", "asyncio_mode=auto")
    assert counts(result)["passed"] == 1, result.out


@needs("hypothesis")
def test_examples_that_make_maps(inner: Inner, plugin: str) -> None:
    inner.write(
        test_given="""
from hypothesis import HealthCheck, given, settings, strategies


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.integers(1, 64))
def test_sizes(bpf, size):
    assert bpf.map("hash", max_entries=size).info()["max_entries"] == size
    assert len(bpf.ids("map")) < 10
"""
    )
    result = run(inner, plugin)
    assert counts(result)["passed"] == 1, result.out
