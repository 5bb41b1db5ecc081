"""The plugin in projects that are about something else, or have names of their own that are also the plugin's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.pytest_plugin.options import DEFAULTS
from tests.plugin.inner import KERNEL, Inner, Result

NOWHERE = {"HARNESS_CACHE": "/proc/nowhere", "PATH": "", "HARNESS_DEBIAN_MIRROR": "http://127.0.0.1:9"}
"""An environment without kernels and QEMU."""

MARKED = """
import pytest

pytestmark = pytest.mark.vm("of the cloud")


@pytest.mark.requires("pandas")
def test_a():
    pass


@pytest.mark.leaks
def test_b():
    pass


@pytest.mark.kernel("linux")
@pytest.mark.expects_fault(3)
@pytest.mark.stress(rounds=3)
def test_c():
    pass


@pytest.mark.harness_requires("no such thing")
def test_d():
    pass
"""


def test_markers_are_left_alone_on_tests_without_a_kernel(inner: Inner) -> None:
    inner.write(test_marked=MARKED)
    result = inner.run("--strict-markers", env=NOWHERE)
    assert result.last.strip("= ").startswith("4 passed in"), result.out


def test_each_marker_has_a_name_of_its_own_and_a_sentence(inner: Inner) -> None:
    result = inner.run("--markers", env=NOWHERE)
    own = re.findall(
        r"^@pytest.mark.harness_(\w+)(?:\(.*?\))?: [^.]+\w(?: '[^']*' or '[^']*')?\.$", result.out, re.MULTILINE
    )
    short = re.findall(r"^@pytest.mark.(\w+)(?:\(.*\))?: the same as harness_(\w+)\.$", result.out, re.MULTILINE)
    assert sorted(own) == ["expects_fault", "kernel", "leaks", "requires", "stress", "vm"]
    assert sorted(short) == [(name, name) for name in sorted(own)]


def test_each_fixture_has_a_sentence(inner: Inner) -> None:
    result = inner.run("--fixtures", env=NOWHERE)
    section = result.out.partition("fixtures defined from harness.pytest_plugin.fixtures")[2].partition("\n---")[0]
    found = re.findall(r"^(\w+)(?: \[session scope\])? -- .*fixtures\.py:\d+\n    (.+)\n$", section, re.MULTILINE)
    names = "bcc bpf bpf_loader bpf_object guest kernel kernel_choice libbpf second_guest second_vm shared_guest stress"
    assert sorted(name for name, _ in found) == [*names.split(), "vm"], section
    assert all(re.fullmatch(r"[A-Z][^.]+\.", text) for _, text in found), found


PREFIXED = """
import pytest


@pytest.mark.requires("pandas")
@pytest.mark.harness_kernel(">=6.12")
def test_new(kernel_choice):
    pass


@pytest.mark.requires("pandas")
@pytest.mark.harness_kernel("<6.12")
def test_old(kernel_choice):
    pass
"""


def test_a_marker_that_the_project_declares_is_the_projects(inner: Inner) -> None:
    inner.write(test_prefixed=PREFIXED)
    (inner.folder / "pytest.ini").write_text("[pytest]\nmarkers = requires(module): what a test imports\n")
    result = inner.run(f"--kernel={KERNEL}", "--kernel=6.12", "--collect-only", "-q", "--strict-markers")
    assert result.status == 0, result.out
    assert sorted(line for line in result.lines if "::" in line) == [
        "test_prefixed.py::test_new[6.12]",
        f"test_prefixed.py::test_old[{KERNEL}]",
    ]
    assert "@pytest.mark.requires(capability" not in inner.run("--markers").out


def test_a_marker_that_both_may_mean_is_this_plugins_on_its_tests(inner: Inner) -> None:
    inner.write(test_prefixed=PREFIXED.replace("kernel_choice", "guest"))
    result = inner.run(f"--kernel={KERNEL}", "--collect-only", "-q")
    assert result.status == pytest.ExitCode.INTERRUPTED, result.out
    assert "pandas" in result.out


OPTIONS = """
import pytest


