"""The house: a module imports rooms of lower storeys, rooms to the left of its own, and its own room."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

PACKAGE = Path(harness.__file__).parent

# Bottom to top; in a storey left to right. Rooms in one string are side by side and do not know each other.
STOREYS = {
    "foundations": ("errors", "needs", "util"),
    "machines": ("guest", "kernel image", "vm", "machines", "remote"),
    "knowledge": ("testing features results", "checks"),
    "tests": ("pytest_plugin", "contracts"),
    "commands' features": ("report boundary check exec mutants shell bench doctor shards", "programs selftests"),
    "commands": ("cli",),
}
PLACES = {
    room: place
    for place, rooms in enumerate(rooms for storey in STOREYS.values() for rooms in storey)
    for room in rooms.split()
}

# The only modules of the guest's that the host imports: what crosses between them, and what is pure.
GUEST_SEEN_BY_HOST = {
    "harness.guest.calls",
    "harness.guest.wire",
    "harness.guest.steps",
    "harness.guest.api.asm",
    "harness.guest.api.btf",
    "harness.guest.api.uapi",
}

# Tests that the package ships; they have functions that run in the guest, like any others.
TESTS_IN_PACKAGE = "harness.contracts.test_"

# What is in the guest image of one flavour alone.
IN_A_FLAVOUR = {("harness.guest.api.bcc_loader", "bcc")}


def room_of(module: str) -> str:
    return module.split(".")[1]


def place_of(module: str) -> int:
    """Return where a module's room is, from the bottom; KeyError when it is in none."""
    if module == "harness":  # the version
        return -1
    try:
        return PLACES[room_of(module)]
    except KeyError:
        raise KeyError(f"{module} is in no room: give it a place in STOREYS") from None


def module_name(path: Path, package: Path) -> str:
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, modules: set[str], package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                member = f"{base}.{alias.name}"
                yield node.lineno, member if member in modules else base


def complaint(module: str, target: str) -> str:
    """Return what is wrong with an import; "" when nothing is."""
    inside = target.split(".")[0] == "harness"
    if module.startswith("harness.guest"):
        known = target.startswith("harness.guest") or target.split(".")[0] in sys.stdlib_module_names
        known = known or (module, target.split(".")[0]) in IN_A_FLAVOUR
        return "" if known else "what runs in the guest imports the standard library and itself"
    if not inside:
        return ""
    if place_of(target) > place_of(module):
        return "a room above its own"
    if place_of(target) == place_of(module) != -1 and room_of(target) != room_of(module):
        return "these rooms do not know each other"
    if target.startswith("harness.guest") and target not in GUEST_SEEN_BY_HOST:
        return "" if module.startswith(TESTS_IN_PACKAGE) else "of the guest, the host imports what is pure"
    return ""


def wrong_imports(package: Path) -> list[str]:
    """Return one line for every import in the package that a room must not make."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    found = []
    for module, path in paths.items():
        parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for line, target in imported_modules(ast.parse(path.read_text()), set(paths), parent):
            wrong = complaint(module, target)
            if wrong:
                found.append(f"{module}:{line} imports {target}: {wrong}")
    return found


def test_every_room_imports_what_is_below_it() -> None:
    assert wrong_imports(PACKAGE) == []


def test_every_module_is_in_a_room() -> None:
    for path in PACKAGE.rglob("*.py"):
        place_of(module_name(path, PACKAGE))


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("util/proc.py", "from harness import vm", "a room above"),
        ("util/proc.py", "import harness.vm.boot", "a room above"),
        ("vm/boot.py", "from harness.pytest_plugin import state", "a room above"),
        ("vm/boot.py", "def later():\n    from harness import machines", "a room above"),
        ("vm/boot.py", "if TYPE_CHECKING:\n    from harness.machines.pool import Pool", "a room above"),
        ("vm/boot.py", "from ..machines import pool", "a room above"),
        ("pytest_plugin/state.py", "from harness import contracts", "a room above"),
        ("vm/boot.py", "from harness.guest import agent", "the host imports what is pure"),
        ("guest/agent.py", "from harness import errors", "the standard library and itself"),
        ("guest/agent.py", "import pytest", "the standard library and itself"),
        ("image/build.py", "from harness.kernel import types", "do not know each other"),
        ("report/html.py", "from harness import check", "do not know each other"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path: Path, file: str, line: str, expected: str) -> None:
    known = (
        "errors util/proc vm/boot machines/pool guest/agent kernel/types image/build report/html pytest_plugin/state"
    )
    for name in known.split():
        path = tmp_path / "harness" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.touch()
    for folder in ("check", "contracts"):
        (tmp_path / "harness" / folder).mkdir()
        (tmp_path / "harness" / folder / "__init__.py").touch()
    (tmp_path / "harness" / file).write_text(line)
    found = wrong_imports(tmp_path / "harness")
    assert len(found) == 1
    assert expected in found[0]


def test_a_module_in_no_room_is_refused() -> None:
    with pytest.raises(KeyError, match=r"harness\.new is in no room"):
        place_of("harness.new")
