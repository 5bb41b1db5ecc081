"""Results of foreign test programs, read from what they print.

Pure: text in, cases out. What a program began and did not end, and a plan that it did not meet, are results too.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from harness.errors import UsageError
from harness.results.outcomes import Outcome


@dataclass(frozen=True)
class Case:
    """One test of a foreign program.

    Attributes:
        name: Its name, whole: subtests have those of the tests above them before a "/".
        outcome: PASSED, FAILED, UNSUPPORTED when it was skipped, XFAILED when its failure was expected.
        seconds: How long it took; 0 where the program does not say.
        reason: Why, in one line: a failure's first line, a skip's reason, or that the program ended in it.
        output: What was printed for it.
    """

    name: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    output: str = ""


@dataclass(frozen=True)
class SuiteResult:
    """What a program said of its tests.

    Attributes:
        cases: The tests, in the order in which they ended.
        problems: What is wrong with it as a whole, such as a plan that was not met.
    """

    cases: tuple[Case, ...]
    problems: tuple[str, ...] = ()


UNFINISHED = "the program ended before this test did"

_SECONDS = r"\((?P<seconds>[\d.]+)s\)"
_GO_RUN = re.compile(r"^\s*=== (?:RUN|CONT|PAUSE|NAME)\s+(?P<name>\S+)")
_GO_END = re.compile(rf"^\s*--- (?P<word>PASS|FAIL|SKIP): (?P<name>\S+) {_SECONDS}")
_GO_WORDS = {"PASS": Outcome.PASSED, "FAIL": Outcome.FAILED, "SKIP": Outcome.UNSUPPORTED}


def parse_go(text: str) -> SuiteResult:
    """Read what a Go test binary prints with -test.v, or `go test -json`."""
    if text.lstrip().startswith("{"):
        text = "".join(_go_events(text))
    cases: dict[str, Case] = {}
    open_now: dict[str, list[str]] = {}
    current: str | None = None
    ended: str | None = None
    for line in text.splitlines():
        if match := _GO_RUN.match(line):
            current, ended = match["name"], None
            open_now.setdefault(current, [])
        elif match := _GO_END.match(line):
            name = ended = match["name"]
            printed = open_now.pop(name, [])
            outcome = _GO_WORDS[match["word"]]
            cases[name] = Case(name, outcome, float(match["seconds"]), "", "\n".join(printed))
            current = None
        elif current is not None:
            open_now[current].append(line)
        elif ended is not None and line.startswith(" "):
            # Without -test.v a failed test's output follows its last line.
            cases[ended] = replace(cases[ended], output="\n".join(filter(None, [cases[ended].output, line])))
        else:
            ended = None
    found = [replace(case, reason=_go_reason(case)) for case in cases.values()]
    found += [Case(name, Outcome.FAILED, 0.0, UNFINISHED, "\n".join(printed)) for name, printed in open_now.items()]
    return SuiteResult(tuple(found))


def _go_events(text: str) -> Iterator[str]:
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            yield f"{line}\n"  # what the program printed beside
            continue
        if isinstance(event, dict) and event.get("Action") == "output":
            yield str(event.get("Output", ""))


def _go_reason(case: Case) -> str:
    if case.outcome is Outcome.PASSED:
        return ""
    said = [match[1] for match in re.finditer(r"^\s*\S+\.go:\d+: (.*)", case.output, re.MULTILINE)]
    return said[0] if said else ""


_RUST_END = re.compile(
    r"^test (?P<name>.+?)(?: - should panic)? \.\.\. .*(?P<word>ok|FAILED|ignored)"
    r"(?:, (?P<why>.*?))?(?: <(?P<seconds>[\d.]+)s>)?$"
)
_RUST_BEGIN = re.compile(r"^test (?P<name>.+?)(?: - should panic)? \.\.\. ")
_RUST_PLAN = re.compile(r"^running (\d+) tests?$", re.MULTILINE)
_RUST_WORDS = {"ok": Outcome.PASSED, "FAILED": Outcome.FAILED, "ignored": Outcome.UNSUPPORTED}
_RUST_OUTPUT = re.compile(r"^---- (?P<name>.+) stdout ----$")


def parse_libtest(text: str) -> SuiteResult:
    """Read what a Rust test binary prints in its default format."""
    cases: dict[str, Case] = {}
    begun = ""
    printed: dict[str, list[str]] = {}
    shown: str | None = None
    for line in text.splitlines():
        if match := _RUST_OUTPUT.match(line):
            shown = match["name"]
            printed[shown] = []
        elif shown is not None and line not in ("failures:", "") and not line.startswith("test result:"):
            printed[shown].append(line)
        elif match := _RUST_END.match(line):
            cases[match["name"]] = Case(
                match["name"], _RUST_WORDS[match["word"]], float(match["seconds"] or 0), match["why"] or ""
            )
            begun = ""
        elif match := _RUST_BEGIN.match(line):
            begun = match["name"]  # printed before the test runs, with one thread
        elif line == "failures:":
            shown = None
    for name, lines in printed.items():
        if name in cases:
            said = next((one for one in lines if "panicked at" not in one and one.strip()), "")
            cases[name] = replace(cases[name], output="\n".join(lines), reason=cases[name].reason or said)
    found = list(cases.values())
    if begun:
        found.append(Case(begun, Outcome.FAILED, 0.0, UNFINISHED))
    planned = sum(int(count) for count in _RUST_PLAN.findall(text))
    return SuiteResult(tuple(found), _unmet(planned, len(found)))


_GTEST = re.compile(r"^\[ *(?P<word>RUN|OK|FAILED|SKIPPED) *\] (?P<name>[^\s,]+)(?:.*\((?P<ms>\d+) ms\))?")
_GTEST_PLAN = re.compile(r"^\[==========\] Running (\d+) tests? from", re.MULTILINE)


def parse_gtest(text: str) -> SuiteResult:
    """Read what a googletest program prints."""
    cases: list[Case] = []
    running: str | None = None
    printed: list[str] = []
    for line in text.splitlines():
        match = _GTEST.match(line)
        if match is None:
            printed.append(line)
        elif match["word"] == "RUN":
            running, printed = match["name"], []
        elif running is not None and running == match["name"]:
            outcome = {"OK": Outcome.PASSED, "FAILED": Outcome.FAILED}.get(match["word"], Outcome.UNSUPPORTED)
            reason = "" if outcome is Outcome.PASSED else next((one.strip() for one in printed if one.strip()), "")
            cases.append(Case(running, outcome, int(match["ms"] or 0) / 1000, reason, "\n".join(printed)))
            running = None
        # The summary at the end names failed tests again.
    if running is not None:
        cases.append(Case(running, Outcome.FAILED, 0.0, UNFINISHED, "\n".join(printed)))
    planned = sum(int(count) for count in _GTEST_PLAN.findall(text))
    return SuiteResult(tuple(cases), _unmet(planned, len(cases)))


_TAP_POINT = re.compile(
    r"^(?P<not>not )?ok\b(?:\s+(?P<number>\d+))?(?:\s*-)?\s*(?P<name>[^#]*?)\s*(?:#\s*(?P<said>.*))?$"
)
_TAP_PLAN = re.compile(r"^1\.\.(?P<count>\d+)(?:\s*#\s*(?P<why>.*))?$")
_TAP_LINE = re.compile(r"^(?:# | )*(?:(?:not )?ok\b|1\.\.\d+)")
_TAP_LATE = re.compile(r"^(?P<before>(?!#|not ok\b|ok\b).*?[^\w\s])(?P<point>(?:not )?ok (?P<number>\d+) .*)$")
_TAP_WORD = re.compile(r"^(?P<word>SKIP|TODO|XFAIL)\S*\s*(?P<why>.*)$", re.IGNORECASE)


def parse_tap(text: str) -> SuiteResult:
    """Read TAP 12 to 14 and the kernel's KTAP, nested to any depth.

    Subtests come before the point of the test above them: indented, or behind "# " as kselftest prints them.
    """
    levels = [_Level()]
    problems: list[str] = []
    said: list[str] = []
    lines = text.expandtabs(4).splitlines()
    unit = _tap_unit(lines)
    for line in lines:
        depth, content = _tap_depth(line, unit)
        if (match := _TAP_LATE.match(content)) and int(match["number"]) == levels[0].points + 1:
            # What the test printed before had no end of line.
            said.append(match["before"])
            depth, content = 0, match["point"]
        point, plan = _TAP_POINT.match(content), _TAP_PLAN.match(content)
        if content.startswith("Bail out!"):
            problems.append(content)
        if point is None and plan is None:
            if content and not content.startswith(("TAP version", "KTAP version")):
                said.append(content)
            continue
        while len(levels) <= depth:
            levels.append(_Level())
        if plan is not None:
            levels[depth].planned = int(plan["count"])
        elif point is not None:
            case = _tap_case(point, "\n".join(said))
            said = []
            for below in levels[depth + 1 :]:
                problems += [f"{case.name}: {one}" for one in _unmet(below.planned, below.points)]
                levels[depth].cases += [replace(one, name=f"{case.name}/{one.name}") for one in below.cases]
            del levels[depth + 1 :]
            levels[depth].cases.append(case)
            levels[depth].points += 1
    problems += [one for level in levels for one in _unmet(level.planned, level.points)]
    return SuiteResult(tuple(case for level in levels for case in level.cases), tuple(problems))


@dataclass
class _Level:
    """The points of one depth that wait for the point above them."""

    cases: list[Case] = field(default_factory=list)
    planned: int = 0
    points: int = 0


def _tap_unit(lines: list[str]) -> int:
    """Return how many blanks indent by one level: four in TAP 14, two in KTAP."""
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if _TAP_LINE.match(line)]
    return min((indent for indent in indents if indent), default=4)


def _tap_depth(line: str, unit: int) -> tuple[int, str]:
    """Return how deep a line is, and the line without what says so."""
    depth, rest = 0, line
    while _TAP_LINE.match(rest):
        if rest.startswith("# "):
            rest = rest[2:]
        elif rest.startswith(" " * unit):
            rest = rest[unit:]
        else:
            break
        depth += 1
    return depth, rest


def _tap_case(point: re.Match[str], printed: str) -> Case:
    name = point["name"] or point["number"] or "unnamed"
    failed = point["not"] is not None
    outcome = Outcome.FAILED if failed else Outcome.PASSED
    reason = ""
    if point["said"] and (word := _TAP_WORD.match(point["said"])):
        reason = word["why"]
        if word["word"].upper() == "SKIP":
            outcome = Outcome.UNSUPPORTED
        elif failed:
            outcome = Outcome.XFAILED
    elif failed:
        reason = point["said"] or next(iter(printed.splitlines()), "").lstrip("# ")
    return Case(name, outcome, 0.0, reason, printed)


_BPF = re.compile(r"^#(?P<number>\d+(?:/\w+)?)\s+(?P<name>\S.*?)(?P<mark>[ :])(?P<word>OK|FAIL|SKIP)\b(?P<why>.*)$")
"""A blank stands before the result in test_verifier, which prints the details after it; a colon in test_progs."""
_BPF_AGAIN = "\nAll error logs:\n"
"""Where test_progs repeats what the tests that failed have printed."""
_BPF_BEGIN = re.compile(r"^#\d+/(?P<part>[up]) (?P<name>\S.*?)(?: Failed to load BTF spec: .*)?$")
"""A test of test_verifier that has not ended; it also prints in the middle of a line that its types were refused."""
_BPF_END = re.compile(
    r"^Summary: (?P<passed>\d+)(?P<parts>/\d+)? PASSED, (?P<skipped>\d+) SKIPPED, (?P<failed>\d+) FAILED", re.MULTILINE
)
_BPF_USERS = {"u": "unprivileged", "p": "privileged"}
"""The user that test_verifier loads a program as."""
_BPF_WORDS = {"OK": Outcome.PASSED, "FAIL": Outcome.FAILED, "SKIP": Outcome.UNSUPPORTED}


def parse_bpf(text: str) -> SuiteResult:
    """Read what the kernel's own BPF tests print, test_verifier and test_progs; others have no case here."""
    cases: list[Case] = []
    parts: list[int] = []
    begun: str | None = None
    printed: list[str] = []

    def close() -> None:
        if cases and cases[-1].outcome is Outcome.FAILED and printed and not cases[-1].output:
            reason = cases[-1].reason or next((one.strip() for one in printed if one.strip()), "")
            cases[-1] = replace(cases[-1], reason=reason, output="\n".join(printed))
        printed.clear()

    first, _, _again = text.partition(_BPF_AGAIN)
    for line in first.splitlines():
        if match := _BPF.match(line):
            before: list[str] = []
            if match["mark"] == ":":
                before, printed = printed, before
            close()
            begun = None
            _, _, part = match["number"].partition("/")
            name = match["name"]
            if part in _BPF_USERS:
                name = f"{name} ({_BPF_USERS[part]})"
            elif part:
                parts.append(len(cases))
            else:
                for index in parts:  # old test_progs leave the name of the test above out
                    if not cases[index].name.startswith(f"{name}/"):
                        cases[index] = replace(cases[index], name=f"{name}/{cases[index].name}")
                parts = []
            outcome, why = _BPF_WORDS[match["word"]], match["why"].strip(" :()")
            if outcome is Outcome.FAILED:
                why = why or next((one for one in before if ":FAIL:" in one), "")
            cases.append(Case(name, outcome, 0.0, why, "\n".join(before) if outcome is Outcome.FAILED else ""))
        elif match := _BPF_BEGIN.match(line):
            close()
            begun = f"{match['name'].strip()} ({_BPF_USERS[match['part']]})"
        elif begun is not None and line in _BPF_WORDS:
            cases.append(Case(begun, _BPF_WORDS[line]))
            begun = None
        elif match := _BPF_END.match(line):
            close()
        else:
            printed.append(line)
    close()
    end = _BPF_END.search(text)
    if begun is not None:
        cases.append(Case(begun, Outcome.FAILED, 0.0, UNFINISHED))
    if not cases:
        return SuiteResult(())
    if end is None:
        return SuiteResult(tuple(cases), ("the program ended before its summary",))
    planned = 0 if end["parts"] else sum(int(end[name]) for name in ("passed", "skipped", "failed"))
    return SuiteResult(tuple(cases), _unmet(planned, len(cases)))