def pytest_addoption(parser):
    parser.addoption("--kernel", action="store", default="python3")
    parser.addoption("--record", action="store_true")
    group = parser.getgroup("mine")
    for name in ("loader", "accel", "stress", "isolation", "verdicts", "boot-timeout", "kmemleak", "pause-timeout"):
        group.addoption(f"--{name}", type=int)


@pytest.fixture
def options(request):
    return request.config
"""

OF_THE_PROJECT = """
def test_the_projects_options(options):
    assert options.getoption("--kernel") == options.getoption("kernel") == "julia"
    assert options.getoption("record") is True
    assert options.getoption("--stress") == 3
"""


def test_a_projects_options_win(inner: Inner) -> None:
    inner.write(conftest=OPTIONS, test_mine=OF_THE_PROJECT)
    result = inner.run("--kernel=julia", "--record", "--stress", "3", env=NOWHERE)
    assert result.last.strip("= ").startswith("1 passed in"), result.out
    assert "harness" not in result.out.replace("kernel-harness-", "")


def test_ours_are_reached_by_their_long_names_then(inner: Inner) -> None:
    inner.write(conftest=OPTIONS, test_mine=OF_THE_PROJECT, test_kernel="def test_it(kernel_choice): pass")
    result = inner.run("--kernel=julia", "--record", "--stress=3", f"--harness-kernel={KERNEL}", "-v")
    assert result.status == 0, result.out
    assert f"test_kernel.py::test_it[{KERNEL}] PASSED" in result.out
    (line,) = [line for line in result.lines if line.startswith("--kernel")]
    assert line == "--kernel is an option of this project's own; kernel-harness's is --harness-kernel"


def test_a_destination_of_the_project_stays_its_own(inner: Inner) -> None:
    inner.write(
        conftest="""
def pytest_addoption(parser):
    parser.addoption("--my-kernel", dest="kernel", default="abc")
    parser.addoption("--my-record", dest="record", default="def")
""",
        test_mine="""
def test_it(request):
    assert request.config.option.kernel == "abc"
    assert request.config.getoption("record") == "def"
""",
    )
    result = inner.run(env=NOWHERE)
    assert result.last.strip("= ").startswith("1 passed in"), result.out


def test_another_plugins_options_win(inner: Inner) -> None:
    inner.write(mine=OPTIONS, test_mine=OF_THE_PROJECT)
    result = inner.run("-p", "mine", "--kernel", "julia", "--record", "--stress=3", env={**NOWHERE, "PYTHONPATH": "."})
    assert result.last.strip("= ").startswith("1 passed in"), result.out


def test_short_and_long_names_and_values_apart(inner: Inner) -> None:
    inner.write(test_kernel="def test_it(kernel_choice): pass")
    folder = inner.folder / "below"
    folder.mkdir()
    (inner.folder / "conftest.py").write_text('def pytest_addoption(parser): parser.addoption("--mine")\n')
    wanted = [f"test_kernel.py::test_it[{KERNEL}]", "test_kernel.py::test_it[6.12]"]
    for words in (("--kernel", KERNEL, "--kernel=6.12"), (f"--harness-kernel={KERNEL}", "--harness-kernel", "6.12")):
        result = inner.run("--collect-only", "-q", *words)
        assert [line for line in result.lines if "::" in line] == wanted, result.out
    # The value of an option is no place where conftests are.
    result = inner.run("--collect-only", "-q", "--pause-timeout", "5", "--record", "below", "--mine=1")
    assert result.status == 0, result.out


PLACES = [
    ({"PYTEST_ADDOPTS": f"--kernel={KERNEL}"}, ""),
    ({}, f"addopts = --kernel={KERNEL}"),
    ({}, f"addopts = --harness-kernel {KERNEL}"),
    ({}, f"harness_kernels = {KERNEL}"),
]


@pytest.mark.parametrize(("environment", "setting"), PLACES)
def test_where_a_kernel_may_be_named(inner: Inner, environment: dict[str, str], setting: str) -> None:
    inner.write(test_kernel="def test_it(kernel_choice): pass")
    (inner.folder / "pytest.ini").write_text(f"[pytest]\n{setting}\n")
    result = inner.run("--collect-only", "-q", env=environment)
    assert f"test_kernel.py::test_it[{KERNEL}]" in result.lines, result.out


def test_without_the_plugin(inner: Inner) -> None:
    inner.write(conftest=OPTIONS, test_mine=OF_THE_PROJECT, test_plain="def test_it(): pass")
    (inner.folder / "pytest.ini").write_text("[pytest]\nharness_kernels = 6.1\n")
    result = inner.run("-p", "no:harness", "--kernel=julia", "--record", "--stress=3", "-W", "default", env=NOWHERE)
    assert re.search(r"2 passed, 1 warning in", result.last), result.out
    assert "Unknown config option: harness_kernels" in result.out


OWN = {
    "kernel": "def kernel(): return 'mine'",
    "vm": "def vm(): return 'mine'",
    "guest": "def guest(): return 'mine'",
    "bpf": "def bpf(): return 'mine'",
    "kernel_choice": "def kernel_choice(): return 'mine'",
}


def test_fixtures_of_the_project_with_our_names(inner: Inner) -> None:
    for name, text in OWN.items():
        others = [other for other in ("kernel", "vm", "guest", "bpf") if other != name]
        folder = inner.folder / f"own_{name}"
        folder.mkdir()
        (folder / f"test_own_{name}.py").write_text(
            f"""
