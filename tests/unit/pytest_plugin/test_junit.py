"""JUnit's file after a run: who is to blame decides between error and failure."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from harness.pytest_plugin import junit
from harness.results import properties

CASE = '<testcase name="{name}"><properties>{properties}</properties>{body}</testcase>'


def case(name: str, body: str, *found: tuple[str, str]) -> str:
    lines = "".join(f'<property name="{key}" value="{value}"/>' for key, value in found)
    return CASE.format(name=name, properties=lines, body=body)


def corrected(*cases: str) -> dict[str, list[str]]:
    suite = ET.fromstring(f'<testsuite errors="9" failures="9" skipped="9" tests="9">{"".join(cases)}</testsuite>')
    assert junit._corrected(suite)
    found = {str(one.get("name")): [part.tag for part in one if part.tag != "properties"] for one in suite}
    tags = [tag for parts in found.values() for tag in parts]
    counts = tuple(int(suite.attrib[name]) for name in ("errors", "failures", "skipped", "tests"))
    assert counts == (tags.count("error"), tags.count("failure"), tags.count("skipped"), len(found))
    return found


@pytest.mark.parametrize(
    ("troubles", "tag"),
    [
        (["infrastructure"], "error"),
        (["crashed", "infrastructure"], "error"),
        (["crashed"], "failure"),
        (["hung"], "failure"),
        (["protocol"], "failure"),
        (["leak", "fault"], "failure"),
    ],
)
def test_the_trouble_decides_whatever_the_phase(troubles: list[str], tag: str) -> None:
    named = [(properties.TROUBLE, word) for word in troubles]
    other = "failure" if tag == "error" else "error"
    found = corrected(case("call", f"<{other}/>", *named), case("all right", ""), case("skipped", "<skipped/>"))
    assert found == {"call": [tag], "all right": [], "skipped": ["skipped"]}


def test_a_lost_attempt_is_no_case() -> None:
    retried = case("a", "", (properties.RETRIED, "QEMU was killed"))
    assert corrected(case("b", "", (properties.LOST, "QEMU was killed")), retried) == {"a": []}


def test_errors_and_failures_of_a_project_stay_as_they_are() -> None:
    suite = ET.fromstring(
        f"<testsuite>{case('a', '<error/>')}{case('b', '<failure/>', ('trouble', 'my own'))}</testsuite>"
    )
    assert not junit._corrected(suite)
    assert [[part.tag for part in one][1:] for one in suite] == [["error"], ["failure"]]
