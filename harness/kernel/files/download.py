"""Fetches one file from a package source: resumable, checked, complete or not at all.

The part that has arrived is kept beside the target as NAME.part, so that an interrupted download continues.
A file is accepted only with the size and sha256 from signed metadata. :func:`get` fetches the small files by which a
package source describes itself. A server that is busy (429, 503) is asked again after the time that it names.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import harness
from harness.errors import MirrorError
from harness.util import cache

if TYPE_CHECKING:
    import requests

Meter = Callable[[str, int, int], None]
"""Called several times a second with a file's name, the bytes so far and all bytes (0 when unknown)."""

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for each next piece of data."""

BLOCK = 1 << 15

BUSY_ATTEMPTS = 6
"""Requests to a server that answers that it is busy."""

LONGEST_PAUSE = 120.0
"""Seconds to wait for a busy server, at most, whatever it asks for."""

SMALL = 64 << 20
"""Bytes that a file fetched whole into memory may have."""

LARGEST = 2 << 30
"""Bytes that a file of unknown size may have."""


wait = time.sleep
"""Lets the time pass that a busy server asks for."""


def no_meter(name: str, done: int, total: int) -> None:
    """Show no progress."""


def fetch(url: str, target: Path, *, size: int = 0, sha256: str = "", proxy: str = "", meter: Meter = no_meter) -> bool:
    """Fetch a file, unless it is there already.

    Args:
        url: http, https or file.
        target: Where to put it.
        size: Bytes it must have; 0 when not known.
        sha256: Digest it must have; "" when not known; a partial download is then not continued.
        proxy: Address of the proxy to go through; "" to use the environment's.
        meter: Called with the progress.

    Returns:
        False when the server does not have it (404 or 410).

    Raises:
        MirrorError: The server cannot be reached, stops early, or sends another file.
        CacheError: The disk is full or cannot be written.
    """
    if target.is_file() and (not sha256 or cache.digest_file(target) == sha256):
        return True
    partial = target.with_name(target.name + ".part")
    with cache.locked(target.with_name(target.name + ".lock")), cache.disk_errors(target):
        if target.is_file() and (not sha256 or cache.digest_file(target) == sha256):
            return True
        target.unlink(missing_ok=True)
        if not sha256:
            partial.unlink(missing_ok=True)
        scheme = urlsplit(url).scheme
        if scheme == "file":
            if not _copy(url, partial):
                return False
        elif scheme in ("http", "https"):
            if not _get(url, partial, size=size, proxy=proxy, meter=meter):
                return False
        else:
            raise MirrorError(
                f"{url} cannot be fetched: the harness does not speak {scheme!r}",
                expected="a mirror by http, https or file",
                hint="name one with HARNESS_DEBIAN_MIRROR",
            )
        _check(partial, url, size=size, sha256=sha256)
        partial.replace(target)
    return True


def _copy(url: str, partial: Path) -> bool:
    source = Path(unquote(urlsplit(url).path))
    if not source.is_file():
        return False
    shutil.copyfile(source, partial)
    return True


def _get(url: str, partial: Path, *, size: int, proxy: str, meter: Meter) -> bool:
    have = partial.stat().st_size if partial.exists() else 0
    if size and have == size:
        return True
    if size and have > size:
        partial.unlink()
        have = 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with _answer(url, headers, proxy) as answer:
        if answer.status_code in (404, 410):
            return False
        if answer.status_code == 416:
            partial.unlink()
            raise MirrorError(
                f"{url} is shorter than the part fetched earlier",
                expected="the same file as before",
                hint="run the command again: it fetches this file from the start",
            )
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            # Kept as the file's beginning, it would spoil the next attempt too.
            raise MirrorError(
                f"{url} is a web page (text/html)",
                expected="a file",
                hint="open the address in a browser: a proxy or a login page may answer in the server's place",
            )
        if answer.status_code != 206:
            have = 0
        total = size or have + int(answer.headers.get("Content-Length", 0))
        meter(partial.stem, have, total)
        with partial.open("ab" if have else "wb") as stream:
            for block in answer.iter_content(BLOCK):
                stream.write(block)
                have += len(block)
                meter(partial.stem, have, total)
                if size and have > size:
                    break  # it is another file, whatever else would arrive
                if not size and have > LARGEST:
                    partial.unlink()
                    raise MirrorError(
                        f"{url} has more than {LARGEST >> 20} MiB",
                        expected="one package",
                        hint="is it the right server?",
                    )
    return True


@contextmanager
def served_by(setting: str) -> Iterator[None]:
    """Let the error of a server say in its next step what names the server, unless it says that already.

    Args:
        setting: An environment variable, or other words for it; "" for a source without a server.
    """
    try:
        yield
    except MirrorError as error:
        if setting and setting not in error.hint:
            error.hint = f"{error.hint}; the server is named by {setting}".removeprefix("; ")
        raise


@contextmanager
def _answer(url: str, headers: Mapping[str, str], proxy: str) -> Iterator[requests.Response]:
    """Ask for a file, again after a pause while the server is busy; statuses other than 404, 410, 416 are errors."""
    import requests

    # "identity": compression on the way would make ranges and sizes meaningless.
    sent = {"Accept-Encoding": "identity", "User-Agent": f"kernel-harness/{harness.__version__}", **headers}
    proxies = {"http": proxy, "https": proxy} if proxy else None
    try:
        for attempt in range(1, BUSY_ATTEMPTS + 1):
            with requests.get(url, headers=sent, stream=True, timeout=TIMEOUT, proxies=proxies) as answer:
                if answer.status_code not in (429, 503) or attempt == BUSY_ATTEMPTS:
                    if answer.status_code not in (404, 410, 416):
                        answer.raise_for_status()
                    yield answer
                    return
                pause = _pause(answer.headers.get("Retry-After", ""), attempt)
            wait(pause)
    except requests.RequestException as error:
        raise MirrorError(
            f"{url} could not be fetched: {_reason(error)}",
            expected="a server that answers and sends the complete file",
            hint="check the network, then run the command again: it continues where it stopped",
        ) from error


def _pause(wanted: str, attempt: int) -> float:
    """Return how many seconds to leave a busy server alone."""
    from email.utils import parsedate_to_datetime

    seconds = float(2**attempt)
    if wanted.isdigit():
        seconds = float(wanted)
    elif wanted:
        with contextlib.suppress(ValueError):  # not a date either: the server says nothing usable
            seconds = parsedate_to_datetime(wanted).timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def get(url: str, *, proxy: str = "", limit: int = SMALL) -> bytes | None:
    """Fetch a small file into memory; nothing checks its content.

    Args:
        url: http, https or file.
        proxy: As for :func:`fetch`.
        limit: Bytes that it may have.

    Returns:
        Its content; None when the server does not have it (404 or 410).

    Raises:
        MirrorError: The server cannot be reached, stops early, or sends more than `limit`.
    """
    if urlsplit(url).scheme == "file":
        source = Path(unquote(urlsplit(url).path))
        return source.read_bytes() if source.is_file() else None
    data = bytearray()
    with _answer(url, {}, proxy) as answer:
        if answer.status_code in (404, 410):
            return None
        for block in answer.iter_content(BLOCK):
            data += block
            if len(data) > limit:
                raise MirrorError(
                    f"{url} has more than {limit >> 20} MiB", expected="a small file", hint="is it the right server?"
                )
        promised = answer.headers.get("Content-Length", "")
    if promised.isdigit() and len(data) != int(promised):
        raise MirrorError(
            f"{url} is truncated: {len(data)} of {promised} bytes",
            expected="the whole file",
            hint="run the command again",
        )
    return bytes(data)


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError):
        # Its own text repeats the address.
        return f"{error.response.status_code} {error.response.reason}"
    # requests wraps urllib3 wraps socket errors; the innermost says what happened in words.
    cause: BaseException = error
    while True:
        inner = cause.__cause__ or cause.__context__ or getattr(cause, "reason", None)
        if not isinstance(inner, BaseException) or inner is cause:
            break
        cause = inner
    return str(cause) or type(cause).__name__


def _check(partial: Path, url: str, *, size: int, sha256: str) -> None:
    got = partial.stat().st_size
    if size and got < size:
        raise MirrorError(
            f"the download of {url} is truncated: {got} of {size} bytes",
            expected="the whole file",
            hint="run the command again: it continues where it stopped",
        )
    if (size and got != size) or (sha256 and cache.digest_file(partial) != sha256):
        digest = cache.digest_file(partial)
        partial.unlink()
        raise MirrorError(
            f"{url} is not the file that its index names: it has {got} bytes and sha256 {digest}",
            expected=f"{size} bytes, sha256 {sha256}" if size else f"sha256 {sha256}",
            hint="`harness kernels list --refresh` and try again; if it stays, the server is damaged",
        )
