"""What a soak calls good, and what it does after pytest has ended too early."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.soak import __main__ as soak


def line(turn: int, *kinds: str, rss: int = 1000, descriptors: int = 10) -> str:
    return json.dumps({"turn": turn, "kinds": list(kinds), "rss": rss, "descriptors": descriptors}) + "\n"


class Pytest:
    """Ends as the test says, in place of pytest: each time with these lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *runs: str) -> None:
        self.runs = list(runs)
        self.turns: list[str] = []
        start = subprocess.Popen

        def instead(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
            words = dict(word.split("=", 1) for word in argv if word.startswith("--soak"))
            self.turns.append(words["--soak-turns"])
            Path(words["--soak-lines"]).write_text(self.runs.pop(0))
            return start([sys.executable, "-c", "print('killed')"], **options)

        monkeypatch.setattr(subprocess, "Popen", instead)
        monkeypatch.setattr(soak, "_POLL", 0.01)


def run(wanted: int) -> soak.Part:
    part = soak.Part("6.1", "vm", wanted)
    soak.Soak([part], every=1000).run()
    return part


def test_a_run_without_a_loss_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    Pytest(monkeypatch, line(0) + line(1))
    part = run(2)
    assert part.is_good
    assert "| 6.1 | vm | 2 of 2 | 0 | 0 |" in "\n".join(soak.table([part]))


def test_it_goes_on_after_the_test_in_which_pytest_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Pytest(monkeypatch, line(0), line(2, "infrastructure") + '{"turn": 3, "ki', line(4))
    part = run(5)
    assert inner.turns == ["0:5", "2:5", "4:5"]
    assert (part.done, part.failures, len(part.restarts)) == (3, {"infrastructure": 1}, 2)
    assert part.restarts[0] == "status 0 at turn 1: killed"
    assert not part.is_good


def test_it_gives_up_where_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Pytest(monkeypatch, *[""] * 9)
    assert run(100).done == 0
    assert len(inner.turns) == 3


def test_the_report_is_written_with_what_was_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Pytest(monkeypatch, line(1999), line(0, "infrastructure") + line(1))
    report = tmp_path / "report.json"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # it is set anew, and is as before afterwards
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["soak", "--tests", "2", "--boots", "0", "--report", str(report)])
    assert soak.main() == 1
    _, part = json.loads(report.read_text())["parts"]
    assert (part["done"], part["failures"]) == (2, {"infrastructure": 1})


@pytest.mark.parametrize(
    ("name", "most", "good"), [("rss", 1099, True), ("rss", 1101, False), ("descriptors", 12, False)]
)
def test_growth_after_the_first_tests_is_not_good(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int, good: bool
) -> None:
    facts: dict[str, Any] = {name: most}
    Pytest(monkeypatch, line(0) + line(1) + line(2, **facts) + line(3))
    assert run(4).is_good == good


def test_what_pytest_itself_keeps_of_each_test_is_no_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SETTLED", 1)
    Pytest(monkeypatch, line(0) + line(10, rss=1200) * 2, line(0) + line(1, rss=1201), line(0) + line(1, rss=1199))
    plain, grows, is_flat = soak.Part("none", "none", 3), soak.Part("6.1", "vm", 2), soak.Part("6.12", "vm", 2)
    soak.Soak([plain, grows, is_flat], every=1000).run()
    assert plain.growth == 100
    assert (grows.grew, is_flat.grew) == (True, False)
