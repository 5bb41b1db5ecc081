"""Interruptions of a process, which Python must not lose.

A signal's handler runs between any two instructions of the main thread. Where these belong to a finaliser that the
garbage collector called, Python gives the exception that the handler raises to `sys.unraisablehook` and goes on: the
process works on as if nobody had asked it to end. Such a signal is sent again here, a moment later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

_PAUSE = 0.05
"""Seconds after which a finaliser has probably ended."""


def heed(termination: BaseException) -> Callable[[], None]:
    """Let SIGTERM raise an exception, and lose neither it nor the KeyboardInterrupt of Ctrl-C.

    A second SIGTERM ends the process at once. To be called in the main thread.

    Returns:
        A function that restores what was before.
    """

    def terminate(number: int, frame: object) -> None:  # noqa: ARG001 - the signature of a signal handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise termination

    def send_again(lost: sys.UnraisableHookArgs) -> None:
        number = signal.SIGINT
        if lost.exc_value is termination:
            number = signal.SIGTERM
            signal.signal(number, terminate)
        elif not isinstance(lost.exc_value, KeyboardInterrupt):
            hook(lost)
            return
        threading.Timer(_PAUSE, os.kill, (os.getpid(), number)).start()

    def restore() -> None:
        signal.signal(signal.SIGTERM, handler)
        if sys.unraisablehook is send_again:
            sys.unraisablehook = hook

    handler = signal.signal(signal.SIGTERM, terminate)
    hook, sys.unraisablehook = sys.unraisablehook, send_again
    return restore
