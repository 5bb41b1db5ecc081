"""The names that a test module imports: types of fixtures, and helpers to state the expected answers."""

from __future__ import annotations

from harness.guest.api import asm, btf, uapi
from harness.guest.api.uapi import ANY, EXIST, LOCK, NOEXIST
from harness.kernel.types import Choice, Kernel
from harness.remote.bcc import Bcc, BccModule
from harness.remote.bpf import Bpf
from harness.remote.command import Answer, BpfError, errno_of, raises_errno
from harness.remote.guest import Guest
from harness.remote.libbpf import BpfObject, Libbpf
from harness.remote.map import Batch, Map
from harness.remote.objects import Btf, Held, Link, Program, Run, SocketFilter
from harness.remote.stress import Stress
from harness.remote.waiting import eventually
from harness.util.errnos import ENOTSUPP, errno_name
from harness.vm.machine import Machine

__all__ = [
    "ANY",
    "ENOTSUPP",
    "EXIST",
    "LOCK",
    "NOEXIST",
    "Answer",
    "Batch",
    "Bcc",
    "BccModule",
    "Bpf",
    "BpfError",
    "BpfObject",
    "Btf",
    "Choice",
    "Guest",
    "Held",
    "Kernel",
    "Libbpf",
    "Link",
    "Machine",
    "Map",
    "Program",
    "Run",
    "SocketFilter",
    "Stress",
    "asm",
    "btf",
    "errno_name",
    "errno_of",
    "eventually",
    "raises_errno",
    "uapi",
]
