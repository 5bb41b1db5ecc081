"""Many mutants in one kernel, each behind its own switch; a guest turns one on.

Building, booting and saving a kernel costs far more than the few short tests that find a mistake. So all generated
mutants are compiled together ("mutant schemata", Untch, Offutt and Harrold, 1993). Every statement or condition that
mutants change becomes a choice between the original and each mutant's version. The kernel records which mutants it has
come past: a test that never comes past a mutant cannot find it, and is not run on it.

Pure: source text in, source text out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.mutants.edit import Edit, Mutant, apply, function_span
from harness.mutants.generate import parse, walk

if TYPE_CHECKING:
    from tree_sitter import Node

HOME = "kernel/bpf/map_in_map.c"
"""The file that gets the switches; its name is also the name of the module with the parameters."""

PARAMETERS = "/sys/module/map_in_map/parameters"
"""Their folder in a guest: `mutant` is the number of the one that is on, 0 for none; `mutants_passed`: those passed."""

_DECLARATIONS = """
extern unsigned int harness_mutant;
extern unsigned long harness_mutants_passed[];

static __always_inline bool harness_mutant_is(unsigned int number)
{
	if (!test_bit(number, harness_mutants_passed))
		set_bit(number, harness_mutants_passed);
	return READ_ONCE(harness_mutant) == number;
}
"""

_DEFINITIONS = """
#include <linux/moduleparam.h>

unsigned int harness_mutant __read_mostly;
module_param_named(mutant, harness_mutant, uint, 0644);

DECLARE_BITMAP(harness_mutants_passed, {count});

static int harness_mutants_show(char *buffer, const struct kernel_param *parameter)
{{
	return scnprintf(buffer, PAGE_SIZE, "%*pb\\n", {count}, harness_mutants_passed);
}}

static int harness_mutants_forget(const char *value, const struct kernel_param *parameter)
{{
	bitmap_zero(harness_mutants_passed, {count});
	return 0;
}}

