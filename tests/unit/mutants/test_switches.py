"""Many mutants in one kernel: the C that comes of them is compiled and run, with stand-ins for the kernel's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.mutants import generate
from harness.mutants.edit import Edit, Mutant
from harness.mutants.schemata import Control, control_of, numbers_in, refused_by
from harness.mutants.session import PRESENCE_TEST, last_attempts
from harness.mutants.switches import HOME, switched
from tests.needs import needs_program

STAND_INS = """\
// SPDX-License-Identifier: GPL-2.0
/* What a userspace program has in place of the kernel's headers. */
#include <stdbool.h>
"""

SOURCE = (
    STAND_INS
    + """
#define EPERM 1
#define EINVAL 22
#define ENOENT 2

int value;

int store(int key, int wanted)
{
	int err = 0;
	int i;

	if (key < 0)
		return -EINVAL;
	for (i = 0; i < key; i++)
		err = err + 1;
	if (wanted && key > 1)
		value = wanted;
	else
		goto out;
	if (key == 7) {
		err = -ENOENT;
		goto out;
	}
	value = value | 16;
out:
	return err ? err : value;
}
"""
)

HEADER = """
typedef unsigned int u32;
#define __always_inline inline __attribute__((always_inline))
#define READ_ONCE(x) (x)
static inline int test_bit(int n, unsigned long *p) { return p[n / 64] >> n % 64 & 1; }
static inline void set_bit(int n, unsigned long *p) { p[n / 64] |= 1ul << n % 64; }
"""

MAIN = """
#include <stdio.h>
#include <stdlib.h>
int store(int, int);
extern int value;
unsigned int harness_mutant;
unsigned long harness_mutants_passed[100];
int main(int argc, char **argv)
{
	harness_mutant = atoi(argv[1]);
	for (int i = 2; i + 1 < argc; i += 2) {
		value = 0;
		printf("%d\\n", store(atoi(argv[i]), atoi(argv[i + 1])));
	}
	for (int n = 0; n < 6400; n++)
		if (harness_mutants_passed[n / 64] >> n % 64 & 1)
			fprintf(stderr, "%d ", n);
	return 0;
}
"""

INPUTS = [(-1, 5), (3, 5), (0, 0), (7, 9), (1, 4)]


def mutants() -> list[Mutant]:
    parts: list[dict[str, Any]] = [{"file": "kernel/bpf/x.c", "tier": 1, "functions": ["store"]}]
    return generate.generate(parts, lambda name: SOURCE)


def compiled(tmp_path: Path, text: str) -> Path:
    needs_program("gcc")
    (tmp_path / "x.c").write_text(HEADER + text)
    (tmp_path / "main.c").write_text(MAIN)
    program = tmp_path / "program"
    subprocess.run(["gcc", "-w", "-o", program, tmp_path / "x.c", tmp_path / "main.c"], check=True)
    return program


def run(program: Path, mutant: int, inputs: list[tuple[int, int]]) -> tuple[list[int], set[int]]:
    words = [str(number) for one in inputs for number in one]
    done = subprocess.run([program, str(mutant), *words], capture_output=True, text=True, check=True, timeout=60)
    return [int(line) for line in done.stdout.split()], {int(word) for word in done.stderr.split()}


def test_every_switch_makes_its_own_mistake_and_none_when_off(tmp_path: Path) -> None:
    every = mutants()
    made = switched(every, {"kernel/bpf/x.c": SOURCE, HOME: "\nint home;\n"})
    program = compiled(tmp_path, made.files["kernel/bpf/x.c"])
    assert run(program, 0, INPUTS)[0] == [-22, 3, 0, -2, 1]
    for mutant in every:
        # What the same edit comes to when it is made in the file.
        folder = tmp_path / mutant.name.replace("/", "_")
        folder.mkdir()
        edit = mutant.edits[0]
        alone = compiled(folder, SOURCE[: edit.start] + edit.new + SOURCE[edit.start + len(edit.old) :])
        assert run(program, made.numbers[mutant.name], INPUTS)[0] == run(alone, 0, INPUTS)[0], mutant


def test_the_kernel_reports_the_mutants_that_it_came_past(tmp_path: Path) -> None:
    made = switched(mutants(), {"kernel/bpf/x.c": SOURCE, HOME: ""})
    program = compiled(tmp_path, made.files["kernel/bpf/x.c"])
    by_name = {name.rpartition("/")[2]: number for name, number in made.numbers.items()}
    refused = run(program, 0, [(-1, 5)])[1]
    whole = run(program, 0, [(3, 5)])[1]
    assert by_name["errno-1"] in refused - whole
    assert by_name["negate-1"] in refused & whole
    assert by_name["errno-2"] not in refused | whole


def test_the_switches_come_after_the_includes_of_every_file_and_their_parameters_in_one() -> None:
    made = switched(mutants(), {"kernel/bpf/x.c": SOURCE, HOME: STAND_INS + "int home;\n"})
    for text in made.files.values():
        assert text.startswith(STAND_INS)
        assert text.count("bool harness_mutant_is(") == 1
    count = len(made.numbers) + 1
    assert f"DECLARE_BITMAP(harness_mutants_passed, {count})" in made.files[HOME]
    assert "module_param" not in made.files["kernel/bpf/x.c"]
    assert made.files[HOME].endswith("int home;\n")


def test_every_mutant_has_a_line_of_its_own_for_the_compiler_to_name() -> None:
    made = switched(mutants(), {"kernel/bpf/x.c": SOURCE, HOME: ""})
    assert sorted(made.lines.values()) == sorted(made.numbers)
    (file, line), name = next(iter(made.lines.items()))
    assert name in made.files[file].split("\n")[line - 1]
    log = (
        f"/a/b/{file}:{line}:7: warning: unused\n/a/b/{file}:{line + 1}:1: note: here\n"
        f"include/bug.h:3:1: error: no such thing\n/a/b/{file}:{line}:9: note: in expansion of macro 'X'\n"
    )
    assert refused_by(log, made) == {name: "no such thing"}


def test_a_mutant_of_several_edits_has_one_switch(tmp_path: Path) -> None:
    edits = [("= wanted", "= 3"), ("| 16", "| 64")]
    both = Mutant(
        "hand/both",
        "a",
        "w",
        tuple(Edit("kernel/bpf/x.c", SOURCE.index(old), old, new, "store") for old, new in edits),
    )
    made = switched([*mutants(), both], {"kernel/bpf/x.c": SOURCE, HOME: ""})
    program = compiled(tmp_path, made.files["kernel/bpf/x.c"])
    assert run(program, made.numbers["hand/both"], [(2, 5)])[0] == [2]
    assert list(made.lines.values()).count("hand/both") == 2


def test_what_is_in_no_statement_cannot_be_switched() -> None:
    odd = Mutant(
        "x/store/odd-1", "odd", "w", (Edit("kernel/bpf/x.c", SOURCE.index("int key"), "int key", "long key", "store"),)
    )
    with pytest.raises(UsageError, match="not in a statement"):
        switched([odd], {"kernel/bpf/x.c": SOURCE, HOME: ""})


# what the tests came past


@pytest.mark.parametrize(
    ("bitmap", "numbers"), [("", []), ("0", []), ("5", [0, 2]), ("1,00000001", [0, 32]), ("80000000,00000000", [63])]
)
def test_bitmaps_as_the_kernel_prints_them(bitmap: str, numbers: list[int]) -> None:
    assert numbers_in(bitmap) == numbers


def report(test: str, outcome: str, attempt: int = 1, mutant: str = "", when: str = "call") -> dict[str, Any]:
    return {
        "mutant": mutant,
        "attempt": attempt,
        "test": test,
        "when": when,
        "outcome": outcome,
        "seconds": 1.0,
        "message": outcome,
    }


def test_only_the_last_attempt_at_a_test_counts() -> None:
    records = [
        report("a", "failed", 1, "m"),
        report("a", "passed", 2, "m"),
        report("b", "failed", 1, "m"),
        report("b", "failed", 2, "m"),
        report("b", "failed", 1, "other"),
        {"round": "m"},
    ]
    assert [(one["test"], one["outcome"]) for one in last_attempts(records, "m")] == [("a", "passed"), ("b", "failed")]


def test_a_mutant_is_put_to_the_tests_that_come_past_it() -> None:
    control = control_of(
        [
            report(f"p.py::{PRESENCE_TEST}[mutant]", "passed"),
            {"watched": f"p.py::{PRESENCE_TEST}[mutant]", "passed": "0"},
            report("slow", "passed") | {"seconds": 9.0},
            {"watched": "slow", "passed": "6"},
            report("quick", "passed"),
            {"watched": "quick", "passed": "2"},
            report("killer", "passed") | {"seconds": 5.0},
            {"watched": "killer", "passed": "2"},
            report("late", "passed"),
            report("late", "failed", when="teardown"),
            {"watched": "late", "passed": "2"},
            report("skipped", "skipped", when="setup"),
        ]
    )
    assert control.failing == {"late": "failed"}
    presence = f"p.py::{PRESENCE_TEST}[mutant]"
    assert control.tests_for(1, {"killer": 2}, {}) == [presence, "killer", "quick", "slow"]
    assert control.tests_for(1, {"killer": 2}, {"slow": 1}) == [presence, "slow", "killer", "quick"]
    assert control.tests_for(2, {}, {}) == [presence, "slow"]
    assert control.tests_for(3, {}, {}) == [presence]
    assert isinstance(control, Control)