import pytest


@pytest.fixture
{text}


def test_own({name}):
    assert {name} == "mine"


def test_others({name}, {", ".join(others)}):
    assert {name} == "mine"
    assert "mine" not in ({", ".join(others)},)
    assert type({others[-1]}).__name__ == {others[-1].capitalize() if others[-1] != "bpf" else "Bpf"!r}
"""
        )
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg")
    assert result.last.strip("= ").startswith("10 passed in"), result.out


def test_a_fixture_of_the_project_may_add_to_ours(inner: Inner) -> None:
    inner.write(
        test_adds="""
import pytest


@pytest.fixture
def guest(guest):
    guest.write("/proc/sys/kernel/domainname", "prepared")
    return guest


def test_it(guest, bpf):
    assert guest.read("/proc/sys/kernel/domainname") == b"prepared\\n"
    assert bpf.commands.process is guest.process
"""
    )
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg")
    assert result.status == 0, result.out


DYNAMIC = '''
import unittest

import pytest


@pytest.mark.usefixtures("guest")
class Old(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def given(self, guest):
        self.guest = guest

    def test_old(self):
        self.assertEqual(self.guest.call(double, 2), 4)


def double(number):
    return 2 * number


def test_dynamic(request):
    assert request.getfixturevalue("guest").call(double, 3) == 6


def test_of_a_chosen_kernel(kernel, request):
    assert request.getfixturevalue("guest").release == kernel.release


def documented():
    """
    >>> getfixture("guest").call(double, 4)
    8
    """
'''


def test_a_guest_for_unittest_doctests_and_getfixturevalue(inner: Inner) -> None:
    inner.write(test_dynamic=DYNAMIC)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "--doctest-modules", "--record=r.json", "--verdicts", "-v")
    assert result.last.strip("= ").startswith("4 passed in"), result.out
    assert re.search(r"^  dynamic +✓ passed$", result.out, re.MULTILINE)
    assert re.search(r"^  old +✓ passed$", result.out, re.MULTILINE)


def test_several_kernels_for_them_are_one_sentence(inner: Inner) -> None:
    inner.write(test_dynamic=DYNAMIC)
    result = inner.run(f"--kernel={KERNEL}", "--kernel=6.12", "-k", "dynamic or old")
    assert result.status == 1, result.out
    assert result.out.count("cannot run once for each kernel; 2 are selected: 6.1, 6.12") >= 2
    assert "next step: select one (--kernel)" in result.out
    assert not re.search(r"^\S*(harness|_pytest|pluggy)/\S+\.py:\d+:", result.out, re.MULTILINE)
    assert "no attribute" not in result.out


ASKS = """
def test_it(request):
    assert (request.config.getoption("harness_stress"), request.config.getoption("harness_loader")) == (5, ["raw"])
