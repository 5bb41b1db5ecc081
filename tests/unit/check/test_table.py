"""Which line of a verifier's log tells most, and how a matrix is printed."""

from __future__ import annotations

import pytest

from harness.check.objects import Template, parse_template
from harness.check.table import Result, Verdict, as_markdown, as_records, as_text, telling_line
from harness.errors import UsageError

# From kernels 6.1 and 6.12; the second one takes the program.
REFUSED = """func#0 @0
0: R1=ctx(off=0,imm=0) R10=fp0
; int forgets(void *ctx)
0: (b7) r1 = 0                        ; R1_w=0
1: (63) *(u32 *)(r10 -4) = r1         ; R1_w=0 R10=fp0 fp-8=0000????
2: (85) call bpf_map_lookup_elem#1    ; R0_w=map_value_or_null(id=1,off=0,ks=4,vs=4,imm=0)
3: (bf) r1 = r0
4: (85) call bpf_map_lookup_elem#1
R1 type=map_value_or_null expected=map_ptr
processed 5 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""
ACCEPTED = """0: R1=ctx() R10=fp0
; int forgets(void *ctx) @ file.c:3
0: (b7) r1 = 0                        ; R1_w=0
1: (63) *(u32 *)(r10 -4) = r1         ; R1_w=0 R10=fp0 fp-8=????0
2: (85) call bpf_map_lookup_elem#1    ; R0_w=map_ptr_or_null(id=1,map=outer)
3: (bf) r1 = r0
4: (85) call bpf_map_lookup_elem#1
5: (95) exit
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""
RESULTS = [
    Result("6.1", "forgets", Verdict.REFUSED, "load", 13, REFUSED),
    Result("6.1", "fine", Verdict.OK, "load"),
    Result("6.12", "forgets", Verdict.OK, "load", 0, ACCEPTED),
    Result("6.12", "fine", Verdict.OK, "load"),
    Result("7.9", "x.bpf.o", Verdict.LOST, "start", 0, "no such kernel"),
]


@pytest.mark.parametrize("accepted", ["", ACCEPTED])
def test_the_telling_line_is_the_complaint(accepted: str) -> None:
    assert telling_line(REFUSED, accepted) == "R1 type=map_value_or_null expected=map_ptr"


def test_what_a_newer_kernel_explains_is_not_the_complaint() -> None:
    explained = f"{REFUSED}\nVerification failed: Call Type Safety\n\nSuggestion:\n  Pass a value.\n"
    assert telling_line(explained) == "R1 type=map_value_or_null expected=map_ptr"


def test_an_instruction_that_only_one_log_has_is_informative_too() -> None:
    other = REFUSED.replace("3: (bf) r1 = r0", "3: (bf) r1 = r2")
    assert telling_line(other, ACCEPTED) == "3: r1 = r2"


def test_libbpf_says_the_cause_first() -> None:
    said = "libbpf: map 'traced': failed to create: -22\nlibbpf: failed to load object 'tracer'\n"
    assert telling_line(said) == "libbpf: map 'traced': failed to create: -22"
    assert telling_line("") == ""


def test_the_table_has_a_column_for_each_kernel_and_the_reasons_below() -> None:
    assert as_text(RESULTS).splitlines() == [
        "         6.1     6.12  7.9",
        "forgets  EACCES  ok    -",
        "fine     ok      ok    -",
        "x.bpf.o  -       -     lost",
        "",
        "forgets on 6.1: EACCES at load: R1 type=map_value_or_null expected=map_ptr",
        "x.bpf.o on 7.9: lost at start: no such kernel",
    ]


def test_markdown_and_records_say_the_same() -> None:
    assert "| `forgets` | EACCES | ok | - |" in as_markdown(RESULTS)
    record = as_records(RESULTS)[0]
    assert (record["verdict"], record["errno_name"], record["message"]) == ("refused", "EACCES", REFUSED)
    assert record["line"] == "R1 type=map_value_or_null expected=map_ptr"


def test_an_inner_map_is_described_in_a_word() -> None:
    assert parse_template("traced=hash:4:0x8:16") == Template("traced", "hash", 4, 8, 16)
    assert parse_template("o=array:4:4:2:0x1000").map_flags == 0x1000


@pytest.mark.parametrize("text", ["", "traced", "traced=hash", "traced=hsah:4:4:8", "=hash:4:4:8", "o=hash:4:x:8"])
def test_what_describes_no_inner_map_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not describe an inner map"):
        parse_template(text)
