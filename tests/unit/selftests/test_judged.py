"""What the end of a selftest means."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest

from harness.exec.formats import Case, SuiteResult
from harness.exec.run import Done
from harness.kernel.types import Choice, Kernel
from harness.kernel.version import KernelVersion
from harness.machines.pool import Pool, Settings
from harness.results.outcomes import Outcome
from harness.selftests.build import Selftest
from harness.selftests.denied import Denied
from harness.selftests.run import Runner, SelftestPlan, doubts, judged, status_of
from harness.vm.spec import Needs


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(0, Outcome.PASSED), (1, Outcome.FAILED), (2, Outcome.FAILED), (3, Outcome.FAILED), (4, Outcome.UNSUPPORTED)],
)
def test_exit_statuses_are_those_of_kselftest(status: int, outcome: Outcome) -> None:
    before = Outcome.FAILED if status else Outcome.PASSED
    assert judged(Done(status, (), before), "no root\n").outcome is outcome


def test_a_skip_has_its_last_line_and_a_failure_its_last_lines() -> None:
    assert judged(Done(4, (), Outcome.FAILED), "a\nno root\n\n").said == ("no root",)
    assert judged(Done(1, (), Outcome.FAILED), "a\nb\n").said == ("exit status 1", "a", "b")
    assert judged(Done(1, ("leaked",), Outcome.LEAKED), "b\n").said == ("leaked", "b")


def test_a_failure_with_subtests_names_those_that_failed() -> None:
    cases = (Case("a", Outcome.PASSED), *(Case(f"b{number}", Outcome.FAILED, 0.0, "why") for number in range(17)))
    said = judged(Done(1, (), Outcome.FAILED, SuiteResult(cases)), "the last line\n").said
    assert said[:3] == ("exit status 1", "b0: why", "b1: why")
    assert said[-2:] == ("b14: why", "and 2 more")


def test_a_failure_names_what_else_it_may_be_of(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("CONFIG_BPF=y\nCONFIG_DUMMY=m\n# CONFIG_FPROBE is not set\n")
    files = {"bzimage": None, "vmlinux": None, "pvh": False, "config": config, "modules": None}
    kernel = Kernel("6.1", CHOICE.version, "", **files, digest="", flavour="", origin="")  # type: ignore[arg-type]
    test = Selftest("bpf:a", Path("a"), options=("BPF", "FPROBE", "DUMMY", "IKCONFIG"), modules_for="6.1.0-1")
    other = "the tests' modules were built for 6.1.0-1; 6.12.0-1 does not load them"
    lacks = "the kernel was built without what the tests' file `config` asks for: CONFIG_FPROBE, CONFIG_IKCONFIG"
    modules = "of what the file `config` asks for, the kernel has as modules, for --module NAME: CONFIG_DUMMY"
    assert doubts(test, kernel, "6.12.0-1") == [other, lacks, modules]
    assert doubts(test, kernel, "6.1.0-1") == [lacks, modules]
    assert doubts(test, dataclasses.replace(kernel, config=None), "6.1.0-1") == []
    assert judged(Done(1, (), Outcome.FAILED), "b\n", [other]).said == ("exit status 1", "b", other)
    assert judged(Done(1, ("WARN",), Outcome.FAULTED), "b\n", [other]).said == ("WARN", "b")
    assert judged(Done(0), "b\n", [other]).said == ()


def test_a_fault_or_a_time_out_is_no_skip() -> None:
    assert judged(Done(4, ("WARN",), Outcome.FAULTED), "").outcome is Outcome.FAULTED
    assert judged(Done(4, ("2 tests were planned, 1 has a result",), Outcome.FAILED), "").outcome is Outcome.FAILED


def test_a_test_that_skips_all_its_parts_is_skipped() -> None:
    skip, good = Case("a", Outcome.UNSUPPORTED, reason="none"), Case("b", Outcome.PASSED)
    done = judged(Done(0, (), Outcome.PASSED, SuiteResult((skip, skip))), "")
    assert (done.outcome, done.said) == (Outcome.UNSUPPORTED, ("none",))
    assert judged(Done(0, (), Outcome.PASSED, SuiteResult((skip, good))), "").outcome is Outcome.PASSED


def test_the_status_of_all_tells_what_could_not_run_from_what_failed() -> None:
    passed, failed, lost = Done(0), Done(1, (), Outcome.FAILED), Done(3, (), Outcome.INFRASTRUCTURE)
    assert [status_of(dones) for dones in ([], [passed], [passed, failed], [failed, lost])] == [0, 0, 1, 3]


CHOICE = Choice("6.1", KernelVersion.parse("6.1.9"), "debian", "key")
ENTRY = Denied("timers:b", ">=4.12", "there is no clock", dt.date(2999, 1, 1), "f.toml, entry 1")


def runner(said: list[str]) -> Runner:
    tests = (Selftest("timers:a", None, "cannot find -lx"), Selftest("timers:b", Path("b")))
    return Runner(
        SelftestPlan({CHOICE.architecture: tests}, (ENTRY,), Needs()),
        CHOICE,
        Pool(Settings(), said.append),
        said.append,
        None,
    )


def test_what_was_not_built_has_no_verdict_and_what_is_denied_is_skipped_with_its_reason() -> None:
    said: list[str] = []
    one = runner(said)
    for test in one.plan.tests[CHOICE.architecture]:
        one.run(test)
    assert [done.outcome for done in one.dones] == [Outcome.INFRASTRUCTURE, Outcome.UNSUPPORTED]
    assert "not built\n    cannot find -lx" in said[0]
    assert "denied until 2999-01-01: there is no clock" in said[1]


def test_an_interrupt_ends_the_run_and_not_only_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Done(130, (), Outcome.FAILED, interrupted=True)
    monkeypatch.setattr(Runner, "_run", lambda *_: done)
    with pytest.raises(KeyboardInterrupt):
        runner([]).run(Selftest("timers:a", Path("a")))
