"""Kernel configuration fragments, and a comparison with the finished `.config`.

`make olddefconfig` never fails: it silently drops a setting whose dependencies are missing. So the harness
compares the settings that it asked for with the result.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.errors import InfrastructureError, SelectorError
from harness.kernel.version import KernelVersion

_SETTING = re.compile(r"CONFIG_(\w+)=(\S+)(?:\s+#\s*(.*))?")
_UNSET = re.compile(r"#\s*CONFIG_(\w+) is not set(?:\s+#\s*(.*))?")
_SYMBOL = re.compile(r"^\s*(?:menu)?config\s+(\w+)", re.MULTILINE)


ANY_VERSION = KernelVersion(0, 0)


@dataclass(frozen=True)
class Setting:
    """One line of a fragment.

    Attributes:
        symbol: Name without "CONFIG_".
        value: "y", "n", a number or a quoted string.
        required: Whether a kernel without it is unusable.
        since: The first version that gets the setting.
        tool: The program that must be on PATH for the setting to apply, or "".
    """

    symbol: str
    value: str
    required: bool = False
    since: KernelVersion = ANY_VERSION
    tool: str = ""

    def line(self) -> str:
        """Return it as a line of a `.config`."""
        return f"# CONFIG_{self.symbol} is not set" if self.value == "n" else f"CONFIG_{self.symbol}={self.value}"


def parse_fragment(text: str, name: str) -> list[Setting]:
    """Read a fragment of `kernels/configs/`.

    Args:
        text: The fragment.
        name: Its name in error messages.

    Raises:
        InfrastructureError: A line is malformed.
    """
    settings = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if match := _UNSET.fullmatch(stripped):
            symbol, value, notes = match[1], "n", match[2] or ""
        elif match := _SETTING.fullmatch(stripped):
            symbol, value, notes = match[1], match[2], match[3] or ""
        elif not stripped or (stripped.startswith("#") and "CONFIG_" not in stripped):
            continue
        else:
            raise _malformed(name, number, line)
        setting = _annotated(symbol, value, notes)
        if setting is None:
            raise _malformed(name, number, line)
        settings.append(setting)
    return settings


def _annotated(symbol: str, value: str, notes: str) -> Setting | None:
    required, since, tool = False, ANY_VERSION, ""
    words = iter(notes.split())
    for word in words:
        if word == "required":
            required = True
        elif word == "since":
            try:
                since = KernelVersion.parse(next(words, ""))
            except SelectorError:
                return None
        elif word == "with":
            tool = next(words, "")
        else:
            return None
    return Setting(symbol, value, required, since, tool)


def _malformed(name: str, number: int, line: str) -> InfrastructureError:
    return InfrastructureError(
        f"line {number} of the configuration fragment {name} is malformed: {line.strip()!r}",
        expected="CONFIG_X=value or '# CONFIG_X is not set', then perhaps '# required', 'since X.Y', 'with TOOL'",
    )


def applicable(settings: Iterable[Setting], version: KernelVersion, has_tool: Callable[[str], bool]) -> list[Setting]:
    """Return the settings for one kernel, the last one for each symbol.

    Args:
        settings: Fragments, one after the other; later settings override earlier ones.
        version: The kernel's version.
        has_tool: Returns whether a program is on PATH.
    """
    chosen: dict[str, Setting] = {}
    for setting in settings:
        if version >= setting.since and (not setting.tool or has_tool(setting.tool)):
            chosen[setting.symbol] = setting
    return list(chosen.values())


def parse_config(text: str) -> dict[str, str]:
    """Read a `.config`: value by symbol, without symbols that are not set."""
    found = (re.fullmatch(r"CONFIG_(\w+)=(.*)", line) for line in text.splitlines())
    return {match[1]: match[2] for match in found if match}


def symbols_of(kconfig_texts: Iterable[str]) -> set[str]:
    """Return all symbols that the Kconfig files define."""
    return {symbol for text in kconfig_texts for symbol in _SYMBOL.findall(text)}


@dataclass(frozen=True)
class Gaps:
    """The requested settings that a finished configuration lacks.

    Attributes:
        required: Symbols without which the kernel is unusable.
        dropped: Other symbols of the tree: a dependency is missing, or another value was chosen.
        unknown: Symbols that the tree does not define.
    """

    required: tuple[str, ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def gaps(settings: Iterable[Setting], config: dict[str, str], known: set[str]) -> Gaps:
    """Compare the requested settings with the finished configuration.

    Args:
        settings: The requested settings.
        config: The finished configuration.
        known: All symbols that the tree defines.
    """
    missing = [setting for setting in settings if config.get(setting.symbol, "n") != setting.value]
    return Gaps(
        required=tuple(setting.symbol for setting in missing if setting.required),
        dropped=tuple(setting.symbol for setting in missing if not setting.required and setting.symbol in known),
        unknown=tuple(setting.symbol for setting in missing if not setting.required and setting.symbol not in known),
    )
