"""The guest as a test sees it: functions run there, each in a process of its own.

Imports the machine below it, the packing of functions beside it, :mod:`harness.errors`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.errors import GuestCallError, GuestProcessDied
from harness.remote import ship
from harness.vm.machine import GuestProcess, Machine

T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """What a function printed in the guest.

    Attributes:
        function: Its name.
        stdout: Standard output.
        stderr: Standard error.
    """

    function: str
    stdout: str
    stderr: str


class Guest:
    """The machine a test runs on.

    Attributes:
        outputs: What the functions called so far have printed.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._process: GuestProcess | None = None
        self.outputs: list[Output] = []

    @property
    def release(self) -> str:
        """What `uname -r` prints in the guest."""
        return self._machine.release

    @property
    def process(self) -> GuestProcess:
        """The guest process of this test; its file descriptors live as long as the test."""
        if self._process is None:
            self._process = self._machine.new_process()
        return self._process

    def call(self, function: Callable[..., T], *arguments: Any, timeout: float = 60.0, **keywords: Any) -> T:
        """Run a plain Python function in a fresh guest process and return what it returns.

        Args:
            function: A function at the top level of its module. It may use modules of the standard library,
                harness.guest.bpf, other such functions and plain values of its module.
            *arguments: Plain values.
            timeout: Seconds.
            **keywords: Plain values.

        Raises:
            UsageError: The function, or something that it uses, cannot cross to the guest.
            GuestCallError: It raised; the guest's traceback is in the message.
            GuestProcessDied: Its process ended.
            KernelCrashed: The kernel panicked meanwhile.
            GuestHung: No answer in time.
        """
        shipment = ship.pack(function)
        process = self._machine.new_process()
        try:
            value: T = process.call(
                "function",
                *(shipment.code, shipment.names, shipment.imports, arguments, keywords),
                timeout=timeout,
                shown=f"{function.__name__}()",
            )
            self._take_output(process, function.__name__)
        except GuestCallError:
            self._take_output(process, function.__name__)
            raise
        finally:
            process.close()
        return value

    def _take_output(self, process: GuestProcess, name: str) -> None:
        with contextlib.suppress(GuestProcessDied):  # it was killed: what it printed went with it
            printed = process.call("output", timeout=10.0)
            if any(printed.values()):
                texts = (printed[stream].decode(errors="replace") for stream in ("stdout", "stderr"))
                self.outputs.append(Output(name, *texts))

    def kernel_log(self) -> list[bytes]:
        """Return the kernel's log records since the last call, as /dev/kmsg gives them."""
        return self._machine.ask_agent("kernel_log")  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the guest process of this test."""
        if self._process is not None:
            self._process.close()
