"""Results of foreign test programs, read from what real ones print."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.exec.formats import PARSERS, UNFINISHED, Case, parse_go, parse_gtest, parse_junit, parse_libtest, parse_tap
from harness.results.outcomes import Outcome


def shown(cases: Sequence[Case]) -> list[tuple[str, str, str]]:
    return [(case.name, case.outcome.value, case.reason) for case in cases]


GO = """\
=== RUN   TestA
=== RUN   TestA/one
    a_test.go:9: it was 3
=== RUN   TestA/two
--- FAIL: TestA (0.10s)
    --- FAIL: TestA/one (0.05s)
    --- PASS: TestA/two (0.00s)
=== RUN   TestB
    a_test.go:20: no root
--- SKIP: TestB (0.00s)
=== RUN   TestC
panic: boom
"""

GO_CASES = [
    ("TestA", "failed", ""),
    ("TestA/one", "failed", "it was 3"),
    ("TestA/two", "passed", ""),
    ("TestB", "unsupported", "no root"),
    ("TestC", "failed", UNFINISHED),
]


def test_go_with_subtests_and_one_that_the_program_ended_in() -> None:
    found = parse_go(GO)
    assert shown(found.cases) == GO_CASES
    assert [case.seconds for case in found.cases] == [0.1, 0.05, 0, 0, 0]
    assert found.cases[-1].output == "panic: boom"


def test_go_as_json() -> None:
    import json

    lines = [json.dumps({"Action": "output", "Package": "p", "Output": f"{line}\n"}) for line in GO.splitlines()]
    lines.insert(1, json.dumps({"Action": "run", "Test": "TestA"}))
    assert shown(parse_go("\n".join(lines)).cases) == GO_CASES


def test_go_without_verbose_has_the_output_behind_the_test() -> None:
    found = parse_go("--- FAIL: TestA (0.00s)\n    a_test.go:9: it was 3\n    a_test.go:10: and 4\nFAIL\n")
    assert shown(found.cases) == [("TestA", "failed", "it was 3")]


RUST = """
running 4 tests
test tests::later ... ignored, not yet
test tests::bad ... FAILED
test tests::good ... ok
test tests::panics - should panic ... ok

failures:

---- tests::bad stdout ----
thread 'tests::bad' panicked at src/lib.rs:5:9:
assertion `left == right` failed
  left: 1
 right: 2


failures:
    tests::bad

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
"""


def test_libtest() -> None:
    found = parse_libtest(RUST)
    assert shown(found.cases) == [
        ("tests::later", "unsupported", "not yet"),
        ("tests::bad", "failed", "assertion `left == right` failed"),
        ("tests::good", "passed", ""),
        ("tests::panics", "passed", ""),
    ]
    assert found.problems == ()
    assert "left: 1" in found.cases[1].output


def test_libtest_that_died_in_a_test() -> None:
    found = parse_libtest("\nrunning 3 tests\ntest one ... ok\ntest two ... ")
    assert shown(found.cases) == [("one", "passed", ""), ("two", "failed", UNFINISHED)]
    assert found.problems == ("3 tests were planned, 2 have a result",)


GTEST = """\
[==========] Running 4 tests from 1 test suite.
[ RUN      ] A.One
[       OK ] A.One (3 ms)
[ RUN      ] A.Two
x.cc:5: Failure
Expected: 1
[  FAILED  ] A.Two (12 ms)
[ RUN      ] A.Three
x.cc:9: Skipped
no network
[  SKIPPED ] A.Three (0 ms)
[ RUN      ] A.Four/1
[  FAILED  ] A.Four/1, where GetParam() = 7 (0 ms)
[==========] 4 tests from 1 test suite ran. (15 ms total)
[  FAILED  ] 2 tests, listed below:
[  FAILED  ] A.Two
"""


def test_gtest() -> None:
    found = parse_gtest(GTEST)
    assert shown(found.cases) == [
        ("A.One", "passed", ""),
        ("A.Two", "failed", "x.cc:5: Failure"),
        ("A.Three", "unsupported", "x.cc:9: Skipped"),
        ("A.Four/1", "failed", ""),
    ]
    assert found.problems == ()
    assert found.cases[1].seconds == 0.012


def test_gtest_that_died_in_a_test() -> None:
    found = parse_gtest(GTEST[: GTEST.index("x.cc:5")])
    assert shown(found.cases)[-1] == ("A.Two", "failed", UNFINISHED)
    assert found.problems == ("4 tests were planned, 2 have a result",)


KSELFTEST = """\
TAP version 13
1..2
# timeout set to 45
# selftests: timers: posix
# TAP version 13
# 1..3
# ok 1 itimer
# not ok 2 mono # TODO later
# ok 3 raw # SKIP no clock
ok 1 selftests: timers: posix
# selftests: timers: bad
# oops
not ok 2 selftests: timers: bad # exit=1
"""


def test_kselftest_nests_behind_hashes() -> None:
    found = parse_tap(KSELFTEST)
    assert shown(found.cases) == [
        ("selftests: timers: posix/itimer", "passed", ""),
        ("selftests: timers: posix/mono", "xfailed", "later"),
        ("selftests: timers: posix/raw", "unsupported", "no clock"),
        ("selftests: timers: posix", "passed", ""),
        ("selftests: timers: bad", "failed", "exit=1"),
    ]
    assert found.problems == ()


KTAP = """\
KTAP version 1
1..1
  KTAP version 1
  # Subtest: suite
  1..2
    KTAP version 1
    1..1
    ok 1 deep
  ok 1 a
  # b went wrong
  not ok 2 b
