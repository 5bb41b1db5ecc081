"""The table of needs: what it says, who reads it, and what each of them says when an entry is missing."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import harness
from harness import needs
from harness.errors import ToolMissing
from harness.needs import Need, table
from harness.util import architecture
from harness.util.data import read_toml

PACKAGE = Path(harness.__file__).parent
SETUP = PACKAGE.parent / "scripts" / "setup"

EVERY = [pytest.param(need, id=need.name.rpartition("/")[2]) for need in table().needs]

# What scripts/setup itself runs on every Debian machine.
ESSENTIAL = ("bash", "dirname", "realpath", "grep", "id", "mktemp", "rm", "tail", "sha256sum", "flock", "env")


# the table


def test_every_feature_needs_something_and_is_explained() -> None:
    used = {feature for need in table().needs for feature in need.features}
    assert used == set(table().features)


def test_the_test_suite_has_all_that_scripts_run_has() -> None:
    scripts = table().scripts
    assert set(scripts["run"]) <= set(scripts["test"])


def test_a_plain_run_needs_neither_a_compiler_nor_udev() -> None:
    plain = {package for need in table().of(["setup", "run", "debian", "libbpf"]) for package in need.packages}
    assert not plain & {"clang", "udev", "gcc", "kmod", "file", "binutils", "busybox-static"}


def test_debians_keyring_is_the_one_that_kernels_are_verified_with() -> None:
    assert needs.need(read_toml("kernels", "debian.toml")["keyring"]).variable == "HARNESS_DEBIAN_KEYRING"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("need make - - make", "line 1 is not one of the five kinds: need make - - make"),
        ("wants make", "line 1 is not one of"),
        ("feature build", "line 1 is not one of"),
        ("need make - - make build build kernels", "the feature build is not explained"),
        ("script run build", "the feature build is not explained"),
    ],
)
def test_a_malformed_table_is_refused(line: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        needs.parse(line)


def words_of(path: Path) -> list[tuple[int, str]]:
    """Every string in a file that is not a docstring, with its line."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def second_copies(path: Path) -> list[str]:
    """Where a file writes the name of a package in the table, or how to install one, itself."""
    names = {name for need in table().needs for name in need.names}
    packages = {package for need in table().needs for package in need.packages} - names
    known = re.compile(rf"(?<![\w/-])({'|'.join(map(re.escape, sorted(packages)))}|apt-get install)(?![\w.-])")
    return [f"{path.name}:{line}: {text!r}" for line, text in words_of(path) if known.search(text)]


def test_no_package_is_named_a_second_time() -> None:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "needs.py"]
    assert [line for path in files for line in second_copies(path)] == []


