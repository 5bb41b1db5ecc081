"""Phrases that a reader must read twice stay out of docstrings, comments, messages and docs (CONTRIBUTING, "Words")."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

BANNED = {
    r"can(not)? be had": "available, unavailable",
    r"whom": "another sentence",
    r"what (became|becomes|has become) of": "the outcome, the result",
    r"h[eo]lds? .{0,40}against": "compared with",
    r"told of|tells? of|(is|are|was|were|be|been) told": "reported, shows, asked",
    r"(?-i:Tells?) (it|whether|what|the)": "Return, print, ... what is done",
    r"whoever": "the process or user that is meant",
    r"(?<!there )(is|are|was|were) no (?!longer\b|more\b|less\b|other\b|news\b)\w+": "is not a ...",
    r"as (seldom|often|little|much) as may be": "as ... as possible",
    r"(?-i:Imports) (the|only|nothing|what)": "nothing: the test of imports enforces it",
    r"(?<!\| )(aftermath|triage|kernellog|census)\b(?! \|)": "the words in CONTRIBUTING",
}
PATTERN = re.compile("|".join(rf"(?P<p{number}>\b{text}\b)" for number, text in enumerate(BANNED)), re.IGNORECASE)


def words(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the text of a file with its lines: strings and comments of a module, all lines of a document."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    literal = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in literal:
            yield from enumerate(token.string.splitlines(), token.start[0])


def complaints(path: Path) -> list[str]:
    found = []
    for line, text in words(path):
        for match in PATTERN.finditer(text):
            instead = list(BANNED.values())[int((match.lastgroup or "p0")[1:])]
            found.append(f"{path.name}:{line}: {match[0]!r}; write: {instead}")
    return found


def files() -> list[Path]:
    return [*(ROOT / "harness").rglob("*.py"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def test_what_people_read_is_in_plain_words() -> None:
    assert [line for path in files() for line in complaints(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        '"""The kernel cannot be had."""',
        "# asks whom to start",
        'x = "what became of the test"',
        'raise ValueError(f"{x!r} is no kernel")',
        '"""Holds the answer\nagainst it, and one held against another."""',
        '"""Pure. Imports the standard library."""',
        '"""Tell whether it has ended."""',
        '"""It is told to end."""',
    ],
)
def test_a_banned_phrase_is_seen(tmp_path: Path, text: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert len(complaints(path)) == 1


@pytest.mark.parametrize("text", ["is_no = told_of(whom)", '"""There is no kernel, and it is no longer there."""'])
def test_identifiers_and_plain_sentences_are_not(tmp_path: Path, text: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert complaints(path) == []


CALLS = ROOT / "harness/guest/calls.py"
"""Declares what parts of the guest answer; each declaration has the name of its part."""


def class_names(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    return [one.name for one in ast.walk(tree) if isinstance(one, ast.ClassDef) and not one.name.startswith("_")]


def test_the_name_of_a_class_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "harness").rglob("*.py")):
        for name in class_names(path) if path != CALLS else ():
            places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


GIVEN_UP = frozenset({"aftermath", "census", "fate", "kernellog", "ledger", "shelf", "shipment", "shipped", "triage"})
"""From the last column of the table in CONTRIBUTING."""


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def given_up(name: str) -> bool:
    return not GIVEN_UP.isdisjoint(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))


def test_names_are_not_of_words_that_were_given_up() -> None:
    files = sorted((ROOT / "harness").rglob("*.py"))
    found = [f"{path.name}: {name}" for path in files for name in names(ast.parse(path.read_text())) if given_up(name)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def ledger(self): ...", "ledger"),
        ("class KernelShelf: ...", "KernelShelf"),
        ("def f(a_fate): ...", "a_fate"),
        ("self.triage = 1", "triage"),
        ("MAX_LEDGER = 5", "MAX_LEDGER"),
    ],
)
def test_a_name_of_a_word_that_was_given_up_is_seen(text: str, found: str) -> None:
    assert [name for name in names(ast.parse(text)) if given_up(name)] == [found]
