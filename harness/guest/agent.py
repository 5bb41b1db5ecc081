"""The first process of the guest: sets up the machine, answers the host, keeps one process per test.

The host's requests are frames on a separate channel. The agent answers a few itself; all others carry the number of a
guest process, and the agent forwards them without decoding. A guest process is a fork of the agent with the loader
already imported. Spares are forked ahead, so that a test does not wait: several before the machine is saved, which
cost its clones nothing, and another whenever none is left. The agent judges nothing: it observes and reports.

Runs in the guest.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import struct
import time

from harness.guest import calls, children, interfaces, kernel_log, modules, process, setup, stacks, timers, wire
from harness.guest.api import libbpf, syscalls
from harness.guest.children import Child
from harness.guest.leaks import provenance, snapshot
from harness.guest.link import HostLink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

CLOCK_REALTIME = 0
RNDADDENTROPY, RNDRESEEDCRNG = 0x00085203, 0x5207
"""Numbers of ioctls, without the bits of syscalls.IOCTL."""
_ENTROPY = struct.Struct("ii")

_HELD_POLL_MS = 5
_IDLE_MS = 30
_LOOK_MS = 200
"""How often the agent looks at what its processes print; none prints more than the guest's memory within it."""
_PART = wire.frame(wire.REQUEST, wire.AGENT, 0, calls.request(calls.Process.part, ""))
_PART_WITHIN = 0.1
"""Seconds in which an idle process closes its descriptors."""
_NOTHING_PRINTED: calls.Printed = {"stdout": b"", "stderr": b""}
_SPARES = 3
"""Spare guest processes in a saved machine; almost all tests need no more."""

_COMMON = ("contextlib", "json", "pathlib", "pickle", "subprocess", "threading", "typing")
"""More modules that functions of tests use: imported before the machine is saved.

Otherwise each process that runs such a function would import them: pathlib takes 0.2 s in software emulation.
"""


