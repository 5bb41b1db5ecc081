"""What a check does: the object, what is changed before it is loaded, where it is attached, the user's loader."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.check.cost import Budget
from harness.errors import UsageError
from harness.guest.api.uapi import MAP_TYPES
from harness.util.architecture import ByteOrder

LOAD_TIMEOUT = 120.0
LOADER_TIMEOUT = 60.0


@dataclass(frozen=True)
class MapTemplate:
    """A template for an outer map that has none in the object.

    Attributes:
        outer: The outer map's name.
        type: "hash", "array", ...
        key_size: Bytes.
        value_size: Bytes.
        max_entries: Elements.
        map_flags: Flags.
    """

    outer: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0


def parse_template(text: str) -> MapTemplate:
    """Read OUTER=TYPE:KEY_SIZE:VALUE_SIZE:MAX_ENTRIES[:FLAGS], such as "traced=hash:4:4:8".

    Raises:
        UsageError: It has another form.
    """
    outer, _, rest = text.partition("=")
    kind, *numbers = rest.split(":")
    try:
        sizes = [int(number, 0) for number in numbers]
    except ValueError:
        sizes = []
    if not outer or kind not in MAP_TYPES or len(sizes) not in (3, 4) or any(size < 0 for size in sizes):
        raise UsageError(
            f"{text!r} does not describe an inner map",
            expected="OUTER=TYPE:KEY_SIZE:VALUE_SIZE:MAX_ENTRIES[:FLAGS], such as traced=hash:4:4:8",
            hint=f"types are {', '.join(MAP_TYPES)}" if kind not in MAP_TYPES else "",
        )
    return MapTemplate(outer, kind, *sizes)


SETTINGS = {
    "type": "type",
    "key_size": "key_size",
    "value_size": "value_size",
    "max_entries": "max_entries",
    "flags": "map_flags",
    "numa_node": "numa_node",
    "autocreate": "autocreate",
}
"""What `--map` can set: the option's word, and the part after bpf_map__set_ in libbpf."""


@dataclass(frozen=True)
class MapSetting:
    """What a loader sets in a map before it is created.

    Attributes:
        map: The map's name.
        setting: One of the values of :data:`SETTINGS`.
        value: A number.
    """

    map: str
    setting: str
    value: int


def parse_map(text: str) -> list[MapSetting]:
    """Read NAME:SETTING=VALUE[,SETTING=VALUE ...], such as "rings:max_entries=8,flags=0x4".

    Raises:
        UsageError: It has another form.
    """
    name, _, rest = text.partition(":")
    found = []
    for word in rest.split(","):
        setting, _, value = word.partition("=")
        number = MAP_TYPES.get(value) if setting == "type" else _number(value)
        if not name or setting not in SETTINGS or number is None or not 0 <= number < 1 << 32:
            raise UsageError(
                f"{text!r} does not say what to set in a map",
                expected="NAME:SETTING=NUMBER[,SETTING=NUMBER ...], such as rings:max_entries=8,flags=0x4",
                hint=f"settings are {', '.join(SETTINGS)}",
            )
        found.append(MapSetting(name, SETTINGS[setting], number))
    return found


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


@dataclass(frozen=True)
class Variable:
    """A global variable's initial value.

    Attributes:
        name: Its name.
        value: A number, or text for an array of characters.
    """

    name: str
    value: int | str

    def encoded(self, size: int, byte_order: ByteOrder) -> bytes:
        """Return the bytes to put there.

        Args:
            size: The variable's size in bytes.
            byte_order: The object's.

        Raises:
            UsageError: The value does not fit.
        """
        if isinstance(self.value, str):
            data = self.value.encode()
            if len(data) < size:
                return data.ljust(size, b"\0")
        elif size in (1, 2, 4, 8) and -(1 << (8 * size - 1)) <= self.value < 1 << 8 * size:
            return self.value.to_bytes(size, byte_order, signed=self.value < 0)
        raise UsageError(
            f"{self.value!r} does not fit into the variable {self.name}, which has {size} bytes",
            expected="a number that fits into 1, 2, 4 or 8 bytes, or a shorter text for an array of characters",
        )


