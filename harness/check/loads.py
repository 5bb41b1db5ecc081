"""Loads an object on a fresh machine, and attaches its programs.

A verdict comes from a load without a log; the verifier is asked for its log only after it has refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.check import reason
from harness.check.cost import figures_of
from harness.check.object_file import ObjectFile, initial_values
from harness.check.plan import HOOKS, VETH_PAIR, Plan
from harness.check.results import Author, Verdict
from harness.check.trial import ENDS, LogWatch, Machines, TrialOutcome, ended, machine_of
from harness.errors import UsageError
from harness.guest import calls
from harness.guest.api.uapi import MMAPABLE
from harness.remote import transfer
from harness.remote.bpf import Bpf
from harness.remote.command import BpfError
from harness.remote.libbpf import PLACE_LOOKUPS, BpfObject, Definitions, Libbpf
from harness.vm.machine import Machine

_LOG_ROOM = 1 << 20
"""Bytes of the verifier's log that libbpf's own second attempt may fill."""
_WORDS_ROOM = 1 << 16
_STATS_ROOM = 1 << 12
_LONGEST_LOG = (1 << 24) - 1
"""Bytes: what kernels before 5.2 allow; they have no BPF_LOG_STATS."""
_LOG_STATS = 4
"""BPF_LOG_STATS (5.2): the verifier's words and counts alone, so that no log is too large."""
_ENOSPC = 28
_BTF = "/tmp/check-btf"  # noqa: S108 - a file of the guest, in memory