def test_a_second_copy_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""Needs libbpf1."""\nHINT = "install libbpf1"\nOTHER = f"apt-get install {HINT}"\nFINE = "make"\n'
    )
    assert [line.partition(": ")[0] for line in second_copies(path)] == ["module.py:2", "module.py:3"]


# finding


@pytest.mark.parametrize("need", EVERY)
def test_what_is_missing_is_named_with_its_package_and_purpose(need: Need, take_away: Callable[[str], None]) -> None:
    take_away(need.name)
    assert not any(needs.present(feature) for feature in need.features)
    with pytest.raises(ToolMissing) as caught:
        needs.program(need.name)
    assert str(caught.value).startswith(f"{need.name} is not installed; it is needed to {need.purpose}\n")
    assert f"apt-get install {' '.join(need.packages)}" in caught.value.hint


def test_programs_of_administrators_are_found_without_their_folders_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(needs, "table", lambda: needs.parse(f"look programs {tmp_path}/sbin"))
    depmod = Need(("depmod",), "", "", ("kmod",), (), "")
    assert needs.find(depmod) is None
    script(tmp_path / "sbin" / "depmod")
    assert needs.find(depmod) == tmp_path / "sbin" / "depmod"
    script(tmp_path / "bin" / "depmod")
    assert needs.find(depmod) == tmp_path / "bin" / "depmod"


def test_a_variable_names_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CLANG", str(tmp_path / "clang-99"))
    with pytest.raises(ToolMissing, match=r"clang-99 is not installed.*compile BPF") as caught:
        needs.program("clang")
    assert caught.value.hint.startswith("correct HARNESS_CLANG, or unset it and apt-get install clang")
    script(tmp_path / "clang-99")
    assert needs.program("clang") == tmp_path / "clang-99"


@pytest.mark.parametrize(
    ("version", "least", "enough"), [("14.0.6", "10", True), ("9.0.1", "10", False), ("3.10", "3.10", True)]
)
def test_versions_are_compared_as_numbers(version: str, least: str, enough: bool) -> None:
    assert needs.at_least(version, least) is enough


# scripts/setup


def script(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@dataclass
class Machine:
    """A made-up machine: a checkout with scripts/setup and the table, whose every path lies below `folder`."""

    folder: Path

    def place(self, name: str) -> Path:
        """Where something with this name in the table is on it."""
        if name.startswith("/"):
            return self.folder / name.lstrip("/")
        return self.folder / ("libraries" if ".so" in name else "sbin" if name == "depmod" else "bin") / name

    def put(self, name: str) -> None:
        script(self.place(name))

    def setup(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "checkout" / "scripts" / "setup", *words],
            env={"PATH": f"{self.folder}/bin:{self.folder}/essential", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def missing(self, *words: str, **environment: str) -> list[str]:
        done = self.setup("--packages", *words, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with nothing but what every Debian machine has, apt among it."""
    checkout = tmp_path / "checkout"
    (checkout / "harness").mkdir(parents=True)
    (checkout / "scripts").mkdir()
    shutil.copy(SETUP, checkout / "scripts")
    text = re.sub(r"(?<=[ ,])/(?=[a-z])", f"{tmp_path}/", needs.TABLE.read_text())
    text = re.sub(r"^look programs .*", f"look programs {tmp_path}/sbin", text, flags=re.MULTILINE)
    text = re.sub(r"^look libraries .*", f"look libraries {tmp_path}/libraries", text, flags=re.MULTILINE)
    (checkout / "harness" / "needs.txt").write_text(text)
    (tmp_path / "essential").mkdir()
    for name in ESSENTIAL:
        found = shutil.which(name)
        assert found is not None, name
        (tmp_path / "essential" / name).symlink_to(found)
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "apt-get", "#!/bin/sh\nexit 9\n")
    return Machine(tmp_path)


def packages_of(name: str) -> list[str]:
    wanted = table().of(table().scripts[name])
    return list(dict.fromkeys(package for need in wanted for package in need.packages))


@pytest.mark.parametrize("name", list(table().scripts))
def test_setup_lists_every_package_where_nothing_is_there(machine: Machine, name: str) -> None:
    assert machine.missing(name) == packages_of(name)


def test_setup_alone_means_a_run(machine: Machine) -> None:
    assert machine.missing() == packages_of("run")


@pytest.mark.parametrize("need", EVERY)
def test_setup_misses_each_entry_that_is_taken_out(machine: Machine, need: Need) -> None:
    every = table().of(table().scripts["test"])
    for other in every:
        if other is not need:
            machine.put(other.name)
    assert machine.missing("test") == (list(need.packages) if need in every else [])
    for name in need.names:
        machine.put(name)
        assert machine.missing("test") == [], name
        machine.place(name).unlink()


def test_setup_does_not_take_a_program_for_a_static_one(machine: Machine) -> None:
    machine.put("busybox")
    assert "busybox-static" not in machine.missing("bench")
    script(machine.place("busybox"), "/lib64/ld-linux-x86-64.so.2")
    assert "busybox-static" in machine.missing("bench")


def test_what_the_user_names_is_not_for_setup_to_install(machine: Machine) -> None:
    assert not {"clang", "libbpf1"} & set(machine.missing("run", HARNESS_CLANG="clang-19", HARNESS_LIBBPF="/x.so"))


