"""A web server on 127.0.0.1 over sites in memory, with faults on demand."""

from __future__ import annotations

import contextlib
import fnmatch
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

BLOCK = 1 << 16


@dataclass(frozen=True)
class Answer:
    """What a site answers.

    Attributes:
        body: The content; a path for a large file.
        type: Its Content-Type.
        status: The status; with 301, 302 or 308, `location` is where to go.
        location: A path below the site, with a leading slash.
    """

    body: bytes | Path = b""
    type: str = "application/octet-stream"
    status: int = 200
    location: str = ""

    def content(self) -> bytes:
        return self.body.read_bytes() if isinstance(self.body, Path) else self.body


class Site(Protocol):
    """Something that has files, or answers questions, under one path of the server.

    Attributes:
        newest_first: The order of its lists.
    """

    newest_first: bool

    def answer(self, path: str, query: str) -> Answer | None:
        """Return the answer to a path below the site, without a leading slash; None: not found."""
        ...


@dataclass
class Fault:
    """What goes wrong with an answer.

    Attributes:
        status: Answer with this status instead.
        retry_after: With `status`: the header Retry-After.
        times: How often; -1 for always.
        changed: One byte in the middle is another.
        cut: Bytes after which the connection ends; -1 for none.
        pause: Seconds before each block.
        location: Redirect there; "loop" redirects to another address on and on.
        html: Answer with a page for people, and status 200.
        endless: Never stop sending.
    """

    status: int = 0
    retry_after: str = ""
    times: int = -1
    changed: bool = False
    cut: int = -1
    pause: float = 0.0
    location: str = ""
    html: bool = False
    endless: bool = False


NAMED_FAULTS: dict[str, Callable[[], Fault]] = {
    "404": lambda: Fault(status=404),
    "500": lambda: Fault(status=500),
    "busy": lambda: Fault(status=503, retry_after="1", times=2),
    "changed": lambda: Fault(changed=True),
    "cut": lambda: Fault(cut=100),
    "slow": lambda: Fault(pause=1.0),
    "loop": lambda: Fault(location="loop"),
    "html": lambda: Fault(html=True),
    "endless": lambda: Fault(endless=True),
}
"""Faults as `python -m tests.servers --fault PATTERN=NAME` calls them."""


@dataclass
class Server:
    """A running server.

    Attributes:
        url: Its address.
        sites: Sites by the first part of the path.
        faults: Faults by a pattern of the whole path (`*` and `?`).
        requests: The paths asked for, with their queries.
        most_at_once: The greatest number of requests that were under way at one time.
        log: Called with the path of each request.
    """

    url: str = ""
    sites: dict[str, Site] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    most_at_once: int = 0
    log: Callable[[str], None] = field(default=lambda _path: None)

    def fault(self, path: str) -> Fault | None:
        """Return the fault of a path that is due, and count it."""
        for pattern, fault in self.faults.items():
            if fault.times and fnmatch.fnmatchcase(path, pattern):
                fault.times -= fault.times > 0
                return fault
        return None


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Serve on 127.0.0.1 until the body ends, and yield the address.

    Args:
        handler: Answers the requests, several at a time.
        port: The port; 0 for any that is free.
    """
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start_of(wanted: str) -> int:
    """Return the byte from which a request wants a file, by its header Range; "" for none."""
    return int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0


@contextmanager
def serve(port: int = 0) -> Iterator[Server]:
    """Serve sites until the body ends.

    Args:
        port: The port; 0 for any that is free.
    """
    state = Server()
    lock = threading.Lock()
    running = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal running
            with lock:
                running += 1
                state.most_at_once = max(state.most_at_once, running)
                state.requests.append(self.path)
                state.log(self.path)
            try:
                with contextlib.suppress(ConnectionError):
                    self._answer()
            finally:
                with lock:
                    running -= 1

        def _answer(self) -> None:
            # A proxy is asked with whole addresses.
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            fault = state.fault(path) or Fault()
            if fault.location:
                step = int(parts.query.removeprefix("again=") or 0) if parts.query.startswith("again=") else 0
                place = f"{parts.path}?again={step + 1}" if fault.location == "loop" else fault.location
                self._send(Answer(status=302, location=place), fault)
            elif fault.status:
                self._send(Answer(status=fault.status), fault)
            elif fault.html:
                self._send(Answer(b"<html><body>Please sign in</body></html>", "text/html"), fault)
            else:
                name, _, rest = path.lstrip("/").partition("/")
                site = state.sites.get(name)
                answer = (site.answer(rest, parts.query) if site else None) or Answer(status=404)
                if answer.location:
                    answer = replace(answer, location=f"/{name}{answer.location}")
                self._send(answer, fault)

        def _send(self, answer: Answer, fault: Fault) -> None:
            if answer.status >= 400:
                self.send_response(answer.status)
                if fault.retry_after:
                    self.send_header("Retry-After", fault.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = bytearray(answer.content())
            if fault.changed:
                data[len(data) // 2] ^= 0xFF
            start = start_of(self.headers.get("Range", ""))
            if start and start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else answer.status)
            self.send_header("Content-Type", answer.type)
            if answer.location:
                self.send_header("Location", answer.location)
            if not fault.endless:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = len(data) if fault.cut < 0 else fault.cut
            for at in range(start, end, BLOCK):
                time.sleep(fault.pause)
                self.wfile.write(data[at : min(at + BLOCK, end)])
            while fault.endless:
                self.wfile.write(bytes(BLOCK))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            return

    with served(Handler, port) as state.url:
        yield state