def parse_junit(text: str) -> SuiteResult:
    """Read JUnit XML.

    Raises:
        UsageError: It is not XML.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314 - entities are not expanded beyond expat's own limits
    except ET.ParseError as error:
        raise UsageError(f"the results are not JUnit XML: {error}", expected="one XML document") from None
    cases = []
    for element in root.iter("testcase"):
        name = ".".join(filter(None, [element.get("classname"), element.get("name", "unnamed")]))
        outcome, reason, output = Outcome.PASSED, "", ""
        for child in element:
            if child.tag in ("failure", "error"):
                outcome = Outcome.FAILED
            elif child.tag == "skipped":
                outcome = Outcome.UNSUPPORTED
            else:
                continue
            reason, output = (child.get("message") or "").split("\n")[0], child.text or ""
        cases.append(Case(name, outcome, _number(element.get("time")), reason, output))
    return SuiteResult(tuple(cases))


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _unmet(planned: int, found: int) -> tuple[str, ...]:
    return () if not planned or planned == found else (f"{planned} tests were planned, {found} have a result",)


PARSERS: dict[str, Callable[[str], SuiteResult]] = {
    "go": parse_go,
    "libtest": parse_libtest,
    "gtest": parse_gtest,
    "tap": parse_tap,
    "bpf": parse_bpf,
    "junit": parse_junit,
}
"""The parser of each format, by the name that --results takes."""
