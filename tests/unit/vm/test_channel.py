"""The host's end of the channel, against a peer that answers as each test wants."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestCallError, GuestHung, GuestProcessDied, LinkBroken
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
    peer.say(wire.REPLY, 2, 1, "of process 2")
    peer.say(wire.REPLY, 1, 1, "of process 1")
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
def test_bytes_that_are_not_a_frame_break_the_link(channel: Channel, peer: Peer, noise: bytes) -> None:
    peer.send(noise)
    with pytest.raises(ChannelClosed, match="not a frame") as caught:
        channel.request(1, "f", None, timeout=LONG)
    assert isinstance(caught.value, LinkBroken)


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
            with pytest.raises(ChannelClosed, match="not a frame"):
                waiting.result()