class Agent:
    """Serves the host on one channel until the machine ends.

    Args:
        link: The channel.
        lean: Whether its memory is small enough to copy for each spare process.
    """

    def __init__(self, link: HostLink, *, lean: bool) -> None:
        self.link = link
        self.lean = lean
        # The test and the harness each have their own position in the log, so that each sees all records.
        self.log_of_tests, self.log_of_checks = (kernel_log.open_log() for _ in range(2))
        # Opened before the machine is saved: a clone pays for each piece of code that it runs first, including open().
        self.random = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        self.taint_flags = setup.open_taint_flags()
        self.children: dict[int, Child] = {}
        self.spares: list[Child] = []
        self.splitter = wire.Splitter()
        self.poll = select.poll()
        self.poll.register(link.fileno(), select.POLLIN)
        self.deaths = children.watch_deaths()
        self.poll.register(self.deaths, select.POLLIN)
        self.statuses: dict[int, int] = {}
        self.printed: dict[int, calls.Printed] = {}
        self.counts: snapshot.Baseline  # once the machine is ready
        self.records: list[provenance.Record] = []
        self.past: list[provenance.Record] = []
        self.held = self.polls = False

    def tainted(self) -> int:
        """Return the kernel's taint flags; 0 where it shows none (built without CONFIG_PROC_SYSCTL)."""
        return 0 if self.taint_flags is None else int(os.pread(self.taint_flags, 32, 0))

    def send(self, kind: int, number: int, tag: int, value: object) -> None:
        """Send one frame to the host."""
        self.link.send(wire.frame(kind, number, tag, value))

    def serve(self) -> NoReturn:
        """Answer the host as long as the machine runs."""
        while True:
            if self.held:
                # A clone wakes up here, with fresh shared memory that may contain its first request. Bytes that were
                # on the way over the serial port are lost. Where it cannot poll, what wakes it comes over the port,
                # after the clone has started.
                events = self.poll.poll(_HELD_POLL_MS if self.polls else None)
                for frame in self.splitter.feed(self.link.poll()):
                    self.held = False
                    self._route(*frame)
            else:
                # Fork a spare when there is nothing else to do; look at what processes print while they run.
                events = self.poll.poll(
                    _LOOK_MS if self.children and self.spares else None if self.spares else _IDLE_MS
                )
                if not events and not self.spares:
                    self.spares.append(children.fork())
                elif not events:
                    for child in self.children.values():
                        child.capture.trim()
            for fd, _ in events:
                if fd == self.link.fileno():
                    for frame in self.splitter.feed(self.link.receive()):
                        self.held = False
                        self._route(*frame)
                elif fd == self.deaths:
                    os.read(self.deaths, children.SIGNALS_ROOM)
                    self._reap()
                else:
                    self._forward(fd)

    def _route(self, kind: int, number: int, tag: int, payload: bytes) -> None:
        if number != wire.AGENT:
            if number in self.statuses:
                self.send(wire.EVENT, number, tag, {"event": "exit", "status": self.statuses[number]})
                return
            try:
                child = self.children.get(number) or self._start(number)
            except OSError as error:
                self.send(wire.FAILURE, number, tag, process.describe(error))
                return
            child.is_last = kind == wire.LAST
            try:
                child.link.sendall(wire.pack(kind, number, tag, payload))
            except OSError:
                return  # it died; the exit is reported when it is reaped
            return
        name, arguments, keywords, _ = wire.decode(payload)
        try:
            answers: calls.Agent = self
            result = getattr(answers, name.partition(".")[2])(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - every error goes to the host
            self.send(wire.FAILURE, number, tag, process.describe(error))
        else:
            self.send(wire.REPLY, number, tag, result)

    def _forward(self, fd: int) -> None:
        for number, child in self.children.items():
            if child.link.fileno() == fd:
                if not self._pump(number, child):
                    self._close(child)
                return
        # Reaped since poll returned, in the same round: its last output is already forwarded.

    def _pump(self, number: int, child: Child) -> bool:
        """Forward the output of a process; return whether more can come."""
        try:
            data = child.link.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        for kind, _, tag, payload in child.splitter.feed(data):
            self.link.send(wire.pack(kind, number, tag, payload))
            if child.is_last:
                child.send_signal(signal.SIGKILL)
        return bool(data)

    def _close(self, child: Child) -> None:
        if child.link.fileno() >= 0:
            self.poll.unregister(child.link.fileno())
            child.close()

    def _start(self, number: int) -> Child:
        """Use a spare process as the guest process of this number, at its first request."""
        child = self.spares.pop() if self.spares else children.fork()
        self.children[number] = child
        self.poll.register(child.link.fileno(), select.POLLIN)
        return child

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for spare in list(self.spares):
                if spare.pid == pid:
                    spare.close()
                    spare.capture.close()
                    self.spares.remove(spare)
            for number, child in list(self.children.items()):
                if child.pid == pid:
                    while child.link.fileno() >= 0 and self._pump(number, child):
                        pass  # its last output comes before the report of its end
                    self._bury(number, status)
                    if not child.record.used:
                        self.records.remove(child.record)
                    self.send(wire.EVENT, number, 0, {"event": "exit", "status": status})

    def _bury(self, number: int, status: int) -> None:
        """Keep the status of an ended process, and its provenance until the test is over."""
        child = self.children.pop(number)
        printed = child.capture.printed()
        if printed["stdout"] or printed["stderr"]:
            self.printed[number] = printed
        child.capture.close()
        self._close(child)
        self.records.append(child.record)
        self.statuses[number] = status

    # Requests to the agent itself.

    def ping(self) -> float:
        """Answer, so that the host can distinguish a hung test from a hung kernel."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep, so that the host sees whether timers expire in a clone."""
        time.sleep(seconds)

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to the process group of a guest process."""
        if number in self.children:
            self.children[number].send_signal(signum)

    def last_words(self, number: int) -> calls.LastWords:
        """Return what a guest process has printed, also if it has ended, and the stacks of all its threads if not."""
        child = self.children.get(number)
        if child is None:
            return {**self.printed.pop(number, _NOTHING_PRINTED), "stacks": b""}
        try:
            found, before = stacks.of(child.pid, child.capture)
        except (ProcessLookupError, FileNotFoundError):
            return {**child.capture.printed(), "stacks": b""}  # it ends just now
        os.ftruncate(child.capture.files[1], before)
        return {**child.capture.printed(), "stacks": found}

    def hold(self, *, polls: bool) -> None:
        """Wait for requests until one comes, because the machine is about to be saved.

        A clone starts without translated code and pays for each piece of code that it runs first. So as much as
        possible is done before.

        Args:
            polls: Whether to look into the shared memory again and again. Else a byte on the port must announce the
                request, and no timer is pending in the saved machine.
        """
        for name in _COMMON:
            __import__(name)
        libbpf.preload()
        gc.collect()
        gc.freeze()
        self.spares += [children.fork(settled=self.lean) for _ in range(_SPARES)]
        if self.lean:
            process.own_memory()
        self.link.rewind()
        self.held, self.polls = True, polls

    def leak_snapshot(self, *, is_last: bool) -> dict[str, Any]:
        """Return what the kernel holds after the test's remaining processes have ended.

        Args:
            is_last: Whether the machine ends with this test. Then the processes only close their descriptors, if
                everything is then as at first: ending them takes several times as long.
        """
        if is_last and self._part():
            own = [one.pid for one in (*self.spares, *self.children.values())]
            found = self.counts.settle(self._reap, own, briefly=True)
            if not found["beyond"]:
                return found
        of_test = dict(self.children)
        for child in of_test.values():
            children.kill(child.pid)
        for number, child in of_test.items():
            self._bury(number, os.waitpid(child.pid, 0)[1])
        own = [spare.pid for spare in self.spares]
        strays = self.counts.strays(own)
        if strays:
            # A program of programs.start() has its own session and outlives its guest process.
            for pid in {child.record.program for child in of_test.values()}.intersection(strays):
                children.kill(pid)
        found = self.counts.settle(self._reap, own)
        places: dict[tuple[str, int], str] = {}
        if found["objects"]:
            for record in self.records:
                places.update(record.read())
        # Their memory is freed after the next test; a clone ends before that.
        self.printed.clear()
        self.records, self.past = [], self.records
        for one in found["objects"]:
            one["made"] = places.get((one["kind"], one["id"]), "")
        return found

    def _part(self) -> bool:
        """Let the test's processes close all descriptors; return whether all did and no other process runs."""
        children = list(self.children.values())
        try:
            for child in children:
                child.link.sendall(_PART)
            for child in children:
                if not select.select([child.link], [], [], _PART_WITHIN)[0]:
                    return False  # it is busy
                answers = [wire.decode(payload) for *_, payload in child.splitter.feed(child.link.recv(1 << 16))]
                if answers != [True] or child.may_have_children:
                    return False
        except OSError:
            return False  # it has died
        return True

    def wake(self, *, realtime: float, entropy: bytes, hostname: str, restarts_timers: bool) -> None:
        """Give a clone its own identity: clock, entropy and host name; and the timers that QEMU forgot."""
        if restarts_timers:
            timers.restart()
        # Early: the kernel also programs its timers anew, and a clone may have lost the interrupt of the next.
        time.clock_settime(CLOCK_REALTIME, realtime)
        credit = _ENTROPY.pack(len(entropy) * 8, len(entropy))
        fcntl.ioctl(self.random, syscalls.IOCTL["write"] | RNDADDENTROPY, credit + entropy)
        try:
            fcntl.ioctl(self.random, syscalls.IOCTL["none"] | RNDRESEEDCRNG)
        except OSError:
            os.write(self.random, entropy)  # before 4.17 there is no such request; a write is mixed in too
        socket.sethostname(hostname)

    def readdress(self, cards: list[tuple[str, str, str]]) -> None:
        """Give network cards other addresses; see :func:`harness.guest.interfaces.readdress`."""
        interfaces.readdress(cards)

    def kernel_log(self) -> list[bytes]:
        """Return the records of the kernel log since the last call, in the form of /dev/kmsg."""
        return kernel_log.read(self.log_of_tests)

    def log_since(self) -> calls.Logged:
        """Return the kernel log since the last call, regardless of reads by tests, and the taint flags."""
        return {"records": kernel_log.read(self.log_of_checks), "tainted": self.tainted()}

    def jiffies(self) -> int | None:
        """Return the kernel's clock in ticks, which kmemleak uses; None when the kernel was built without kmemleak."""
        return kernel_log.jiffies()

    def kmemleak(self) -> str:
        """Return what kmemleak thinks is leaked; see :func:`harness.guest.kernel_log.kmemleak`."""
        return kernel_log.kmemleak()


def _options() -> dict[str, str]:
    with open("/proc/cmdline") as file:
        return setup.parse_command_line(file.read())


def main(shared: str, numbers: dict[str, int], ioctl: dict[str, int]) -> NoReturn:
    """Set up the machine, load modules, report "ready", serve.

    Args:
        shared: How sysfs calls the memory that is shared with the host.
        numbers: The numbers of system calls, by name.
        ioctl: As syscalls.IOCTL.
    """
    syscalls.NUMBERS.update(numbers)
    syscalls.IOCTL.update(ioctl)
    absent = setup.mount_all(lambda: _options().get("without", "").split(","))
    os.environ.update(PATH="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", HOME="/root", LANG="C.UTF-8")
    options = _options()
    if options.get("loopback") != "off":
        interfaces.raise_loopback()
    process.raise_limits()
    setup.take_away(options)
    # Before the processes of tests, however many those leave running: the host waits for the agent's answer.
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    stacks.prepare()
    refused = modules.load_all()  # the channel's driver may be one of them
    agent = Agent(HostLink(setup.wait_for(options["channel"]), shared), lean="preload" not in options)
    if refused is not None:
        agent.send(wire.EVENT, wire.AGENT, 0, {"event": "module refused", "module": refused[0], "errno": refused[1]})
        agent.serve()
    if "rootfs" in options:
        setup.mount_rootfs(options["rootfs"])
    if "cards" in options:
        interfaces.raise_cards(options["cards"], ["", setup.ROOTFS])
    if "preload" in options:
        getattr(process.Handlers, options["preload"]).preload()
    agent.counts = snapshot.Baseline()
    agent.send(wire.EVENT, wire.AGENT, 0, setup.describe_machine(absent, agent.tainted(), agent.counts.baseline))
    agent.serve()
