"""No contract reaches for a part of the kernel beyond bpf(2) that it does not declare.

The sources of the contracts' tests are read: each test with the functions, fixtures and values that it uses of its
module and, in a folder of its subject, of the modules beside it. What is found in the value of a dictionary counts for
the cases that the key names alone, and for tests that name the key.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness import contracts as suite
from harness.contracts import contracts
from harness.contracts.contract import Contract
from harness.features.map_types import MAP_TYPES
from harness.guest.api.uapi import PROG_TYPES

FILES = {
    "/proc/vmallocinfo": "vmallocinfo",
    "/proc/meminfo": "meminfo",
    "/proc/self/ns/": "namespaces",
    "/sys/fs/bpf": "bpffs",
    "/sys/fs/cgroup": "cgroups",
}
"""What a path needs."""

GIVEN = ("/proc/self/status", "/proc/self/stat", "/proc/self/fd", "/proc/version", "/sys/kernel/rcu_expedited")
"""Files of proc, without which no guest starts; and a setting that a test can do without."""

NAMES = {
    "jit": "jit_switch",
    "translated": "translated_programs",
    "translated_for_nobody": "mitigations",
    "cgroup": "cgroups",
    "tracepoint": "tracepoints",
    "raw_tracepoint": "raw_tracepoints",
    "socket_filter": "unix_sockets",
    "socketpair": "unix_sockets",
    "tracing": "wait_trace",
    "setresuid": "users",
    "seteuid": "users",
    "sched_setaffinity": "second_cpu",
    "setrlimit": "locked_memory",
    "Thread": "threads",
    "pin": "bpffs",
    "pinned_map": "bpffs",
    "libbpf_find_vmlinux_btf_id": "btf",
    "open_to_all": "unprivileged_open",
    "forbidden": "unprivileged_switch",
}
"""What calling a function of this name, or using a fixture of it, needs."""

IMPLIED = {
    "tracepoints": {"prog_tracepoint"},
    "raw_tracepoints": {"prog_raw_tracepoint"},
    "unprivileged_open": {"unprivileged_switch"},
}
"""What a part has shown to be there when its probe says yes."""

TOLERANT = {"unpinned"}
"""Fixtures that clean up, and find nothing to clean up where a part is missing."""

NAMESPACES = {"user": "user_namespaces", "mnt": "mount_namespaces"}

ALWAYS = ("socket_filter", "sched_cls", "syscall")
"""Types of programs that need no part: the first two are there wherever a guest starts, "syscall" has a capability."""

MAP_OF_CASE = "map_CASE"
"""What a test needs that creates a map of the type that its case names."""

EVERY_CASE = ""

SUITE = Path(suite.__file__).parent


class Module:
    """The source of a module of tests.

    Attributes:
        tests: Names of its tests, with those of the contracts that they observe.
    """

    def __init__(self, path: Path) -> None:
        beside = [one for one in path.parent.glob("*.py") if path.parent != SUITE and not one.name.startswith("test_")]
        body = [node for one in (*beside, path) for node in ast.parse(one.read_text()).body]
        self._defined: dict[str, ast.AST] = {}
        self.tests: dict[str, list[str]] = {}
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self._defined[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._defined[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self._defined[node.target.id] = node.value
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                self.tests[node.name] = list(self._observed(node))

    def _observed(self, test: ast.FunctionDef) -> Iterator[str]:
        for call in (one for one in test.decorator_list if isinstance(one, ast.Call)):
            if ast.unparse(call.func) == "pytest.mark.contract":
                for argument in call.args:
                    if isinstance(argument, ast.Starred):
                        named = self._defined[ast.unparse(argument.value)]
                        yield from (one.value for one in ast.walk(named) if _is_text(one) and "." in one.value)  # type: ignore[attr-defined]
                    else:
                        yield ast.literal_eval(argument)

    def needs(self, test: str) -> dict[str, set[str]]:
        """Return what a test reaches for: the part of the kernel, and the cases that do."""
        found: dict[str, set[str]] = defaultdict(set)
        self._walk(self._defined[test], EVERY_CASE, found, set())
        return found

    def texts(self, test: str) -> set[str]:
        """Return the strings in the body of a test."""
        body = self._defined[test].body  # type: ignore[attr-defined]
        return {one.value for node in body for one in ast.walk(node) if _is_text(one)}  # type: ignore[attr-defined]

    def _walk(self, node: ast.AST, case: str, found: dict[str, set[str]], seen: set[tuple[int, str]]) -> None:
        if (id(node), case) in seen:
            return
        seen.add((id(node), case))
        for need in _reach(node):
            found[need].add(case)
        used = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
        if used in self._defined:
            self._walk(self._defined[used], case, found, seen)
        for fixture in set(_fixtures(node)) - TOLERANT:
            if fixture in NAMES:
                found[NAMES[fixture]].add(case)
            if fixture in self._defined:
                self._walk(self._defined[fixture], case, found, seen)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                named = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else case
                self._walk(value, named, found, seen)
            return
        for child in ast.iter_child_nodes(node):
            self._walk(child, case, found, seen)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _fixtures(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.usefixtures":
        yield from (one.value for one in node.args if isinstance(one, ast.Constant))  # type: ignore[misc]


def _reach(node: ast.AST) -> Iterator[str]:
    """Yield the parts of the kernel that a node of the source reaches for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("/proc", "/sys")):
        covered = [need for start, need in FILES.items() if node.value.startswith(start)]
        assert covered or node.value.startswith(GIVEN), f"no part of a kernel is declared for {node.value}"
        yield from covered
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in NAMES:
        yield NAMES[name]
    texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    if "OBJ_PIN" in texts:
        yield "bpffs"
    if name == "ask" and any(ast.unparse(one) == "calls.Credentials.leave" for one in node.args):
        yield from (NAMESPACES[one.value] for one in ast.walk(node) if _is_text(one) and one.value in NAMESPACES)  # type: ignore[attr-defined]
    if name == "ask" and any(ast.unparse(one) == "calls.Credentials.become" for one in node.args):
        yield "users"
    if name == "map" and node.args and ast.unparse(node.args[0]) in ("case", "contract.case"):
        yield MAP_OF_CASE
    if name == "Use" and any(_is_text(one) and one.value == "perf_event_output" for one in ast.walk(node)):  # type: ignore[attr-defined]
        yield "prog_perf_event"
    if name in ("prog", "load", "run", "Use"):
        texts += [one.value.value for one in node.keywords if one.arg == "program" and _is_text(one.value)]  # type: ignore[attr-defined]
        yield from (f"prog_{one}" for one in texts if one in PROG_TYPES and one not in ALWAYS)


