"""`pytest --record`: what becomes of a run is in its record, however the run ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import jsonschema
import pytest

import harness.results
from harness.results.file import read
from harness.results.outcomes import Outcome
from tests.plugin.inner import KERNEL, Inner, properties_of
from tests.plugin.test_runs import WAITS
from tests.processes import wait_until

TESTS = """
import os

import pytest


def release():
    return os.uname().release


@pytest.mark.parametrize("number", [1, 2])
def test_passes(guest, request, number):
    request.node.user_properties += [
        ("contract", "hom.x"),
        ("observation", {"contract": "hom.x", "sentence": "x", "takes": "count", "observed": number, "expected": None,
                         "source": "", "verdict": "observed"}),
    ]
    print("not in the record: it passed")
    assert guest.call(release) == guest.release


def test_fails(guest):
    print("seen & kept \\udc80")
    assert guest.call(release) == "<another>"


def test_skips(guest):
    pytest.skip("no such thing")


@pytest.mark.xfail(reason="known")
def test_is_expected_to_fail(guest):
    assert False


def panic():
    from pathlib import Path

    Path("/proc/sysrq-trigger").write_text("c")


def test_panics(guest):
    guest.call(panic)


@pytest.mark.kernel("<4.13")
def test_is_for_others(guest):
    pass


def test_without_a_kernel():
    pass
