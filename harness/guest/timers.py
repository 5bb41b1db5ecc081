"""The timer of each processor, which QEMU may have forgotten when a clone wakes up.

On powerpc the kernel runs an irq_work by setting the processor's timer, the decrementer (arch_irq_work_raise()); its
interrupt also runs what is overdue, and programs what is next (timer_interrupt()). A timer that a program sets does not
do it: the kernel believes that an earlier one is programmed. Nor does setting the clock on newer kernels: 6.1's
clock_was_set() interrupts other processors than the one that it runs on.

Runs in the guest.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from harness.guest.api import hooks, syscalls


def restart() -> None:
    """Raise an irq_work on each processor: a perf event of one page fault, which is disabled by it.

    Raises:
        OSError: The kernel has no perf events (CONFIG_PERF_EVENTS).
    """
    processors = os.sched_getaffinity(0)
    event = hooks.page_faults()
    try:
        for processor in processors:
            os.sched_setaffinity(0, [processor])
            fcntl.ioctl(event, syscalls.IOCTL["none"] | hooks.PERF_EVENT_IOC_REFRESH, 1)
            with mmap.mmap(-1, mmap.PAGESIZE) as page:
                page[0] = 1
    finally:
        os.sched_setaffinity(0, processors)
        os.close(event)