def test_without_apt_setup_asks_for_programs_alone(machine: Machine) -> None:
    machine.place("apt-get").unlink()
    missing = machine.missing("run")
    assert "qemu-system-x86" in missing
    assert not {"libbpf1", "debian-archive-keyring"} & set(missing)


def test_a_plain_user_gets_one_complete_command(machine: Machine) -> None:
    script(machine.folder / "bin" / "id", "#!/bin/sh\necho 1000\n")
    done = machine.setup("test")
    assert done.returncode == 3
    command = f"sudo apt-get install --no-install-recommends {' '.join(packages_of('test'))}"
    assert done.stderr.splitlines()[-1] == f"setup: next step: {command}"


def test_root_installs_all_at_once_and_hears_of_trouble(machine: Machine) -> None:
    script(machine.folder / "bin" / "id", "#!/bin/sh\necho 0\n")
    asked = machine.folder / "asked"
    script(
        machine.place("apt-get"), f'#!/bin/sh\necho "$@" >>{asked}\n[ "$2" = update ] || {{ echo broken; exit 100; }}\n'
    )
    done = machine.setup()
    assert done.returncode == 3
    wanted = " ".join(packages_of("run"))
    assert asked.read_text() == f"-q update\n-q install -y --no-install-recommends {wanted}\n"
    assert done.stderr.splitlines()[:3] == [
        f"setup: installing Debian packages: {wanted}",
        "broken",
        f"setup: apt-get could not install {wanted}; its last lines are above",
    ]


@pytest.mark.parametrize(
    ("said", "package"),
    [
        ("RuntimeError: Could not find ['depmod']", "kmod"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'strings'", "binutils"),
        ("please install busybox-static", "busybox-static"),
        ("virtme-run: error: unrecognized arguments: --disable-monitor", None),
        ("a file that is not named: depmod", None),
    ],
)
def test_what_an_error_message_names_is_found_in_the_table(said: str, package: str | None) -> None:
    found = needs.named_in(said)
    assert (found.packages[0] if found else None) == package


def test_an_unknown_word_is_refused(machine: Machine) -> None:
    done = machine.setup("--with-browser")
    assert done.returncode == 2
    assert (
        done.stderr
        == "setup: unknown arguments: --with-browser\nsetup: expected: one of run bench mutants test-bare test\n"
    )


def test_setup_installs_what_another_architecture_needs_when_it_is_asked_to(machine: Machine) -> None:
    assert "qemu-system-arm" not in machine.missing()
    assert set(machine.missing("--arch", "arm64")) == {*packages_of("run"), "qemu-system-arm"}
    assert set(machine.missing("--arch", "arm64", "bench")) == {*packages_of("bench"), "qemu-system-arm"}
    machine.put("qemu-system-aarch64")
    assert machine.missing("--arch", "arm64") == packages_of("run")
    both = machine.missing("--arch", "arm64", "--arch", "s390x")
    assert set(both) == {*packages_of("run"), "qemu-system-misc"}


@pytest.mark.parametrize("words", [("--arch", "mips"), ("--arch",), ("--arch", "mips", "run")])
def test_setup_refuses_an_architecture_that_it_does_not_know(machine: Machine, words: tuple[str, ...]) -> None:
    done = machine.setup("--packages", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown architecture" in done.stderr
    assert "expected: one of arm64 s390x ppc64el riscv64 armhf" in done.stderr


def test_the_table_of_needs_and_the_table_of_architectures_agree() -> None:
    for name in table().architectures:
        assert [one.name for one in table().of([name])] == [architecture.require(name).qemu]


def test_all_that_is_missing_is_named_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find", lambda one: None if one.name in ("make", "bc") else Path("/bin/x"))
    needs.require(["gcc", "ld"])
    with pytest.raises(ToolMissing, match=r"^make is not installed"):
        needs.require(["make", "gcc"])
    with pytest.raises(ToolMissing, match=r"^make, bc are not installed") as raised:
        needs.require(["make", "gcc", "bc"])
    assert raised.value.hint == "apt-get install make bc"
