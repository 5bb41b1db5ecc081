"""Mutants made mechanically: all mistakes of a few kinds in chosen functions.

tree-sitter parses the C source; it needs no configuration, headers or preprocessor. A place is a node of its tree.
Pure: a file's text in, mutants out, always the same mutants in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from harness.errors import ToolMissing
from harness.mutants.edit import Edit, Mutant, function_span

if TYPE_CHECKING:
    from tree_sitter import Node

COMPARISONS = {"==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}
LOGIC = {"&&": "||", "||": "&&"}
ARITHMETIC = {"+": "-", "-": "+", "*": "+", "|": "&", "&": "|", "<<": ">>", ">>": "<<"}
CALLS = {
    "bpf_map_inc": "bpf_map_put",
    "bpf_map_put": "bpf_map_inc",
    "bpf_map_put_with_uref": "bpf_map_put",
    "bpf_map_inc_with_uref": "bpf_map_inc",
    "bpf_map_put_uref": "bpf_map_inc_with_uref",
    "btf_get": "btf_put",
    "btf_put": "btf_get",
    "atomic64_inc": "atomic64_dec",
    "atomic64_dec": "atomic64_inc",
    "rcu_read_lock": "rcu_read_unlock",
    "rcu_read_unlock": "rcu_read_lock",
    "mutex_unlock": "mutex_lock",
    "bpf_map_meta_free": "kfree",
    "bpf_map_write_active_inc": "bpf_map_write_active_dec",
    "bpf_map_write_active_dec": "bpf_map_write_active_inc",
}
"""Pairs of functions: get and put, lock and unlock, with a user's reference and without."""

WORDS = {
    "true": "false",
    "false": "true",
    "NULL": "ERR_PTR(-EINVAL)",
    "BPF_MAP_TYPE_HASH_OF_MAPS": "BPF_MAP_TYPE_ARRAY_OF_MAPS",
    "BPF_MAP_TYPE_ARRAY_OF_MAPS": "BPF_MAP_TYPE_HASH_OF_MAPS",
    "BPF_ANY": "BPF_NOEXIST",
    "BPF_F_RDONLY_PROG": "BPF_F_RDONLY",
    "BPF_F_WRONLY_PROG": "BPF_F_WRONLY",
    "BPF_F_INNER_MAP": "BPF_F_NO_PREALLOC",
    "FMODE_CAN_READ": "FMODE_CAN_WRITE",
    "FMODE_CAN_WRITE": "FMODE_CAN_READ",
    "BPF_W": "BPF_B",
    "BPF_DW": "BPF_W",
    "BPF_JEQ": "BPF_JNE",
    "BPF_JGE": "BPF_JGT",
    "BPF_ADD": "BPF_SUB",
    "IS_FD_ARRAY": "IS_FD_HASH",
    "IS_FD_HASH": "IS_FD_ARRAY",
}
"""Pairs of related constants."""

ERRNOS = {"EINVAL": "EPERM", "ENOENT": "EINVAL", "ENOTSUPP": "EOPNOTSUPP"}
"""The replacement of each errno; all others become EINVAL."""


def generate(parts: Sequence[Mapping[str, Any]], read: Callable[[str], str]) -> list[Mutant]:
    """Return all mutants of chosen functions, in the order of trial.

    Args:
        parts: The parts of `kernels/mutants/functions.toml`.
        read: Returns the text of a source file, by its path in the tree.

    Returns:
        Lower tiers first. Inside a tier, the order is scattered over functions and kinds, and always the same, so that
        the first hundred are a fair sample.

    Raises:
        UsageError: A function is not in its file.
        ToolMissing: tree-sitter is not installed.
    """
    found: dict[tuple[str, int, str, str], tuple[int, Mutant]] = {}
    for part in parts:
        text = read(part["file"])
        for function in part["functions"]:
            for mutant in _of_function(part["file"], text, function, part.get("near", ()), part.get("others", ())):
                edit = mutant.edits[0]
                # Two kinds of mistake can give the same text.
                found.setdefault((edit.file, edit.start, edit.old, edit.new), (int(part["tier"]), mutant))
    ordered = sorted(found.values(), key=lambda one: (one[0], hashlib.sha256(one[1].name.encode()).hexdigest()))
    return [mutant for _, mutant in ordered]


def parse(source: bytes) -> Node:
    """Return the syntax tree of a piece of C.

    Raises:
        ToolMissing: tree-sitter is not installed.
    """
    try:
        import tree_sitter
        import tree_sitter_c
    except ImportError as error:
        raise ToolMissing(
            f"{error.name} is not installed; it is needed to generate mutants",
            expected="the development dependencies of kernel-harness",
            hint="pip install kernel-harness[test], or scripts/setup in a checkout",
        ) from error
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language())).parse(source).root_node


def _of_function(file: str, text: str, function: str, near: Sequence[str], others: Sequence[str]) -> Iterator[Mutant]:
    start, end = function_span(text, function)
    # The parser counts bytes; the text may contain names with accents, but not in functions.
    body = text[start:end]
    source = body.encode()
    numbers: dict[str, int] = {}
    for node in walk(parse(source)):
        for kind, old, new in _mistakes(node):
            if near and not any(word in _statement_of(node) for word in near):
                continue
            if any(word in condition for word in others for condition in _conditions_over(node)):
                continue
            numbers[kind] = numbers.get(kind, 0) + 1
            at = start + len(source[: old.start_byte].decode())
            was = source[old.start_byte : old.end_byte].decode()
            name = f"{PurePosixPath(file).stem}/{function}/{kind}-{numbers[kind]}"
            yield Mutant(name, kind, f"{function}: {_DOES[kind]}", (Edit(file, at, was, new, function),))


