"""What a server listed, kept in a file: used until it is due, and for longer when the server does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import MirrorError
from harness.kernel.types import Progress
from harness.util import cache


class KeptList:
    """A provider's list of kernels.

    Args:
        file: The record that it is kept in.
        name: The provider, for messages.
        what: What messages call it: "list", "package index".
        hours: Hours for which it is used without asking again.
        refresh: Ask the server even when the list is recent.
        retry_minutes: Minutes for which an incomplete list (with "troubles"), or an old one that could not be
            renewed, is used without asking again.
    """

    def __init__(
        self, file: Path, *, name: str, what: str, hours: float, refresh: bool = False, retry_minutes: float = 0
    ) -> None:
        self.file = file
        self.name = name
        self.what = what
        self.hours = hours
        self.must_refresh = refresh
        self.retry_minutes = retry_minutes

    def get(
        self, origin: Mapping[str, Any], ask: Callable[[], Mapping[str, Any]], progress: Progress
    ) -> dict[str, Any]:
        """Return the list.

        Args:
            origin: Fields that say what it is a list of; a kept list with other values is not used.
            ask: Returns the list's other fields. Called when the list is due.
            progress: Called with a line of text when an old list is used.

        Raises:
            MirrorError: From `ask`, when there is no list.
            CacheError: The list cannot be kept.
        """
        known = self._read(origin)
        if known is not None and not self.must_refresh and self._serves(known):
            return known
        if not cache.is_writable(self.file):
            if known is None:
                return {**origin, **ask()}
            progress(f"{self.name}: {self.file.parent} cannot be written; using the {self.what} in it")
            return known
        with cache.locked(self.file.with_suffix(".lock")):
            again = self._read(origin)
            if again is not None and again != known:
                return again
            now = time.time()
            try:
                known = {**origin, **ask(), "updated": now, "tried": now}
            except MirrorError as error:
                if known is None:
                    raise
                hours = (now - known["updated"]) / 3600
                progress(f"{self.name}: {error.what}; using the {self.what} of {hours:.0f} hours ago")
                known["tried"] = now
            self.must_refresh = False
            cache.write_record(self.file, known)
        return known

    def _read(self, origin: Mapping[str, Any]) -> dict[str, Any] | None:
        def ours(known: dict[str, Any]) -> dict[str, Any] | None:
            is_ours = all(known[field] == value for field, value in origin.items())
            return known if is_ours and known["updated"] <= known["tried"] else None

        return cache.from_record(self.file, ours)

    def _serves(self, known: Mapping[str, Any]) -> bool:
        now = time.time()
        is_recent = 0 <= now - known["updated"] < self.hours * 3600
        # A list that lacks something because of an error is renewed soon, and the message is repeated.
        return (is_recent and not known.get("troubles")) or 0 <= now - known["tried"] < self.retry_minutes * 60