not ok 1 suite
"""


def test_ktap_nests_by_two_blanks() -> None:
    found = parse_tap(KTAP)
    assert shown(found.cases) == [
        ("suite/a/deep", "passed", ""),
        ("suite/a", "passed", ""),
        ("suite/b", "failed", "b went wrong"),
        ("suite", "failed", ""),
    ]
    assert found.problems == ()


def test_tap_14_nests_by_four_blanks() -> None:
    found = parse_tap("1..1\n    1..1\n    ok 1 - below\nok 1 - above\n")
    assert [case.name for case in found.cases] == ["above/below", "above"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1..3\nok 1 a\nok 2 b\n", "3 tests were planned, 2 have a result"),
        ("1..1\n    1..2\n    ok 1 x\nok 1 a\n", "a: 2 tests were planned, 1 have a result"),
        ("1..2\nok 1 a\nBail out! no disk\n", "Bail out! no disk"),
        ("1..4\n    ok 1 x\n", "4 tests were planned, 0 have a result"),
    ],
)
def test_a_plan_that_is_not_met_is_a_problem(text: str, problem: str) -> None:
    assert problem in parse_tap(text).problems


def test_a_todo_that_passes_is_a_pass() -> None:
    assert shown(parse_tap("ok 1 a # TODO some day\n").cases) == [("a", "passed", "some day")]


JUNIT = """<?xml version="1.0"?>
<testsuites><testsuite name="s">
<testcase classname="a.B" name="one" time="1.5"/>
<testcase classname="a.B" name="two" time="x"><failure message="1 != 2&#10;more">trace</failure></testcase>
<testcase name="three"><skipped message="no root"/></testcase>
<testcase name="four"><system-out>hi</system-out><error message="died"/></testcase>
</testsuite></testsuites>
"""


def test_junit() -> None:
    found = parse_junit(JUNIT)
    assert shown(found.cases) == [
        ("a.B.one", "passed", ""),
        ("a.B.two", "failed", "1 != 2"),
        ("three", "unsupported", "no root"),
        ("four", "failed", "died"),
    ]
    assert found.cases[0].seconds == 1.5
    assert found.cases[1].output == "trace"


def test_what_is_not_xml_is_one_error() -> None:
    with pytest.raises(UsageError, match="the results are not JUnit XML"):
        parse_junit("ok 1")


LINES = sorted({line for text in (GO, RUST, GTEST, KSELFTEST, KTAP, JUNIT) for line in text.splitlines()})


@given(name=st.sampled_from(sorted(PARSERS)), lines=st.lists(st.sampled_from(LINES) | st.text(max_size=40)))
@example(name="go", lines=['{"Action": "output", "Output": null}'])
@example(name="go", lines=["{"])
def test_any_text_gives_cases_or_the_declared_error(name: str, lines: list[str]) -> None:
    try:
        found = PARSERS[name]("\n".join(lines))
    except UsageError:
        assert name == "junit"
        return
    assert all(isinstance(case.outcome, Outcome) and case.name for case in found.cases)


VERIFIER = """\
#0/u BPF_ATOMIC_AND without fetch OK
#0/p BPF_ATOMIC_AND without fetch OK
#1/p check deducing bounds FAIL
Unexpected success to load!
processed 9 insns
#2/u calls: one SKIP (unknown map type)
Summary: 2 PASSED, 1 SKIPPED, 1 FAILED
"""

PROGS = """\
#1/1 mov:OK
#1/2 packet:FAIL
#1 align:FAIL
#2/1     map_in_map/lookup:OK
#2       map_in_map:OK
#3       xdp:SKIP
Summary: 1/2 PASSED, 1 SKIPPED, 1 FAILED
"""


def test_what_test_verifier_prints() -> None:
    found = PARSERS["bpf"](VERIFIER)
    assert shown(found.cases) == [
        ("BPF_ATOMIC_AND without fetch (unprivileged)", "passed", ""),
        ("BPF_ATOMIC_AND without fetch (privileged)", "passed", ""),
        ("check deducing bounds (privileged)", "failed", "Unexpected success to load!"),
        ("calls: one (unprivileged)", "unsupported", "unknown map type"),
    ]
    assert found.problems == ()
    assert found.cases[2].output == "Unexpected success to load!\nprocessed 9 insns"


def test_test_verifier_tells_of_refused_types_in_the_middle_of_a_line() -> None:
    """As 6.1's does on 6.12."""
    found = PARSERS["bpf"](
        "#628/p bpf_timer_init is forbidden Failed to load BTF spec: 'Invalid argument'\nFAIL\n"
        "Unexpected verifier log!\nRES:\nFAIL\n#629/p other Failed to load BTF spec: 'Invalid argument'\nOK\n"
        "Summary: 1 PASSED, 0 SKIPPED, 1 FAILED\n"
    )
    assert shown(found.cases) == [
        ("bpf_timer_init is forbidden (privileged)", "failed", "Unexpected verifier log!"),
        ("other (privileged)", "passed", ""),
    ]
    assert found.problems == ()