_DOES = {
    "negate": "a condition is negated",
    "never": "a condition never holds",
    "compare": "another comparison",
    "logic": "and for or",
    "not": "a not is lost",
    "arithmetic": "another operator",
    "drop": "a statement is omitted",
    "call": "another function is called",
    "errno": "another errno",
    "number": "another number",
    "word": "another constant",
}


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it, in the order of the text."""
    yield node
    for child in node.children:
        yield from walk(child)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


_STATEMENTS = ("expression_statement", "declaration", "return_statement", "goto_statement", "break_statement")


def _statement_of(node: Node) -> str:
    """Return the context of a place: its statement, or its condition with the statement under it."""
    one: Node | None = node
    while one is not None and one.type not in (*_STATEMENTS, "if_statement", "function_definition"):
        one = one.parent
    if one is None or one.type == "function_definition":
        return ""
    if one.type == "if_statement":
        parts = (one.child_by_field_name(name) for name in ("condition", "consequence"))
        return " ".join(_text(part) for part in parts if part is not None)
    return _text(one)


def _conditions_over(node: Node) -> Iterator[str]:
    """Yield every condition around a place."""
    below, one = node, node.parent
    while one is not None:
        if one.type == "if_statement" and one.child_by_field_name("alternative") != below:
            condition = one.child_by_field_name("condition")
            if condition is not None:
                yield _text(condition)
        below, one = one, one.parent
    if node.type == "if_statement":
        condition = node.child_by_field_name("condition")
        if condition is not None:
            yield _text(condition)


def _mistakes(node: Node) -> Iterator[tuple[str, Node, str]]:
    """Yield (kind, node to replace, new text) for every mistake at a node of the tree."""
    kind = node.type
    if kind in ("if_statement", "while_statement"):
        condition = node.child_by_field_name("condition")
        if condition is not None:
            yield "negate", condition, f"(!{_text(condition)})"
            yield "never", condition, f"(0 && {_text(condition)})"
    elif kind == "conditional_expression":
        condition = node.child_by_field_name("condition")
        if condition is not None:
            yield "negate", condition, f"!({_text(condition)})"
    elif kind == "binary_expression":
        operator = node.child_by_field_name("operator")
        if operator is not None and not (operator.type in ("==", "!=") and _is_condition(node)):
            for name, table in (("compare", COMPARISONS), ("logic", LOGIC), ("arithmetic", ARITHMETIC)):
                if operator.type in table:
                    yield name, operator, table[operator.type]
    elif kind == "unary_expression":
        yield from _unary(node)
    elif kind in ("expression_statement", "goto_statement", "return_statement"):
        if not _is_needed(node):
            yield "drop", node, ";"
    elif kind == "call_expression":
        function = node.child_by_field_name("function")
        if function is not None and _text(function) in CALLS:
            yield "call", function, CALLS[_text(function)]
    elif kind == "number_literal":
        yield "number", node, "1" if _text(node) == "0" else f"({_text(node)} + 1)"
    elif kind in ("identifier", "true", "false", "null") and _text(node) in WORDS:
        yield "word", node, WORDS[_text(node)]


def _unary(node: Node) -> Iterator[tuple[str, Node, str]]:
    operator, argument = node.child_by_field_name("operator"), node.child_by_field_name("argument")
    if operator is None or argument is None:
        return
    if operator.type == "!" and not _is_condition(node):
        yield "not", node, f"(!!{_text(argument)})"
    elif operator.type == "-" and argument.type == "identifier" and _text(argument).startswith("E"):
        yield "errno", argument, ERRNOS.get(_text(argument), "EINVAL")


def _is_condition(expression: Node) -> bool:
    """Return whether an expression is a complete condition, which is negated as such."""
    parent = expression.parent
    return (
        parent is not None
        and parent.type == "parenthesized_expression"
        and parent.parent is not None
        and parent.parent.type in ("if_statement", "while_statement")
    )


def _is_needed(statement: Node) -> bool:
    """Return whether dropping a statement would not compile, have no effect, or is done elsewhere."""
    parent = statement.parent
    if parent is None or not _text(statement).rstrip().endswith(";"):
        return True  # the head of a macro that loops
    if parent.type == "if_statement" and statement.type != "expression_statement":
        return True  # same as the condition that never holds
    if statement.type == "return_statement" and _ends_function(statement):
        return True  # the value would be undefined, which compilers refuse
    return _text(statement).strip() == ";"


def _ends_function(node: Node) -> bool:
    """Return whether a statement is the last of its function."""
    parent = node.parent
    if parent is None or parent.type == "function_definition":
        return True
    if parent.type == "compound_statement":
        statements = [child for child in parent.named_children if child.type != "comment"]
        return statements[-1] == node and _ends_function(parent)
    return parent.type in ("if_statement", "else_clause", "labeled_statement") and _ends_function(parent)
