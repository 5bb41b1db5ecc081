"""The markers kernel and requires, as a user's own test files meet them; no kernel is booted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from harness.kernel.catalog import Catalog

pytest_plugins = ["pytester"]

CONFTEST = """
from harness.kernel.catalog import Catalog
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion

VERSIONS = ("5.10.262", "6.1.192", "6.12.1")

def resolve(catalog, selectors):
    return [Choice(text, KernelVersion.parse(text), "fake", text, "cloud") for text in VERSIONS]

Catalog.resolve = resolve
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo, after each test, what the inner run does to this process."""
    monkeypatch.setattr(Catalog, "resolve", Catalog.resolve)
    yield
    # pytester forgets the modules that the inner run has imported. The packages' names for them must go too, or later
    # tests change one module and run the code of another.
    for name, package in list(sys.modules.items()):
        if name.partition(".")[0] == "harness":
            for part, module in list(vars(package).items()):
                if isinstance(module, ModuleType) and module.__name__ == f"{name}.{part}" not in sys.modules:
                    delattr(package, part)


def collected(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(f"import pytest\n\n{body}")
    return pytester.runpytest_inprocess("--collect-only", "-q", *options)


EXPECTED = {
    "": ["5.10.262", "6.1.192", "6.12.1"],
    "@pytest.mark.kernel('>=5.11')": ["6.1.192", "6.12.1"],
    "@pytest.mark.kernel('>=6.1')": ["6.1.192", "6.12.1"],
    "@pytest.mark.kernel('<=6.1')": ["5.10.262", "6.1.192"],
    "@pytest.mark.kernel('<6.1')": ["5.10.262"],
    "@pytest.mark.kernel('>=6.1.193')": ["6.12.1"],
    "@pytest.mark.kernel('>=5.11,<6.12')": ["6.1.192"],
    "@pytest.mark.kernel('!=6.1')": ["5.10.262", "6.12.1"],
    "@pytest.mark.kernel('5.10', '6.12')": ["5.10.262", "6.12.1"],
    "@pytest.mark.kernel('>=5.11')\n@pytest.mark.kernel('<6.12')": ["6.1.192"],
    "@pytest.mark.kernel('lts')": ["5.10.262", "6.1.192", "6.12.1"],
}


def test_a_test_is_deselected_on_kernels_that_its_marker_excludes(pytester: pytest.Pytester) -> None:
    body = "\n".join(f"{marks}\ndef test_{n}(kernel_choice): pass" for n, marks in enumerate(EXPECTED))
    result = collected(pytester, body)
    found: dict[str, list[str]] = {marks: [] for marks in EXPECTED}
    for line in result.outlines:
        if "::test_" in line:
            number, _, kernel = line.partition("::test_")[2].removesuffix("]").partition("[")
            found[list(EXPECTED)[int(number)]].append(kernel)
    assert {marks: sorted(kernels) for marks, kernels in found.items()} == EXPECTED
    left_out = sum(3 - len(kernels) for kernels in EXPECTED.values())
    result.stdout.fnmatch_lines([f"*{left_out} deselected*"])


def test_a_test_that_no_kernel_can_run_is_named(pytester: pytest.Pytester) -> None:
    body = """
@pytest.mark.kernel('>=7.0')
@pytest.mark.parametrize('way', ['a', 'b'])
def test_new(kernel_choice, way): pass

@pytest.mark.kernel('>=6.12')
def test_some(kernel_choice): pass
"""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(f"import pytest\n\n{body}")
    for options in ((), ("-n", "1")):
        result = pytester.runpytest_inprocess(*options)
        result.stdout.fnmatch_lines(["*run on none of the selected kernels*", "*::test_new?a?: is for kernels >=7.0"])
        result.stdout.no_fnmatch_line("*test_some*is for kernels*")
        assert result.ret == 0


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("@pytest.mark.kernel('>=x')\ndef test_it(kernel_choice): pass", "*is not a kernel selector*"),
        ("@pytest.mark.kernel('newest')\ndef test_it(kernel_choice): pass", "*says nothing about a kernel's version*"),
        ("@pytest.mark.kernel(5)\ndef test_it(kernel_choice): pass", "*takes conditions*"),
        ("@pytest.mark.requires('batch_op')\ndef test_it(vm): pass", "*did you mean 'batch_ops'*"),
        ("@pytest.mark.requires\ndef test_it(vm): pass", "*takes names of capabilities*"),
        ("@pytest.mark.requires('btf')\ndef test_it(kernel_choice): pass", "*for tests that use a guest's fixtures*"),
        ("@pytest.mark.harness_kernel(5)\ndef test_it(kernel_choice): pass", "*takes conditions*"),
    ],
)
def test_a_marker_that_cannot_be_meant_is_an_error_that_names_the_test(
    pytester: pytest.Pytester, body: str, complaint: str
) -> None:
    result = collected(pytester, body)
    assert "::test_it" in result.stdout.str()
    result.stdout.fnmatch_lines([complaint])
    assert result.ret == pytest.ExitCode.INTERRUPTED
