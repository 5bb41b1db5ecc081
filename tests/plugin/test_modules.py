"""The marker's modules: what cannot be loaded is one clear error, and never a failed test."""

from __future__ import annotations

import pytest

from tests.plugin.inner import KERNEL, Inner

TESTS = """
import pytest


@pytest.mark.vm(modules=["no-such-module"])
def test_absent(guest):
    pass


def loaded():
    with open("/proc/modules") as file:
        return file.read()


@pytest.mark.vm(modules=["dummy"])
def test_present(guest):
    assert guest.call(loaded).startswith("dummy ")
"""


def test_a_module_that_the_kernel_lacks_is_an_error_of_that_test_alone(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}")
    assert result.status == pytest.ExitCode.TESTS_FAILED
    assert "1 passed, 1 error" in result.out
    assert "SelectorError: the kernel 6.1 (6.1." in result.out
    assert "has no module 'no_such_module'" in result.out
    assert "Traceback" not in result.out


@pytest.mark.parametrize("value", ["'veth'", "['veth', 1]"])
def test_modules_that_are_no_list_of_words_are_refused(inner: Inner, value: str) -> None:
    inner.write(test_it=TESTS.replace("['no-such-module']", value).replace('["no-such-module"]', value))
    result = inner.run(f"--kernel={KERNEL}", "-k", "absent")
    assert "modules of the marker vm is a list of words" in result.out
    assert "INTERNALERROR" not in result.out
    assert result.status != 0
