"""The arrows between modules point down: a module imports what lies in layers below its own, or in its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

PACKAGE = Path(harness.__file__).parent

# Bottom to top. A module belongs to the longest prefix that names it.
LAYERS = (
    ("harness", "harness.errors"),
    ("harness.needs",),
    ("harness.proc",),
    ("harness.store", "harness.data", "harness.errnos"),
    ("harness.guest",),
    ("harness.kernel", "harness.image", "harness.objects"),
    ("harness.vm",),
    ("harness.remote",),
    ("harness.judge",),
    ("harness.run",),
    ("harness.doctor",),
    ("harness.record",),
    ("harness.report",),
    ("harness.testing",),
    ("harness.marks", "harness.contracts", "harness.recorder", "harness.summaries"),
    ("harness.mutants",),
    ("harness.cli", "harness.plugin"),
)

# Two in one layer that must not know each other.
APART = (("harness.kernel", "harness.image"), ("harness.cli", "harness.plugin"))

# The only modules of the guest's that the host imports: what crosses between them, and what is pure. Loaders are run
# by name there, and a test's own functions, which run there too, may import them.
GUEST_SEEN_BY_HOST = {
    "harness.guest.wire",
    "harness.guest.asm",
    "harness.guest.btf",
    "harness.guest.steps",
    "harness.guest.uapi",
}


# Tests that the package ships; they have functions that run in the guest, like any others.
TESTS_IN_PACKAGE = "harness.contracts.test_"

# What is in the guest image of one flavour alone.
IN_A_FLAVOUR = {("bcc_loader.py", "bcc")}


def layer_of(module: str) -> int:
    """Return the number of a module's layer; KeyError when it has none."""
    places = {prefix: number for number, layer in enumerate(LAYERS) for prefix in layer}
    name = module
    while True:
        if name in places and (name != "harness" or module == "harness"):
            return places[name]
        name, dot, _ = name.rpartition(".")
        if not dot:
            raise KeyError(f"{module} has no layer: give it one in LAYERS")


def group_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


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


def wrong_arrows(package: Path) -> list[str]:
    """Return one line for every import in the package that points up, sideways or out of the guest."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    found = []
    for module, path in paths.items():
        parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for line, target in imported_modules(ast.parse(path.read_text()), set(paths), parent):
            inside = target.split(".")[0] == "harness"
            where = f"{module}:{line} imports {target}"
            if group_of(module) == "harness.guest":
                if inside and group_of(target) != "harness.guest":
                    found.append(f"{where}: what runs in the guest knows nothing else of the package")
            elif not inside:
                continue
            elif layer_of(target) > layer_of(module):
                found.append(f"{where}: a layer above its own")
            elif any({group_of(module), group_of(target)} == set(pair) for pair in APART):
                found.append(f"{where}: these two do not know each other")
            elif module.startswith(TESTS_IN_PACKAGE):
                continue
            elif group_of(target) == "harness.guest" and target not in GUEST_SEEN_BY_HOST:
                found.append(f"{where}: the host imports what is pure alone")
    return found


def test_every_arrow_points_down() -> None:
    assert wrong_arrows(PACKAGE) == []


def test_what_runs_in_the_guest_imports_the_standard_library_alone() -> None:
    import sys

    for path in sorted((PACKAGE / "guest").glob("*.py")):
        for line, target in imported_modules(ast.parse(path.read_text()), {"harness.guest"}, "harness.guest"):
            root = target.split(".")[0]
            known = root == "harness" or root in sys.stdlib_module_names or (path.name, root) in IN_A_FLAVOUR
            assert known, f"{path.name}:{line} imports {target}"


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("proc.py", "from harness import store", "a layer above its own"),
        ("proc.py", "import harness.vm.boot", "a layer above its own"),
        ("vm/boot.py", "from harness.plugin import State", "a layer above its own"),
        ("vm/boot.py", "def later():\n    from harness import run", "a layer above its own"),
        ("vm/boot.py", "if TYPE_CHECKING:\n    from harness.run.pool import Pool", "a layer above its own"),
        ("vm/boot.py", "from ..run import pool", "a layer above its own"),
        ("vm/boot.py", "from harness.guest import agent", "what is pure alone"),
        ("guest/agent.py", "from harness import errors", "knows nothing else of the package"),
        ("image/build.py", "from harness.kernel import types", "do not know each other"),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    for known in ("proc.py", "store.py", "plugin.py", "vm/boot.py", "run/pool.py", "guest/agent.py", "errors.py"):
        path = tmp_path / "harness" / known
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.touch()
    for folder in ("image", "kernel"):
        (tmp_path / "harness" / folder).mkdir()
        (tmp_path / "harness" / folder / "__init__.py").touch()
    (tmp_path / "harness" / "kernel" / "types.py").touch()
    (tmp_path / "harness" / file).write_text(line)
    found = wrong_arrows(tmp_path / "harness")
    assert len(found) == 1
    assert complaint in found[0]


def test_a_module_without_a_layer_is_refused() -> None:
    with pytest.raises(KeyError, match=r"harness\.new has no layer"):
        layer_of("harness.new")