"""

OUTCOMES = {
    "test_passes[1]": "passed",
    "test_passes[2]": "passed",
    "test_fails": "failed",
    "test_skips": "unsupported",
    "test_is_expected_to_fail": "xfailed",
    "test_panics": "crashed",
}


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_a_record_has_the_result_of_each_test(inner: Inner, workers: tuple[str, ...]) -> None:
    inner.write(test_all=TESTS)
    options = (f"--kernel={KERNEL}", "--accel=tcg", "--record=new/r.json", "--junit-xml=j.xml", *workers)
    result = inner.run(*options, env={"HARNESS_SHARD": "2/5"})
    assert result.status == pytest.ExitCode.TESTS_FAILED, result.out
    record = read(inner.folder / "new" / "r.json")
    assert record.complete
    (run,) = record.runs
    assert (run.exit_status, run.shard, run.workers, run.accelerator) == (1, "2/5", 2 * len(workers), "tcg")
    assert run.arguments[-len(options) :] == options
    assert run.problems == ()
    assert {"qemu", "virtme-ng", "pytest", "kernel-harness"} <= set(run.tools)
    (kernel,) = record.kernels
    assert (kernel.label, kernel.provider, len(kernel.digest), len(kernel.config_digest)) == (KERNEL, "debian", 64, 64)
    assert kernel.version.startswith("6.1.")
    assert kernel.release.startswith("6.1.0-")
    found = {one.test.partition("::")[2]: one for one in record.results}
    assert {name: one.outcome.value for name, one in found.items()} == OUTCOMES
    assert [one.observed for one in found["test_passes[2]"].observations] == [2]
    assert found["test_passes[1]"].contract == "hom.x"
    assert all(one.boot is not None and one.boot > 0 for one in found.values())
    assert (found["test_fails"].nodeid, found["test_fails"].output.count("seen & kept")) == (
        f"test_all.py::test_fails[{KERNEL}]",
        1,
    )
    assert "<another>" in found["test_fails"].failure
    assert "<another>" in found["test_fails"].reason
    assert found["test_passes[1]"].output == ""
    assert found["test_skips"].reason == "no such thing"
    assert found["test_is_expected_to_fail"].reason == "known"
    assert found["test_panics"].trouble == ("crashed",)
    assert [(one.test, one.condition) for one in record.left_out] == [("test_all.py::test_is_for_others", "<4.13")]
    junit = properties_of(inner.folder / "j.xml")[f"test_passes[{KERNEL}-1]"]
    assert (junit["kernel"], junit["contract"]) == (KERNEL, "hom.x")


def test_what_was_not_run_is_named(inner: Inner) -> None:
    inner.write(test_all=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "--record=r.json", "-x", "-k", "fails or skips")
    assert result.status == pytest.ExitCode.TESTS_FAILED, result.out
    record = read(inner.folder / "r.json")
    assert not record.complete
    assert [one.test for one in record.results] == ["test_all.py::test_fails"]
    assert [one.test for one in record.not_run] == ["test_all.py::test_skips"]
    assert record.left_out == ()  # -k was not about it


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_cut_short_leaves_what_it_has(inner: Inner, number: signal.Signals) -> None:
    inner.write(test_a=TESTS, test_waits=WAITS)
    (inner.folder / "r.json").write_text("an earlier one")
    process = inner.start(
        f"--kernel={KERNEL}", "--accel=tcg", "--record=r.json", "test_a.py", "test_waits.py", "-k", "skips or waits"
    )
    wait_until((inner.folder / "started").exists)
    process.send_signal(number)
    process.communicate()
    record = read(inner.folder / "r.json")
    assert not record.complete
    assert [one.test for one in record.results if one.outcome is Outcome.UNSUPPORTED] == ["test_a.py::test_skips"]
    assert "test_waits.py::test_waits" in [one.test for one in record.not_run]
    assert record.runs[0].exit_status == (None if number == signal.SIGKILL else pytest.ExitCode.INTERRUPTED)
    assert [path.name for path in inner.folder.iterdir() if "r.json" in path.name] == ["r.json"]
    wait_until(lambda: inner.qemus() == [])


def test_a_run_without_a_kernel_leaves_a_record_that_says_so(inner: Inner) -> None:
    inner.write(test_all=TESTS)
    (inner.folder / "r.json").write_text("an earlier one")
    result = inner.run("--kernel=1.1", "--record=r.json")
    assert result.status != 0
    record = read(inner.folder / "r.json")
    assert not record.complete
    assert record.results == ()


def test_a_module_that_cannot_be_collected_makes_the_record_incomplete(inner: Inner) -> None:
    inner.write(test_all=TESTS, test_broken="import nothing_of_that_name")
    result = inner.run(
        f"--kernel={KERNEL}", "--accel=tcg", "--record=r.json", "--continue-on-collection-errors", "-k", "skips"
    )
    assert result.status == pytest.ExitCode.TESTS_FAILED, result.out
    record = read(inner.folder / "r.json")
    assert not record.complete
    assert record.runs[0].problems == ("test_broken.py: it could not be collected",)


def test_a_record_that_cannot_be_written_ends_the_run_at_once(inner: Inner) -> None:
    inner.write(test_all=TESTS)
    result = inner.run(f"--kernel={KERNEL}", f"--record={inner.folder}")
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert f"the run record {inner.folder} cannot be written: it is a folder" in result.out
    assert "Traceback" not in result.out


def test_a_full_disk_fails_the_run(inner: Inner) -> None:
    inner.write(
        conftest="""
import os

def pytest_runtest_logfinish():
    from harness.results import file

    def full(path, content):
        raise file._unwritable(path, "run record", os.strerror(28))

    file.replace_file = full
""",
        test_all="def test_passes(guest): pass",
    )
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "--record=r.json")
    assert result.status == 2, result.out
    assert "1 passed" in result.last
    assert result.out.count("r.json cannot be written: No space left on device") == 1
    assert not read(inner.folder / "r.json").complete


def test_collecting_writes_nothing(inner: Inner) -> None:
    inner.write(test_all=TESTS)
    result = inner.run("--collect-only", "-q", f"--kernel={KERNEL}", "--record=r.json")
    assert result.status == 0, result.out
    assert not (inner.folder / "r.json").exists()


def test_the_file_follows_the_published_schema(inner: Inner) -> None:
    inner.write(test_all=TESTS)
    inner.run(f"--kernel={KERNEL}", "--accel=tcg", "--record=r.json", "-k", "fails or passes or others")
    schema = (Path(harness.results.__file__).parent / "run-record-1.schema.json").read_text()
    jsonschema.validate(json.loads((inner.folder / "r.json").read_text()), json.loads(schema))