def of_case(contract: Contract, *, makes_map: bool) -> Iterator[str]:
    """Yield the parts that the case of a contract names: a type of programs or of maps that has a symbol of its own."""
    for word in (contract.case, contract.case.partition("_with")[0]):
        if contract.name == "prog.type" and word in PROG_TYPES and word not in ALWAYS:
            yield f"prog_{word}"
        if makes_map and word in MAP_TYPES and MAP_TYPES[word].config:
            yield f"map_{word}"


def undeclared(path: Path, promised: Mapping[str, Contract]) -> list[str]:
    """Return what the contracts of a module reach for and do not declare."""
    module = Module(path)
    found = []
    for test, names in module.tests.items():
        needs = module.needs(test)
        for contract in promised.values():
            if contract.name not in names:
                continue
            keys = {EVERY_CASE, contract.case, contract.name, *module.texts(test)}
            wanted = {need for need, cases in needs.items() if cases & keys}
            wanted = {*wanted - {MAP_OF_CASE}, *of_case(contract, makes_map=MAP_OF_CASE in wanted)}
            wanted -= {one for need in wanted for one in IMPLIED.get(need, ())}
            missing = wanted - set(contract.requires) - {contract.decided_by}
            found += [f"{contract.id} does not require {need}" for need in sorted(missing)]
    return found


@pytest.mark.parametrize("path", sorted(SUITE.rglob("test_*.py")), ids=lambda path: path.stem)
def test_a_contract_declares_what_it_reaches_for(path: Path) -> None:
    assert undeclared(path, contracts()) == []


def test_an_expedited_wait_is_expected_only_where_waits_are_of_two_kinds() -> None:
    expected = [one for one in contracts().values() if any("expedited" in str(part.answer) for part in one.ranges)]
    assert len(expected) > 5
    assert [one.id for one in expected if "expedited_waits" not in one.requires] == []
