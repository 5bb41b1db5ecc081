"""What all tests share."""

from __future__ import annotations

import signal

# A shell starts what runs in the background with interrupts ignored, and every program below inherits that; tests of
# what an interrupt does would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
