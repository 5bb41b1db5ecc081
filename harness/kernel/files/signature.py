"""Verifies OpenPGP signatures with gpgv, and reads its machine-readable answer.

A signature counts when a key in the keyrings made it while that key was valid: what was signed years ago stays good
after the key has expired. A revoked key and a signature with an expiry date of its own never count afterwards.
"""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from harness import needs
from harness.errors import MirrorError
from harness.util import proc

_KEY_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+: [^\r\n]*\r?\n)*\r?\n(.*?)\r?\n(?:=[^\r\n]+\r?\n)?"
    rb"-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)


@dataclass(frozen=True)
class Signed:
    """A good signature and the text under it.

    Attributes:
        text: What is signed; of a clear-signed file, only this part is.
        key: Fingerprint of the primary key.
        note: "" or what a person should know about the key, such as the day when it expired.
    """

    text: bytes
    key: str
    note: str


@dataclass
class _Signature:
    """One signature in gpgv's answer."""

    verdict: str = ""
    key: str = ""
    made: int = 0
    key_expired: int = 0


def clear_signed(data: bytes, keyrings: Sequence[Path], name: str) -> Signed:
    """Verify a file with its signature inside, such as InRelease.

    Args:
        data: The file.
        keyrings: Files with keys, binary or armoured.
        name: What error messages call the file.

    Raises:
        MirrorError: No key in the keyrings has signed it.
        ToolMissing: gpgv is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="harness-signed-") as folder:
        signed, text = Path(folder, "signed"), Path(folder, "text")
        signed.write_bytes(data)
        key, note = _verify(Path(folder), ["--output", text, signed], keyrings, name)
        return Signed(text.read_bytes(), key, note)


def detached(data: bytes, signature: bytes, keyrings: Sequence[Path], name: str) -> Signed:
    """Verify a file with its signature in another file.

    Args:
        data: The file.
        signature: The signature, binary or armoured.
        keyrings: Files with keys, binary or armoured.
        name: What error messages call the file.

    Raises:
        MirrorError: No key in the keyrings has signed it.
        ToolMissing: gpgv is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="harness-signed-") as folder:
        signed, text = Path(folder, "signature"), Path(folder, "text")
        signed.write_bytes(signature)
        text.write_bytes(data)
        key, note = _verify(Path(folder), [signed, text], keyrings, name)
        return Signed(data, key, note)


def _verify(folder: Path, files: Sequence[str | Path], keyrings: Sequence[Path], name: str) -> tuple[str, str]:
    options: list[str | Path] = []
    for number, keyring in enumerate(keyrings):
        binary = folder / f"keys-{number}.gpg"
        binary.write_bytes(binary_keys(keyring.read_bytes(), str(keyring)))
        options += ["--keyring", binary]
    done = proc.run([needs.program("gpgv"), "--status-fd", "1", *options, *files], timeout=60)
    found = signatures(done.stdout)
    for one in found:
        if one.verdict == "GOODSIG":
            return one.key, ""
        if one.verdict == "EXPKEYSIG" and 0 < one.made < one.key_expired:
            day = datetime.fromtimestamp(one.key_expired, timezone.utc).date()
            return one.key, f"its key {one.key[-16:]} expired on {day}, after it had signed this"
    raise MirrorError(
        f"the signature of {name} is not valid: {_reason(found) or 'there is none that can be read'}",
        expected="a signature by a key in " + (" or ".join(map(str, keyrings)) or "a keyring, and there is none"),
        hint="the server is not to be trusted, or signs with a new key: then name a keyring with that key",
        detail="" if found else done.tail(3),
    )


def _reason(found: Sequence[_Signature]) -> str:
    words = {
        "BADSIG": "the file differs from what key {key} signed",
        "EXPSIG": "the signature by key {key} has an expiry date, and it has passed",
        "EXPKEYSIG": "key {key} had expired before it signed this",
        "REVKEYSIG": "key {key} is revoked",
        "ERRSIG": "it was made by key {key}, which is not in the keyring",
    }
    # Several keys sign one file; what is wrong with a known key matters most.
    order = list(words)
    reasons = [
        (order.index(one.verdict), words[one.verdict].format(key=one.key)) for one in found if one.verdict in words
    ]
    return "; ".join(dict.fromkeys(text for _, text in sorted(reasons)))


def signatures(status: str) -> list[_Signature]:
    """Parse what gpgv writes to its --status-fd: one record for each signature. Pure."""
    found: list[_Signature] = []
    for line in status.splitlines():
        # Every line that says something of a signature says it of a key or of a time.
        words = line.split()
        if words[:1] != ["[GNUPG:]"] or len(words) < (2 if words[1:] == ["NEWSIG"] else 3):
            continue
        kind, rest = words[1], words[2:]
        if kind == "NEWSIG" or not found:
            found.append(_Signature())
        last = found[-1]
        if kind in ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG", "ERRSIG"):
            last.verdict, last.key = kind, rest[0]
        elif kind == "KEYEXPIRED" and rest[0].isdigit():
            last.key_expired = max(last.key_expired, int(rest[0]))
        elif kind == "VALIDSIG" and len(rest) > 2 and rest[2].isdigit():
            last.key, last.made = rest[-1], int(rest[2])
    return found


def has_keys(data: bytes) -> bool:
    """Whether a file is a keyring: it has an armoured block, or begins as a binary packet does."""
    return _KEY_BLOCK.search(data) is not None or data[:1] >= b"\x80"


def binary_keys(data: bytes, name: str) -> bytes:
    """Return a keyring in the binary form that gpgv reads; an armoured one is decoded.

    Args:
        data: The keyring.
        name: What error messages call it.

    Raises:
        MirrorError: It is armoured and damaged.
    """
    blocks = _KEY_BLOCK.findall(data)
    if not blocks:
        return data
    try:
        return b"".join(base64.b64decode(re.sub(rb"\s", b"", block), validate=True) for block in blocks)
    except binascii.Error as error:
        raise MirrorError(f"the keyring {name} is damaged: {error}", expected="OpenPGP public keys") from error
