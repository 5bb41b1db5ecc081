"""Programs compiled by bcc in the guest."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import UsageError
from harness.guest import calls
from harness.remote.command import BpfError, Commands
from harness.remote.map import Map
from harness.remote.objects import Program

_COMPILE_TIMEOUT = 300.0


class Bcc:
    """bcc in one guest process.

    Args:
        commands: The process's commands.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def compile(self, text: str, *, flags: Sequence[str] = ()) -> BccModule:
        """Compile a program in bcc's dialect of C and make its maps.

        Args:
            text: The source.
            flags: Options for clang.

        Raises:
            BpfError: It does not compile, or the kernel refused a map; the error's log has the messages.
        """
        answer = self._commands.process.ask_within(_COMPILE_TIMEOUT, calls.Bcc.compile_text, text, list(flags))
        handle, said, maps, functions = answer
        if not handle:
            raise BpfError(22, "bcc.BPF", {"text": text}, log=said)
        found = {
            name: Map(self._commands, about["fd"], about["type"], about["key_size"], about["value_size"])
            for name, about in maps.items()
        }
        return BccModule(self._commands, handle, said, found, tuple(functions))


class BccModule:
    """A compiled program; it exists as long as the guest process.

    Attributes:
        messages: The compiler's messages.
        maps: Its maps, by name.
        functions: Names of its functions.
    """

    def __init__(
        self, commands: Commands, handle: int, messages: str, maps: dict[str, Map], functions: tuple[str, ...]
    ) -> None:
        self._commands = commands
        self._handle = handle
        self.messages = messages
        self.maps = maps
        self.functions = functions

    def prog(self, name: str, type: str) -> Program:  # noqa: A002 - the field's name
        """Load a function as a program of this type.

        Raises:
            UsageError: There is no such function.
            BpfError: The kernel refused it; the error's log is the verifier's.
        """
        if name not in self.functions:
            raise UsageError(f"there is no function {name!r}", expected=f"one of {', '.join(self.functions)}")
        errno, fd, log = self._commands.process.ask(calls.Bcc.load_function, self._handle, name, type)
        if errno:
            raise BpfError(errno, "bcc_func_load", {"name": name, "type": type}, log=log.decode(errors="replace"))
        return Program(self._commands, fd, type)