def test_what_test_progs_prints_of_old_and_new() -> None:
    found = PARSERS["bpf"](PROGS)
    assert [(case.name, case.outcome.value) for case in found.cases] == [
        ("align/mov", "passed"),
        ("align/packet", "failed"),
        ("align", "failed"),
        ("map_in_map/lookup", "passed"),
        ("map_in_map", "passed"),
        ("xdp", "unsupported"),
    ]
    assert found.problems == ()


def test_what_test_progs_prints_before_a_result_is_its_and_what_it_prints_again_is_not_counted_again() -> None:
    """As 6.1's does on Debian's 6.1 (cloud), shortened."""
    log = """\
test_module_attach:PASS:set_attach_target 0 nsec
libbpf: prog 'handle_fmod_ret': BPF program load failed: Invalid argument
bpf_testmod_test_read() is not modifiable
test_module_attach:FAIL:skel_load failed to load skeleton
#121     module_attach:FAIL
"""
    found = PARSERS["bpf"](
        f"#25/1    btf_map_in_map/lookup_update:OK\n#25      btf_map_in_map:OK\n#122     after:FAIL\n{log}\n"
        f"All error logs:\n#122     after:FAIL\n{log}Summary: 1/1 PASSED, 0 SKIPPED, 2 FAILED\n"
    )
    assert shown(found.cases) == [
        ("btf_map_in_map/lookup_update", "passed", ""),
        ("btf_map_in_map", "passed", ""),
        ("after", "failed", ""),
        ("module_attach", "failed", "test_module_attach:FAIL:skel_load failed to load skeleton"),
    ]
    assert found.cases[3].output == log.rpartition("\n#")[0]
    assert found.problems == ()


def test_bpf_tests_that_end_in_the_middle_or_report_less_than_they_count() -> None:
    found = PARSERS["bpf"]("#0/u first OK\n#1/u second ")
    assert shown(found.cases)[1] == ("second (unprivileged)", "failed", UNFINISHED)
    assert found.problems == ("the program ended before its summary",)
    found = PARSERS["bpf"]("#0/u first OK\nSummary: 2 PASSED, 0 SKIPPED, 0 FAILED\n")
    assert found.problems == ("2 tests were planned, 1 have a result",)
    assert PARSERS["bpf"]("test_maps: OK, 0 SKIPPED\n").cases == ()


def test_a_tap_point_behind_a_line_that_a_test_did_not_end() -> None:
    # posix_timers of v6.12, whose messages have no end of line.
    text = "1..3\nok 1 a\nDiff too high: 3327286..not ok 2 b\n# this is ok 3 of many\nok 3 # SKIP old kernel\n"
    found = parse_tap(text)
    assert shown(found.cases) == [
        ("a", "passed", ""),
        ("b", "failed", "Diff too high: 3327286.."),
        ("3", "unsupported", "old kernel"),
    ]
    assert found.problems == ()


def test_five_hundred_subtests_of_go_are_five_hundred_cases_with_their_seconds() -> None:
    lines = ["=== RUN   TestMany"]
    for number in range(500):
        lines += [f"=== RUN   TestMany/{number}", f"    --- PASS: TestMany/{number} ({number / 100:.2f}s)"]
    found = parse_go("\n".join([*lines, "--- PASS: TestMany (9.00s)", "PASS", ""]))
    assert [(case.name, case.seconds) for case in found.cases] == [
        *((f"TestMany/{number}", number / 100) for number in range(500)),
        ("TestMany", 9.0),
    ]
