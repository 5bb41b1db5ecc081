"""What test programs print when they list their tests; all of it is real output."""

from __future__ import annotations

from harness.programs.kinds import KINDS, WHOLE, Listed, go_list, gtest_list, libtest_list

GTEST = """\
Running main() from ./googletest/src/gtest_main.cc
Counts.
  Adds
  DISABLED_Overflows
Sizes/Count.
  Holds/0  # GetParam() = 4
  Holds/1  # GetParam() = 8
Typed/0.  # TypeParam = int
  IsZero
"""

LIBTEST = """\
tests::adds: test
tests::deep::waits: test
tests::fast: benchmark
"""


def test_go_lists_tests_examples_and_fuzz_tests_and_no_benchmarks() -> None:
    text = "printed by init\nTestMapInMap\nTestÜ\nFuzzKeys\nExampleMap_get\nBenchmarkLookup\n"
    assert [one.name for one in go_list(text)] == ["TestMapInMap", "TestÜ", "FuzzKeys", "ExampleMap_get"]
    assert KINDS["go"].select("TestÜ") == ("-test.v", "-test.run", "^TestÜ$")


def test_googletest_lists_suites_parameters_types_and_disabled_tests() -> None:
    assert gtest_list(GTEST) == [
        Listed("Counts.Adds"),
        Listed("Counts.DISABLED_Overflows", disabled=True),
        Listed("Sizes/Count.Holds/0"),
        Listed("Sizes/Count.Holds/1"),
        Listed("Typed/0.IsZero"),
    ]


def test_libtest_lists_paths_whose_colons_pytest_has_another_use_for() -> None:
    assert [one.name for one in libtest_list(LIBTEST)] == ["tests::adds", "tests::deep::waits"]
    assert [one.shown for one in libtest_list(LIBTEST)] == ["tests.adds", "tests.deep.waits"]


def test_a_program_that_cannot_list_is_one_test() -> None:
    assert KINDS["tap"].parse_list("") == [Listed(WHOLE)]
    assert KINDS["exec"].list_words == ()
