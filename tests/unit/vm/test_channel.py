"""The host's end of the channel, against a peer that answers as each test wants."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestCallError, GuestHung, GuestProcessDied, ProtocolBroken
from harness.guest import wire
from harness.vm.channel import Channel, ChannelClosed, Listener, describe_status

SHORT, LONG = 0.2, 20.0


class Peer:
    """The guest's end; without shared memory, as on a kernel that does not let it be mapped."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(LONG)
        self._splitter = wire.Splitter()
        self._pending: list[wire.Frame] = []

    def next(self) -> tuple[int, int, Any]:
        """Return (process, tag, request)."""
        while not self._pending:
            self._pending += self._splitter.feed(self._socket.recv(1 << 16))
        _, process, tag, payload = self._pending.pop(0)
        return process, tag, wire.decode(payload)

    def say(self, kind: int, process: int, tag: int, value: object) -> None:
        self._socket.sendall(wire.frame(kind, process, tag, value))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Channel, Peer]]:
    listener = Listener(tmp_path / "socket", tmp_path / "shared")
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(tmp_path / "socket"))
    channel = listener.accept(LONG)
    assert channel is not None
    peer = Peer(client)
    yield channel, peer
    peer.close()
    channel.close()


@pytest.fixture
def channel(ends: tuple[Channel, Peer]) -> Channel:
    return ends[0]


@pytest.fixture
def peer(ends: tuple[Channel, Peer]) -> Peer:
    return ends[1]