class Loads:
    """Loads of one object on one kernel, each on a fresh machine.

    Args:
        machines: The machines.
        plan: The plan.
        file: The object.

    Attributes:
        definitions: What the object has, known after the first load.
        refused_maps: The outcomes that blamed a map, which further loads do not create.
        refused_programs: Programs that were blamed.
    """

    def __init__(self, machines: Machines, plan: Plan, file: ObjectFile) -> None:
        self._machines = machines
        self._plan = plan
        self._file = file
        self.definitions = Definitions()
        self.refused_maps: dict[str, TrialOutcome] = {}
        self.refused_programs: set[str] = set()
        self._companions: set[str] = set()
        """Programs that the object needs even when it is tried with others: the initial values of a PROG_ARRAY."""

    def try_once(self, programs: Sequence[str] = (), *, attach: Sequence[str] = ()) -> TrialOutcome:
        """Load the object on a fresh machine, and attach its programs if the plan says so.

        Args:
            programs: Which to load; (): all that the plan asks for.
            attach: Which of them to attach; (): all.
        """
        outcome = self._trial(programs, attach)
        if outcome.step == "load" and outcome.errno == _ENOSPC:
            outcome = self._with_true_errno(programs, outcome)
        needed = outcome.reason.needs_program
        if needed in self.definitions.programs and needed not in self._companions | self.refused_programs:
            self._companions.add(needed)
            return self.try_once(programs, attach=attach)
        return outcome

    def _with_true_errno(self, programs: Sequence[str], outcome: TrialOutcome) -> TrialOutcome:
        for level, room in ((_LOG_STATS, _WORDS_ROOM), (1, _LONGEST_LOG)):
            again = self._trial(programs, (), level=level, room=room)
            if again.is_unclear or again.reason.line:
                return again
        return outcome

    def _trial(
        self, programs: Sequence[str], attach: Sequence[str], *, level: int = 0, room: int = _LOG_ROOM
    ) -> TrialOutcome:
        with machine_of(self._machines) as machine:
            watch = LogWatch(machine)
            steps = ["open"]
            try:
                outcome = self._load(machine, programs or self._plan.programs, steps, (level, room))
                outcome.faults = watch.faults()
                if outcome.faults and outcome.verdict is Verdict.OK:
                    outcome.verdict, outcome.reason = Verdict.FAULTED, reason.Reason(outcome.faults[0], Author.KERNEL)
                elif outcome.loaded is not None and self._plan.attach:
                    self._attach_all(outcome, outcome.loaded, attach or programs, watch)
            except ENDS as error:
                outcome = ended(error, steps[-1], watch)
            return outcome

    def _load(self, machine: Machine, programs: Sequence[str], steps: list[str], log: tuple[int, int]) -> TrialOutcome:
        bpf = Bpf(machine.new_process())
        libbpf = Libbpf(bpf.commands)
        obj: BpfObject | None = None
        try:
            obj = self._open(libbpf, bpf)
            self._remember(obj)
            steps.append("prepare")
            self._prepare(obj, bpf, programs)
            obj.share_log(*log)
            steps.append("load")
            obj.load(timeout=self._plan.load_timeout)
            return TrialOutcome(loaded=obj)
        except BpfError as error:
            if obj is None or steps[-1] != "load":
                return self._refused(libbpf, steps[-1], error)
            return self._with_flags(obj, self._refused(libbpf, "load", error, obj.shared_log()))

    def _with_flags(self, obj: BpfObject, outcome: TrialOutcome) -> TrialOutcome:
        """Return a refusal as libbpf's where libbpf has given a map of variables a flag that nobody asked for.

        Up to 1.1 at the least it toggles BPF_F_MMAPABLE on kernels that do not know this flag, when it is not set too.
        """
        why = outcome.reason
        about = self.definitions.maps.get(why.map)
        if about is None or not reason.OF_VARIABLES.search(why.map) or about.map_flags & MMAPABLE:
            return outcome
        if outcome.errno != reason.EINVAL or not obj.map_flags(why.map) & MMAPABLE:
            return outcome
        line = f"{why.line}: libbpf has set BPF_F_MMAPABLE, which this kernel does not know; it came with 5.5"
        return replace(outcome, reason=replace(why, line=line, author=Author.LIBBPF))

    def _refused(self, libbpf: Libbpf, step: str, error: BpfError, log: str = "") -> TrialOutcome:
        why = reason.explain(error.errno, error.log, log)
        return TrialOutcome(Verdict.REFUSED, step, error.errno, why, log or error.log, f"libbpf {libbpf.version}")

    def _open(self, libbpf: Libbpf, bpf: Bpf) -> BpfObject:
        btf = ""
        if self._plan.btf is not None:
            transfer.push(bpf.commands.process, self._plan.btf, _BTF)
            btf = _BTF
        return libbpf.open(self._file.data, self._plan.name.partition(".")[0], btf=btf)

    def _remember(self, obj: BpfObject) -> None:
        """Keep what the object has; refuse a plan that names something else."""
        self.definitions = obj.definitions
        for kind, known, named in (
            ("map", tuple(obj.definitions.maps), [one.outer for one in self._plan.templates]),
            ("map", tuple(obj.definitions.maps), [one.map for one in self._plan.maps]),
            ("program", tuple(obj.definitions.programs), self._plan.programs),
        ):
            unknown = sorted(set(named).difference(known))
            if unknown:
                raise UsageError(
                    f"{self._plan.path} has no {kind} {', '.join(unknown)}",
                    expected=f"one of {', '.join(known) or 'none at all'}",
                )

    def _prepare(self, obj: BpfObject, bpf: Bpf, programs: Sequence[str]) -> None:
        if programs:
            obj.autoload(*programs, *self._companions.difference(programs))
        for name in self.refused_maps:
            obj.set_map(name, "autocreate", 0)
        for setting in self._plan.maps:
            obj.set_map(setting.map, setting.setting, setting.value)
        for section, offset, data in initial_values(self._file, self._plan):
            obj.set_bytes(section, offset, data)
        if any(one.target in VETH_PAIR for one in self._plan.places):
            bpf.commands.ask("veth", calls.Hooks.make_interface_pair, first=VETH_PAIR[0], second=VETH_PAIR[1])
        for one in self._plan.templates:
            try:
                template = bpf.map(
                    one.type,
                    key_size=one.key_size,
                    value_size=one.value_size,
                    max_entries=one.max_entries,
                    map_flags=one.map_flags,
                )
            except BpfError as error:
                # As libbpf puts it for a template in the object.
                said = f"map '{one.outer}': failed to create inner map: {error.name}"
                raise BpfError(error.errno, error.command, error.attributes, log=said) from None
            obj.set_inner_map(one.outer, template)

    def _attach_all(self, outcome: TrialOutcome, obj: BpfObject, names: Sequence[str], watch: LogWatch) -> None:
        """Attach one program after the other, until one ends the process or makes the kernel complain."""
        optional = self.optional()
        for name in names or self._plan.programs or [name for name in obj.programs if name not in optional]:
            try:
                one = self._attach(obj, name)
                one.faults = watch.faults()
            except ENDS as error:
                one = ended(error, "attach", watch)
            outcome.attached[name] = one
            if one.is_unclear or one.faults:
                return

    def _attach(self, obj: BpfObject, name: str) -> TrialOutcome:
        """Attach a program as its section says, or else to the place of the plan that is for its type."""
        try:
            obj.attach(name).close()
        except BpfError as error:
            if error.errno != reason.EOPNOTSUPP or error.log:
                return self._refused(obj.library, "attach", error)
        else:
            return TrialOutcome(step="attach")
        kind = obj.definitions.programs[name].type
        place = next((one for one in self._plan.places if kind in HOOKS[one.hook]), None)
        if place is None:
            return TrialOutcome(reason=reason.Reason("loaded; its section does not say where to attach", Author.LIBBPF))
        where = f"attached to {place.hook} {place.target}".rstrip()
        try:
            if place.hook == "socket":
                self._bpf(obj).socket_filter(obj.prog(name)).close()
            else:
                obj.attach_to(name, place.hook, place.target).close()
        except BpfError as error:
            outcome = self._refused(obj.library, "attach", error)
            if error.command in PLACE_LOOKUPS:
                kind = "cgroup" if place.hook == "cgroup" else "interface"
                lacks = reason.Reason(f"the guest has no {kind} {place.target}", Author.HARNESS)
                return replace(outcome, reason=lacks)
            why = outcome.reason.line or f"{where.replace('attached', 'attaching')} was refused"
            # libbpf passes on what the kernel answered, without a word of its own.
            author = outcome.reason.author if outcome.reason.line else Author.KERNEL
            return replace(outcome, reason=replace(outcome.reason, line=why, author=author))
        return TrialOutcome(step="attach", reason=reason.Reason(where, Author.KERNEL))

    def _bpf(self, obj: BpfObject) -> Bpf:
        return Bpf(obj.library.commands.process)

    def optional(self) -> list[str]:
        """Return the programs that a loader does not load unless it says so."""
        return [name for name, about in self.definitions.programs.items() if not about.autoload]

    def measure(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Load programs once more, with the verifier's counts; return what each costs."""
        with machine_of(self._machines) as machine:
            bpf = Bpf(machine.new_process())
            obj = self._open(Libbpf(bpf.commands), bpf)
            self._prepare(obj, bpf, names)
            for name in names:
                obj.keep_log(name, _LOG_STATS, _STATS_ROOM)
            try:
                obj.load(timeout=self._plan.load_timeout)
            except BpfError:
                # Before 5.2 the verifier does not know this log; what the kernel reports of a program is left.
                obj = self._open(Libbpf(bpf.commands), bpf)
                self._prepare(obj, bpf, names)
                obj.load(timeout=self._plan.load_timeout)
                return {name: figures_of("", obj.prog(name).info()) for name in names}
            return {name: figures_of(obj.log_of(name), obj.prog(name).info()) for name in names}