"""


@pytest.mark.parametrize(
    "options", [("--stress=5",), ("--stress", "5", "-n1"), ("-p", "harness.pytest_plugin", "--stress=5")]
)
def test_an_option_has_its_value_however_the_plugin_is_loaded(inner: Inner, options: tuple[str, ...]) -> None:
    inner.write(test_asks=ASKS)
    env = {**NOWHERE, **({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if "-p" in options else {})}
    assert inner.run(*options, env=env).status == 0


def test_a_conftest_may_load_the_plugin(inner: Inner) -> None:
    inner.write(conftest='pytest_plugins = ["harness.pytest_plugin"]', test_asks=ASKS)
    result = inner.run("--harness-stress=5", env={**NOWHERE, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert result.status == 0, result.out


@pytest.mark.parametrize("word", ["--help", "-h", "-vh"])
def test_the_help_has_each_option(inner: Inner, word: str) -> None:
    shown = re.findall(r"^  --harness-([\w-]+)", inner.run(word, env=NOWHERE).out, re.MULTILINE)
    assert shown == list(DEFAULTS)


def plain_result(result: Result) -> str:
    """Return what pytest printed, without times and its own list of installed plugins."""
    lines = [line for line in result.lines if not line.startswith("plugins: ")]
    # A longer time leaves less room for the line's rule.
    return re.sub(r"^=* ?(.*) in \d+\.\d+s.*$", r"\1", "\n".join(lines), flags=re.MULTILINE)


@pytest.mark.parametrize("options", [("-v", "-rA"), ("-n1",), ("--collect-only", "-q")])
def test_the_output_of_a_project_without_kernels_is_the_same(inner: Inner, options: tuple[str, ...]) -> None:
    inner.write(
        test_mine="""
import unittest

import pytest


def test_passes():
    print("x")


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_fails(kernel):
    assert kernel == "6.1"


@pytest.mark.skip(reason="no")
def test_skips():
    pass


class TestCase(unittest.TestCase):
    def test_errs(self):
        raise RuntimeError
"""
    )
    with_it, without = inner.run(*options, env=NOWHERE), inner.run("-p", "no:harness", *options, env=NOWHERE)
    assert plain_result(with_it) == plain_result(without)
    assert with_it.status == without.status


def test_collecting_boots_nothing(inner: Inner) -> None:
    inner.write(test_kernel="def test_it(guest): pass")
    result = inner.run("--collect-only", "-q", f"--kernel={KERNEL}", env={"PATH": "/nowhere"})  # where no QEMU is
    assert result.status == 0, result.out
    assert f"test_kernel.py::test_it[{KERNEL}]" in result.lines
    assert "harness:" not in result.out
    assert not inner.runs.exists()


NAMESPACE = """
import os

from company.helpers.numbers import double


def doubled_pid():
    return double(os.getpid()) % 2


def test_it(guest):
    assert guest.call(doubled_pid) == 0


def test_leaks(bpf):
    bpf.map("array", name="left").pin("/sys/fs/bpf/left")
"""


@pytest.mark.parametrize("way", ["rootdir", "importlib", "pyargs"])
def test_namespace_packages_and_a_root_elsewhere(inner: Inner, way: str, tmp_path: Path) -> None:
    tests, helpers = inner.folder / "src" / "company" / "tests", inner.folder / "src" / "company" / "helpers"
    tests.mkdir(parents=True)
    helpers.mkdir()
    (helpers / "numbers.py").write_text("def double(number):\n    return 2 * number\n")
    (tests / "test_it.py").write_text(NAMESPACE)
    options = {
        "rootdir": [f"--rootdir={tmp_path}", str(tests)],
        "importlib": ["--import-mode=importlib", str(tests)],
        "pyargs": [
            "--import-mode=importlib",
            "-o",
            "consider_namespace_packages=true",
            "--pyargs",
            "company.tests.test_it",
        ],
    }[way]
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", *options, env={"PYTHONPATH": str(inner.folder / "src")})
    assert result.last.strip("= ").startswith("1 failed, 1 passed in"), result.out
    assert re.search(r"made at \S*test_it\.py:\d+ in test_leaks", result.out), result.out