@pytest.fixture
def behind(peer: Peer) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Run what the peer does while the host waits; what it raises fails the test."""
    threads: list[threading.Thread] = []
    raised: list[BaseException] = []

    def start(play: Callable[[], None]) -> None:
        def body() -> None:
            try:
                play()
            except BaseException as error:  # noqa: BLE001 - given to the test below
                raised.append(error)

        threads.append(threading.Thread(target=body))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert raised == []


Behind = Callable[[Callable[[], None]], None]


def test_an_answer_is_returned_to_who_asked(channel: Channel, peer: Peer, behind: Behind) -> None:
    def play() -> None:
        process, tag, value = peer.next()
        peer.say(wire.REPLY, process, tag, ("you said", value))

    behind(play)
    assert channel.request(3, "echo", {"a": b"b"}, timeout=LONG) == ("you said", {"a": b"b"})


def test_what_was_raised_there_is_raised_here(channel: Channel, peer: Peer, behind: Behind) -> None:
    def play() -> None:
        process, tag, _ = peer.next()
        failure = {"type": "OSError", "message": "[Errno 22]", "errno": 22, "traceback": "Traceback: deep\n"}
        peer.say(wire.FAILURE, process, tag, failure)

    behind(play)
    with pytest.raises(GuestCallError, match=r"OSError: \[Errno 22\]") as caught:
        channel.request(1, "f", None, timeout=LONG)
    assert (caught.value.type_name, caught.value.errno) == ("OSError", 22)
    assert "deep" in str(caught.value)


def test_silence_is_a_hang(channel: Channel) -> None:
    with pytest.raises(GuestHung, match=r"no answer to f within 0\.2 s"):
        channel.request(1, "f", None, timeout=SHORT)


def test_half_an_answer_is_a_hang(channel: Channel, peer: Peer) -> None:
    peer.send(wire.frame(wire.REPLY, 1, 1, "x" * 100)[:-1])
    with pytest.raises(GuestHung):
        channel.request(1, "f", None, timeout=SHORT)


def test_the_answer_to_a_request_that_was_given_up_is_not_taken_for_another(channel: Channel, peer: Peer) -> None:
    with pytest.raises(GuestHung):
        channel.request(1, "slow", None, timeout=SHORT)
    _, late, _ = peer.next()
    peer.say(wire.REPLY, 1, late, "late")
    peer.say(wire.REPLY, 1, late + 1, "in time")
    assert channel.request(1, "quick", None, timeout=LONG) == "in time"


def test_the_answer_of_another_process_is_not_taken(channel: Channel, peer: Peer) -> None:
    channel.begin(2, "slow", None, time.monotonic() + LONG)
    peer.say(wire.REPLY, 2, 1, "of process 2")
    peer.say(wire.REPLY, 1, 2, "of process 1")
    assert channel.request(1, "f", None, timeout=LONG) == "of process 1"


def test_a_process_that_ends_before_it_answers_is_reported(channel: Channel, peer: Peer) -> None:
    peer.say(wire.EVENT, 1, 0, {"event": "exit", "status": 9})
    with pytest.raises(GuestProcessDied, match=r"killed by signal 9\) during f") as caught:
        channel.request(1, "f", None, timeout=LONG)
    assert caught.value.status == 9
    # It stays dead: nothing is waited for.
    with pytest.raises(GuestProcessDied):
        channel.request(1, "g", None, timeout=LONG)


def test_the_end_of_another_process_does_not_disturb(channel: Channel, peer: Peer) -> None:
    peer.say(wire.EVENT, 2, 0, {"event": "exit", "status": 0})
    peer.say(wire.REPLY, 1, 1, "alive")
    assert channel.request(1, "f", None, timeout=LONG) == "alive"
    assert channel.exits == {2: 0}


def test_a_closed_channel_is_not_a_hang(channel: Channel, peer: Peer) -> None:
    peer.close()
    with pytest.raises(ChannelClosed):
        channel.request(1, "f", None, timeout=LONG)


def test_a_channel_that_closes_in_the_middle_of_a_frame_is_closed(channel: Channel, peer: Peer) -> None:
    peer.send(wire.frame(wire.REPLY, 1, 1, "x" * 100)[:-50])
    peer.close()
    with pytest.raises(ChannelClosed):
        channel.request(1, "f", None, timeout=LONG)


@pytest.mark.parametrize(
    "noise",
    [b"Oops: 0002 [#1] SMP\r\n", wire.frame(wire.REPLY, 1, 1, "x")[:-1] + b"?"],
    ids=["text", "checksum"],
)
def test_bytes_that_are_not_a_frame_break_the_protocol(channel: Channel, peer: Peer, noise: bytes) -> None:
    peer.send(noise)
    with pytest.raises(ProtocolBroken, match=r"broke the protocol: (not a frame|a frame's payload)"):
        channel.request(1, "f", None, timeout=LONG)


def framed(kind: int, payload: bytes, *, process: int = 1, tag: int = 1) -> bytes:
    return wire.pack(kind, process, tag, payload)


@pytest.mark.parametrize(
    ("frame", "how"),
    [
        (framed(wire.REPLY, b"?" + 40 * b"\0"), "its answer to f cannot be read: unknown type code"),
        (framed(wire.REPLY, b""), "its answer to f cannot be read: the payload is damaged"),
        (framed(wire.FAILURE, wire.encode(None)), "its failure of f is None"),
        (framed(wire.FAILURE, wire.encode({"type": "E"})), "its failure of f is"),
        (
            framed(wire.FAILURE, wire.encode({"type": 1, "message": "", "errno": 0, "traceback": ""})),
            "its failure of f",
        ),
        (framed(wire.REPLY, wire.encode(1), tag=9), "it answered request 9 to process 1, which was not made"),
        (framed(wire.REPLY, wire.encode(1), process=3), "it answered request 1 to process 3, which was not made"),
        (framed(wire.REQUEST, wire.encode(1)), "it answered request 1 to process 1, which was not made"),
        (framed(wire.EVENT, wire.encode(None)), "its event is None"),
        (framed(wire.EVENT, wire.encode({"event": "exit"})), "its event is"),
        (framed(wire.EVENT, wire.encode({"event": "exit", "status": "nan"})), "its event is"),
        (framed(wire.EVENT, wire.encode({"event": "exit", "status": -1})), "its event is"),
        (framed(wire.EVENT, wire.encode({"event": "exit", "status": True})), "its event is"),
        (framed(wire.EVENT, b"m" + 4 * b"\xff"), "an event cannot be read"),
    ],
)
def test_a_frame_that_answers_nothing_breaks_the_protocol(channel: Channel, peer: Peer, frame: bytes, how: str) -> None:
    peer.send(frame)
    with pytest.raises(ProtocolBroken, match=f"the guest broke the protocol: {re.escape(how)}"):
        channel.request(1, "f", None, timeout=LONG)


def test_a_second_answer_breaks_the_protocol(channel: Channel, peer: Peer) -> None:
    peer.say(wire.REPLY, 1, 1, "once")
    assert channel.request(1, "f", None, timeout=LONG) == "once"
    peer.say(wire.REPLY, 1, 1, "twice")
    with pytest.raises(ProtocolBroken, match="request 1 to process 1"):
        channel.request(1, "g", None, timeout=LONG)


@pytest.mark.parametrize(
    "noise",
    [
        wire.frame(wire.EVENT, 2, 0, {"event": "exit", "status": 0}) * 100,
        wire.frame(wire.REPLY, 1, 1, bytes(1 << 20)),
    ],
    ids=["frames", "one endless frame"],
)
def test_a_guest_that_never_stops_sending_is_hung_at_the_deadline(ends: tuple[Channel, Peer], noise: bytes) -> None:
    channel, peer = ends
    over = threading.Event()

    def play() -> None:
        peer.send(
            wire.HEADER.pack(wire.MAGIC, wire.REPLY, 1, 1, 0, wire.MAX_PAYLOAD, 0) if len(noise) > 1 << 20 else b""
        )
        while not over.is_set():
            try:
                peer.send(noise[-65536:])
            except OSError:
                return

    thread = threading.Thread(target=play)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises((GuestHung, ProtocolBroken)):
            channel.request(1, "f", None, timeout=SHORT)
    finally:
        over.set()
        channel.close()
        thread.join(LONG)
    assert time.monotonic() - began < LONG


def test_who_waits_is_told_that_nothing_came(channel: Channel) -> None:
    told: list[float] = []
    channel.waiting = lambda: told.append(time.monotonic())
    with pytest.raises(GuestHung):
        channel.request(1, "f", None, timeout=2.5)
    assert len(told) == 2


def test_a_request_larger_than_any_buffer_arrives_whole(channel: Channel, peer: Peer, behind: Behind) -> None:
    def play() -> None:
        process, tag, value = peer.next()
        peer.say(wire.REPLY, process, tag, len(value))

    behind(play)
    assert channel.request(1, "big", b"x" * 5_000_000, timeout=LONG) == 5_000_000


def test_a_guest_that_takes_nothing_is_hung(channel: Channel) -> None:
    with pytest.raises(GuestHung, match="did not take the request big"):
        channel.request(1, "big", b"x" * 5_000_000, timeout=SHORT)


def test_a_request_that_cannot_cross_is_refused_before_anything_is_sent(channel: Channel, peer: Peer) -> None:
    with pytest.raises(wire.WireError, match="value"):
        channel.request(1, "f", object(), timeout=LONG)
    peer.say(wire.REPLY, 1, 2, "still fine")
    assert channel.request(1, "g", "plain", timeout=LONG) == "still fine"
    assert peer.next()[2] == "plain"


def test_an_event_is_waited_for(channel: Channel, peer: Peer) -> None:
    peer.say(wire.EVENT, 0, 0, {"event": "ready"})
    assert channel.wait_event(LONG) == {"event": "ready"}
    with pytest.raises(GuestHung):
        channel.wait_event(SHORT)


def test_without_a_connection_there_is_no_channel(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "socket", tmp_path / "shared")
    started = time.monotonic()
    assert listener.accept(SHORT) is None
    assert time.monotonic() - started < LONG
    listener.close()


@pytest.mark.parametrize(
    ("status", "words"), [(9, "killed by signal 9"), (0x8B, "killed by signal 11"), (0x300, "exit status 3")]
)
def test_a_wait_status_in_words(status: int, words: str) -> None:
    assert describe_status(status) == words


def test_a_closed_channel_keeps_neither_a_descriptor_nor_a_mapping(tmp_path: Path) -> None:
    def held() -> tuple[int, bool]:
        return len(list(Path("/proc/self/fd").iterdir())), str(tmp_path) in Path("/proc/self/maps").read_text()

    before = held()
    listener = Listener(tmp_path / "socket", tmp_path / "shared")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(tmp_path / "socket"))
        channel = listener.accept(LONG)
        assert channel is not None
        channel.leave(wire.AGENT, "the first request")
        assert held()[1]
        channel.close()
        listener.close()
    assert held() == before  # while the channel itself is still there


def test_a_listener_without_a_connection_keeps_nothing(tmp_path: Path) -> None:
    Listener(tmp_path / "socket", tmp_path / "shared").close()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_each_of_several_threads_gets_its_own_answer(channel: Channel, peer: Peer, behind: Behind) -> None:
    count = 20

    def play() -> None:
        asked = [peer.next() for _ in range(count)]  # all are under way at once
        for process, tag, value in reversed(asked):
            peer.say(wire.REPLY, process, tag, ("answer to", value))

    behind(play)
    with ThreadPoolExecutor(count) as pool:
        found = pool.map(lambda number: channel.request(number % 3, "f", number, timeout=LONG), range(count))
        assert list(found) == [("answer to", number) for number in range(count)]


def test_a_thread_that_gives_up_leaves_the_reading_to_another(channel: Channel, peer: Peer, behind: Behind) -> None:
    gone = threading.Event()

    def play() -> None:
        first, second = peer.next(), peer.next()
        assert gone.wait(LONG)
        peer.say(wire.REPLY, first[0], first[1], "too late")
        peer.say(wire.REPLY, second[0], second[1], "in time")

    behind(play)
    with ThreadPoolExecutor(2) as pool:
        impatient = pool.submit(channel.request, 1, "f", None, timeout=SHORT)
        patient = pool.submit(channel.request, 2, "g", None, timeout=LONG)
        with pytest.raises(GuestHung, match="no answer to f within"):
            impatient.result()
        gone.set()
        assert patient.result() == "in time"


def test_every_waiting_thread_learns_that_the_channel_has_ended(channel: Channel, peer: Peer, behind: Behind) -> None:
    def play() -> None:
        for _ in range(3):
            peer.next()
        peer.send(b"\xff" * 64)

    behind(play)
    with ThreadPoolExecutor(3) as pool:
        for waiting in [pool.submit(channel.request, number, "f", None, timeout=LONG) for number in range(3)]:
            with pytest.raises(ProtocolBroken, match="not a frame"):
                waiting.result()
