"""The user's side of a prompt in a guest: line editing, history, completion, and Ctrl-C."""

from __future__ import annotations

import code
import contextlib
import importlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from harness.remote.prompt import Prompt
from harness.util import cache

_POLL_SECONDS = 0.5
_HISTORY_LINES = 1000


def interact(prompt: Prompt) -> int:
    """Read, run and print until the user leaves, or until the pipe ends.

    Returns:
        The exit status: from a pipe, 1 when something raised.
    """
    terminal = sys.stdin.isatty()
    console = _Console(prompt, terminal=terminal)
    with _line_editing(prompt) if terminal else contextlib.nullcontext(), contextlib.suppress(_Left):
        console.interact(banner=prompt.greeting if terminal else "", exitmsg="")
    return 1 if console.raised and not terminal else 0


class _Left(Exception):
    """The user typed a command to leave."""


class _Console(code.InteractiveConsole):
    """Python's own prompt, which sends its input to the guest to run it."""

    def __init__(self, prompt: Prompt, *, terminal: bool) -> None:
        super().__init__()
        self.raised = False
        self._prompt = prompt
        self._terminal = terminal

    def raw_input(self, prompt: str = "") -> str:
        """Read one line; no prompt is shown to a pipe."""
        if not self._terminal:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line.rstrip("\n")
        return input(f"{self._prompt.release} >>> " if prompt == getattr(sys, "ps1", ">>> ") else "... ")

    def runsource(self, source: str, filename: str = "<input>", symbol: str = "single") -> bool:
        """Run one input, if it is complete; return whether more lines are needed."""
        if source.startswith("!"):
            try:
                words = shlex.split(source[1:])
            except ValueError as error:
                self.write(f"{source}: {error}\n")
                return False
            if words:
                self._send("command", words)
            return False
        try:
            if self.compile(source, filename, symbol) is None:
                return True
        except (OverflowError, SyntaxError, ValueError):
            self.raised = True
            self.showsyntaxerror(filename)
            return False
        if source.strip():
            self._send("run", source)
        return False

    def _send(self, kind: str, value: Any) -> None:
        self._prompt.begin(kind, value)
        answer = None
        while answer is None:
            try:
                answer = self._prompt.poll(_POLL_SECONDS)
            except KeyboardInterrupt:
                self._prompt.interrupt()
        sys.stdout.write(answer.stdout)
        sys.stdout.flush()
        sys.stderr.write(answer.stderr)
        sys.stderr.flush()
        self.raised = self.raised or answer.raised
        if answer.leave:
            raise _Left


@contextlib.contextmanager
def _line_editing(prompt: Prompt) -> Iterator[None]:
    try:
        readline: Any = importlib.import_module("readline")
    except ImportError:
        yield  # a Python built without readline reads plain lines
        return
    history = cache.cache_root() / "prompt_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    found: list[str] = []

    def complete(text: str, number: int) -> str | None:
        if not text:
            return "    " if number == 0 else None
        if number == 0:
            found[:] = prompt.complete(text)
        return found[number] if number < len(found) else None

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        readline.set_history_length(_HISTORY_LINES)
        with contextlib.suppress(OSError):  # the cache may be read-only; a prompt works without a history
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