static const struct kernel_param_ops harness_mutants_passed_ops = {{
	.set = harness_mutants_forget,
	.get = harness_mutants_show,
}};
module_param_cb(mutants_passed, &harness_mutants_passed_ops, NULL, 0644);
"""

LIMIT = 8000
"""Maximum number of mutants: their bits are shown in one page of hexadecimal digits."""


@dataclass(frozen=True)
class Switched:
    """Source files with mutants behind switches.

    Attributes:
        files: Their text, by path in the tree.
        numbers: The number of each mutant's switch, from 1.
        lines: The mutant on each line: (file, line) to its name.
    """

    files: dict[str, str]
    numbers: dict[str, int]
    lines: dict[tuple[str, int], str]


def switched(mutants: Sequence[Mutant], texts: Mapping[str, str]) -> Switched:
    """Insert mutants into source files, each behind a switch.

    Args:
        mutants: Each with its edits in statements or conditions of functions.
        texts: The text of each file that they change, and of :data:`HOME`.

    Raises:
        UsageError: There are too many mutants, or one cannot be switched.
    """
    if len(mutants) >= LIMIT:
        raise UsageError(f"{len(mutants)} mutants do not fit into one kernel", expected=f"fewer than {LIMIT}")
    numbers = {mutant.name: number for number, mutant in enumerate(mutants, 1)}
    files = {}
    lines: dict[tuple[str, int], str] = {}
    for file in dict.fromkeys([HOME, *(edit.file for mutant in mutants for edit in mutant.edits)]):
        here = [(mutant.name, edit) for mutant in mutants for edit in mutant.edits if edit.file == file]
        text = apply(texts[file], _choices(file, texts[file], here, numbers))
        top = _TOP.match(text)
        at = top.end() if top is not None else 0
        head = _DECLARATIONS + (_DEFINITIONS.format(count=len(mutants) + 1) if file == HOME else "")
        files[file] = text[:at] + head + text[at:]
        for number, line in enumerate(files[file].split("\n"), 1):
            if found := _MARK.search(line):
                lines[file, number] = found[1]
    return Switched(files, numbers, lines)


_MARK = re.compile(r"/\* mutant (\S+) \*/$")
_TOP = re.compile(r"(?:\s*(?:/\*.*?\*/|//[^\n]*|#include[^\n]*))*\n", re.DOTALL)
"""The comments and includes that a file begins with."""


def _choices(file: str, text: str, edits: Sequence[tuple[str, Edit]], numbers: Mapping[str, int]) -> list[Edit]:
    """Return the edits that turn every changed place into a choice."""
    places: dict[tuple[int, int, str], list[tuple[str, Edit]]] = {}
    trees: dict[str, tuple[int, bytes, Node]] = {}
    for name, edit in edits:
        if edit.function not in trees:
            start, end = function_span(text, edit.function)
            source = text[start:end].encode()
            trees[edit.function] = (start, source, parse(source))
        start, source, root = trees[edit.function]
        first = len(text[start : edit.start].encode())
        node, kind = _place(root, first, first + len(edit.old.encode()), name)
        begin = start + len(source[: node.start_byte].decode())
        end = start + len(source[: node.end_byte].decode())
        places.setdefault((begin, end, kind), []).append((name, edit))
    return [_choice(file, text, begin, end, kind, here, numbers) for (begin, end, kind), here in sorted(places.items())]


_ONE = {
    "statement": "if ({test}) {{ {becomes} }} else {comment}\n",
    "condition": "{test} ? !!({becomes}) : {comment}\n",
    "value": "{test} ? ({becomes}) : {comment}\n",
}
_ALL = {"statement": "{{ {choice}{was} }}", "condition": "({choice}!!({was}))", "value": "({choice}({was}))"}


def _choice(
    file: str, text: str, begin: int, end: int, kind: str, edits: Sequence[tuple[str, Edit]], numbers: Mapping[str, int]
) -> Edit:
    was = text[begin:end]
    pieces = []
    for name, edit in edits:
        becomes = was[: edit.start - begin] + edit.new + was[edit.start - begin + len(edit.old) :]
        # On one line, so that the line number in a compiler error identifies the mutant.
        becomes = " ".join(becomes.split())
        test = f"harness_mutant_is({numbers[name]})"
        comment = f"/* mutant {name} */"
        pieces.append(_ONE[kind].format(test=test, becomes=becomes, comment=comment))
    return Edit(file, begin, was, _ALL[kind].format(choice="".join(pieces), was=was))


_STATEMENTS = ("expression_statement", "goto_statement", "return_statement", "break_statement", "continue_statement")


def _place(root: Node, first: int, last: int, name: str) -> tuple[Node, str]:
    """Return the smallest statement or complete expression around some bytes, and its kind."""
    around = [node for node in walk(root) if node.start_byte <= first and node.end_byte >= last]
    for node in sorted(around, key=lambda one: (one.end_byte - one.start_byte, -_depth(one))):
        if node.type in _STATEMENTS and node.text is not None and node.text.rstrip().endswith(b";"):
            return node, "statement"
        parent = node.parent
        fields = _FIELDS.get(parent.type, {}) if parent is not None else {}
        for field, kind in fields.items():
            if parent is not None and parent.child_by_field_name(field) == node:
                return node, kind
    raise UsageError(f"the mutant {name} is not in a statement that can be switched")


_FIELDS = {
    "if_statement": {"condition": "condition"},
    "while_statement": {"condition": "condition"},
    "for_statement": {"initializer": "value", "condition": "condition", "update": "value"},
    "init_declarator": {"value": "value"},
}
"""Expressions that can be replaced as a whole, by their parent node."""


def _depth(node: Node) -> int:
    depth, one = 0, node.parent
    while one is not None:
        depth, one = depth + 1, one.parent
    return depth
