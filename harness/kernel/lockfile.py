"""Lock files: the exact kernels of a run, so that only the user decides when a newer release is used.

A lock file names each kernel by provider and key, and has the sha256 of its boot image and of the packages it
came from. It is JSON with one object for each kernel, in order of version, so that people can read and diff it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import SelectorError
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.util import architecture, cache

DEFAULT = "kernels.lock"
FORMAT = 1


def path_of(word: str) -> Path:
    """Return the lock file that `@word` names: `@lock` is kernels.lock in the working folder."""
    return Path(DEFAULT if word == "lock" else word).expanduser()


def read(path: Path) -> list[Choice]:
    """Read a lock file.

    Raises:
        SelectorError: It does not exist or is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise SelectorError(
                f"the lock file {path} has format {data['format']!r}",
                expected=f"format {FORMAT}",
                hint="`harness kernels lock` writes a new one",
            )
        choices = [
            Choice(
                label=str(entry["label"]),
                version=KernelVersion.parse(str(entry["version"])),
                provider=str(entry["provider"]),
                key=str(entry["key"]),
                flavour=str(entry["flavour"]),
                sha256=str(entry["sha256"]),
                # Lock files did not always name it: all kernels were of this one.
                architecture=architecture.require(str(entry.get("architecture", "amd64"))).name,
            )
            for entry in data["kernels"]
        ]
    except OSError as error:
        raise SelectorError(
            f"the lock file {path} cannot be read: {error.strerror}",
            expected="a file that `harness kernels lock` wrote",
            hint=f"harness kernels lock --output {path} SELECTOR...",
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SelectorError(
            f"the lock file {path} is damaged: {type(error).__name__} {error}",
            expected="a file that `harness kernels lock` wrote",
            hint=f"harness kernels lock --output {path} SELECTOR...",
        ) from error
    if not choices:
        raise SelectorError(f"the lock file {path} names no kernel", hint="harness kernels lock SELECTOR...")
    return choices


def write(path: Path, choices: Sequence[Choice], packages: Mapping[str, Mapping[str, str]]) -> None:
    """Write a complete lock file, or none.

    Args:
        path: The lock file.
        choices: The kernels, each with its sha256.
        packages: For each choice's key, the sha256 of the packages it came from, by file name.

    Raises:
        CacheError: It cannot be written.
    """
    data = {
        "format": FORMAT,
        "kernels": [
            {
                "label": choice.label,
                "version": str(choice.version),
                "provider": choice.provider,
                "key": choice.key,
                "flavour": choice.flavour,
                "architecture": choice.architecture,
                "sha256": choice.sha256,
                "packages": dict(packages.get(choice.key, {})),
            }
            for choice in choices
        ],
    }
    with cache.new_file(path.absolute()) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n")