def parse_variable(text: str) -> Variable:
    """Read NAME=VALUE: a number, true, false, or a text.

    Raises:
        UsageError: It has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+", name):
        raise UsageError(f"{text!r} does not set a variable", expected="NAME=VALUE, such as targ_pid=1234")
    number = {"true": 1, "false": 0}.get(value, _number(value))
    return Variable(name, value if number is None else number)


HOOKS = {
    "xdp": ("xdp",),
    "tc": ("sched_cls",),
    "cgroup": (
        "cgroup_skb",
        "cgroup_sock",
        "cgroup_sock_addr",
        "cgroup_device",
        "cgroup_sysctl",
        "cgroup_sockopt",
        "sock_ops",
    ),
    "netns": ("flow_dissector", "sk_lookup"),
    "socket": ("socket_filter",),
}
"""What `--attach-to` can name, and the types of programs that can be attached there."""

VETH_PAIR = ("veth0", "veth1")
"""Interfaces that the guest gets when a place names one of them."""

_MODULES = {"tc": ("sch_ingress", "cls_bpf")}


@dataclass(frozen=True)
class Place:
    """Where programs whose section does not say it are attached.

    Attributes:
        hook: One of :data:`HOOKS`.
        target: A network interface, a path below the cgroup file system; "" where the hook has none.
    """

    hook: str
    target: str


def parse_place(text: str) -> Place:
    """Read HOOK=TARGET: "xdp=lo", "tc=lo", "cgroup=/", "netns", "socket".

    Raises:
        UsageError: It has another form.
    """
    hook, _, target = text.partition("=")
    if hook not in HOOKS or (hook in ("xdp", "tc", "cgroup")) != bool(target):
        raise UsageError(
            f"{text!r} is not a place to attach to",
            expected="xdp=INTERFACE, tc=INTERFACE, cgroup=PATH, netns or socket",
            hint="the guest has the interface lo; veth makes a pair of interfaces, veth0 and veth1: xdp=veth0",
        )
    return Place(hook, target)


@dataclass(frozen=True)
class Loader:
    """The user's own loader.

    Attributes:
        words: The program or script, as a path of the host or a name on PATH, and its arguments; "{object}" is replaced
            by the object's path in the guest. () for none.
        timeout: Seconds.
        until: A text whose appearance in the output is good; the loader is then interrupted, as by Ctrl-C. "" for none.
        alive: Seconds after which a loader that still runs is good; it is then interrupted. 0 for none.
    """

    words: tuple[str, ...] = ()
    timeout: float = LOADER_TIMEOUT
    until: str = ""
    alive: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The plan of a check.

    Attributes:
        path: The object, or its C source, which is compiled for the architecture of each kernel.
        templates: Templates for outer maps that have none in the object.
        programs: Programs to try; default: all.
        maps: What is set in maps.
        variables: Initial values of global variables.
        attach: Whether to attach the loaded programs.
        places: Where to attach programs whose section does not say it.
        loader: The user's loader.
        btf: A file with the kernel's types, in place of the kernel's own; None for those.
        memory: MiB of the guest.
        load_timeout: Seconds that one load of the object may take.
        stats: Whether to measure what verification costs.
        budgets: The most that a program may cost.
        flags: More flags for clang, for a C source.
    """

    path: Path
    templates: tuple[MapTemplate, ...] = ()
    programs: tuple[str, ...] = ()
    maps: tuple[MapSetting, ...] = ()
    variables: tuple[Variable, ...] = ()
    attach: bool = False
    places: tuple[Place, ...] = ()
    loader: Loader = Loader()
    btf: Path | None = None
    memory: int = 256
    load_timeout: float = LOAD_TIMEOUT
    stats: bool = False
    budgets: tuple[Budget, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The kernel modules that the places need."""
        found = [module for one in self.places for module in _MODULES.get(one.hook, ())]
        pair = ["veth"] if any(one.target in VETH_PAIR for one in self.places) else []
        return tuple(dict.fromkeys([*found, *pair]))

    @property
    def memory_hint(self) -> str:
        """What to do about a guest that has too little memory."""
        return f"the guest has {self.memory} MiB of memory; more with --memory {4 * self.memory}"

    @property
    def name(self) -> str:
        """The object's name in results."""
        return self.path.name
