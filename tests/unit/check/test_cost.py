"""What verification costs: the verifier's counts, budgets, veristat's CSV."""

from __future__ import annotations

import pytest

from harness.check.cost import (
    Budget,
    as_veristat,
    compared,
    figures_of,
    over_budget,
    parse_budget,
    read_veristat,
)
from harness.check.results import Kind, Result, Verdict
from harness.errors import UsageError

# From 6.1 and 7.3.
LOG = """verification time 35 usec
stack depth 8+16
processed 1217 insns (limit 1000000) max_states_per_insn 3 total_states 41 peak_states 12 mark_read 4
"""
INFO = {"nr_map_ids": 2, "xlated_prog_len": 64, "jited_prog_len": 55, "verified_insns": 9}
COST = {"insns": 1217, "states": 41, "peak": 12, "stack": 24, "usec": 35, "maps": 2, "xlated": 64, "jited": 55}


def result(program: str, cost: dict[str, int] | None, kernel: str = "6.1", verdict: Verdict = Verdict.OK) -> Result:
    return Result(kernel, "x.bpf.o", program, Kind.PROGRAM, verdict, "load", cost=cost)


def test_the_figures_of_a_program() -> None:
    assert figures_of(LOG, INFO) == COST
    assert figures_of("", INFO) == {"insns": 9, "maps": 2, "xlated": 64, "jited": 55}
    assert figures_of("", {}) == {}


def test_a_budget_is_the_most_that_is_good() -> None:
    assert parse_budget("insns=1217") == Budget("insns", 1217)
    assert over_budget(COST, [Budget("insns", 1217)]) == ""
    assert over_budget(COST, [Budget("insns", 1216)]) == "insns is 1217, the budget is 1216"
    assert over_budget({}, [Budget("insns", 0)]) == ""


@pytest.mark.parametrize("text", ["", "insns", "insns=", "insns=-1", "words=3", "insns=1e6"])
def test_what_is_not_a_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a budget"):
        parse_budget(text)


def test_veristats_csv_is_written_and_read() -> None:
    text = as_veristat([result("a", COST), result("b", None, verdict=Verdict.REFUSED)])
    assert text.splitlines() == [
        "file_name,prog_name,verdict,duration,total_insns,total_states,peak_states",
        "x.bpf.o,a,success,35,1217,41,12",
        "x.bpf.o,b,failure,N/A,N/A,N/A,N/A",
    ]
    read = read_veristat(text, "x.csv")
    assert read["x.bpf.o", "a"] == {"usec": 35, "insns": 1217, "states": 41, "peak": 12}
    assert read["x.bpf.o", "b"] == {}


def test_veristats_csv_is_of_one_kernel() -> None:
    with pytest.raises(UsageError, match=r"about one kernel, not 2: 6.1, 6.12"):
        as_veristat([result("a", COST), result("a", COST, kernel="6.12")])


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "file_name,prog_name,total_insns\n"])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a CSV of veristat's"):
        read_veristat(text, "x.csv")


def test_a_cost_that_rose_is_over_budget() -> None:
    before = {("x.bpf.o", "a"): {"insns": 1000, "states": 41, "usec": 1}}
    (same,) = compared([result("a", COST)], before, 25)
    assert same.verdict is Verdict.OK
    (more,) = compared([result("a", COST)], before, 20)
    assert (more.verdict, more.line) == (Verdict.OVER_BUDGET, "insns rose from 1000 to 1217")
    assert compared([result("new", COST)], before, 0)[0].verdict is Verdict.OK
