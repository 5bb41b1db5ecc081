"""Tries an object on one kernel.

A trial is one load of the object in a guest process: open, prepare, load and, if asked for, attach. The first trial
loads the object whole, as a loader does. When that is refused, further trials on fresh machines leave out what was
blamed, until the rest loads: so every row has the answer of a load in which nothing else was wrong. A trial that kills
its process, takes too long, makes the kernel complain or panics it does not say which program is to blame: then each
program is tried alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.check import reason
from harness.check.cost import over_budget
from harness.check.loads import Loads
from harness.check.object_file import ObjectFile
from harness.check.plan import Plan
from harness.check.results import MAPS_ROW, Author, Kind, Result, Verdict
from harness.check.trial import NO_MEMORY, Machines, TrialOutcome

_NOT_CHOSEN = TrialOutcome(
    step="open",
    reason=reason.Reason('not loaded: it is optional (SEC("?...")); --program NAME tries it', Author.LIBBPF),
)


class Trials:
    """The trials of one object on one kernel.

    Args:
        machines: The machines.
        plan: The plan.
        file: The object.
        label: The kernel's name in results.

    Attributes:
        loads: What loads the object.
    """

    def __init__(self, machines: Machines, plan: Plan, file: ObjectFile, label: str) -> None:
        self.loads = Loads(machines, plan, file)
        self._plan = plan
        self._label = label

    def all(self) -> list[Result]:
        """Return the results: the object's, then that of its maps, if there is one, and one for each program."""
        first = outcome = self.loads.try_once()
        names = self._plan.programs or tuple(self.loads.definitions.programs)
        rows: dict[str, Result] = {}
        optional = [] if self._plan.programs else self.loads.optional()
        left = [name for name in self.loads.definitions.programs if name in names and name not in optional]
        tail = list(left)
        while outcome.verdict is Verdict.REFUSED and outcome.step == "load" and self._take_out(outcome, left, rows):
            # Those before the blamed one were loaded already: what comes after it is tried again, then all of them.
            blamed = outcome.reason.program
            tail = tail[tail.index(blamed) + 1 :] if blamed in tail else tail
            if not left:
                break
            outcome = self.loads.try_once(tail or left)
        if outcome.verdict is Verdict.OK and len(tail or left) < len(left):
            outcome = self.loads.try_once(left)
        if outcome.verdict is Verdict.OK or (outcome.step == "load" and outcome.reason.needs_program):
            rows |= self._loaded(outcome, left)
        elif outcome.step == "load":
            rows |= {name: self._alone(name, outcome, left) for name in left}
        if first.step != "open":
            rows |= {name: self._row(name, _NOT_CHOSEN) for name in optional}
        if self._plan.stats and (loaded := [name for name in left if name in rows and rows[name].is_good]):
            costs = self.loads.measure(loaded)
            rows |= {name: self._with_cost(rows[name], cost) for name, cost in costs.items()}
        return [self._object(first), *self._maps(first), *(rows[name] for name in names if name in rows)]

    def _with_cost(self, row: Result, cost: dict[str, int]) -> Result:
        row = replace(row, cost=cost)
        too_much = over_budget(cost, self._plan.budgets)
        if not too_much:
            return row
        return replace(row, verdict=Verdict.OVER_BUDGET, author=Author.HARNESS, by="harness", line=too_much)

    def _take_out(self, outcome: TrialOutcome, left: list[str], rows: dict[str, Result]) -> bool:
        """Take what was blamed out of further trials; return False when it cannot be taken out."""
        why = outcome.reason
        if why.map in self.loads.definitions.maps and why.map not in self.loads.refused_maps:
            self.loads.refused_maps[why.map] = outcome
            return True
        if why.program not in left:
            return False
        left.remove(why.program)
        self.loads.refused_programs.add(why.program)
        # A program that uses a refused map is refused because of it.
        rows[why.program] = self._row(why.program, self.loads.refused_maps.get(why.needs_map, outcome))
        return True

    def _loaded(self, outcome: TrialOutcome, names: Sequence[str]) -> dict[str, Result]:
        """Return the results of programs that were loaded together; attach those that are left, if asked for."""
        if outcome.verdict is not Verdict.OK:
            outcome = TrialOutcome()  # they were loaded before the step that was refused
        if not self._plan.attach:
            return {name: self._row(name, outcome) for name in names}
        rows: dict[str, Result] = {}
        while True:
            rows |= {name: self._row(name, one) for name, one in outcome.attached.items()}
            left = [name for name in names if name not in rows]
            if not left:
                return rows
            # The process, or the kernel, ended when the one before was attached.
            outcome = self.loads.try_once(names, attach=left)
            if not outcome.attached:
                return rows | {name: self._row(name, outcome) for name in left}

    def _alone(self, name: str, before: TrialOutcome, whole: Sequence[str]) -> Result:
        """Try a program without the others, after a trial with others that did not say which was to blame."""
        outcome = before if list(whole) == [name] else self.loads.try_once([name])
        if outcome.verdict is Verdict.OK:
            return self._loaded(outcome, [name])[name]
        return self._row(name, self.loads.refused_maps.get(outcome.reason.needs_map, outcome))

    # Results.

    def _object(self, first: TrialOutcome) -> Result:
        row = self._row(self._plan.name, first, Kind.OBJECT)
        blamed = first.reason.program
        # At open, no other row has the message.
        message = row.message if first.step == "open" else ""
        return replace(row, line=f"{blamed}: {row.line}", message=message) if blamed else row

    def _maps(self, first: TrialOutcome) -> list[Result]:
        """Return the row of the maps: when one was refused, or there is nothing but maps."""
        if self.loads.refused_maps:
            outcome = next(iter(self.loads.refused_maps.values()))
        elif not self.loads.definitions.programs and first.step == "load":
            outcome = first
        else:
            return []
        row = self._row(MAPS_ROW, outcome, Kind.MAPS)
        others = [one.reason.line for one in self.loads.refused_maps.values() if one is not outcome]
        return [replace(row, line="; ".join([row.line, *others]) if others else row.line)]

    def _hint(self, outcome: TrialOutcome) -> str:
        """Return what a user can do about a refusal."""
        no_memory = outcome.errno == reason.ENOMEM and outcome.reason.author is Author.KERNEL
        if no_memory or outcome.reason.line == NO_MEMORY:
            return self._plan.memory_hint
        if reason.OF_VARIABLES.search(outcome.reason.needs_map):
            return "the kernel has no maps for global variables; they came in 5.2"
        if self._plan.btf is None and reason.LACKS_TYPES.search(outcome.message):
            return "the kernel has no types (BTF) of its own; --btf FILE gives them"
        sized = [one.map for one in self._plan.maps if one.setting == "max_entries"]
        empty = [
            name
            for name in dict.fromkeys([outcome.reason.map, *self.loads.refused_maps])
            if (about := self.loads.definitions.maps.get(name)) is not None
            and about.max_entries == 0
            and name not in sized
        ]
        if outcome.step == "load" and outcome.reason.map and empty:
            options = " ".join(f"--map {name}:max_entries=N" for name in empty)
            return f"max_entries is 0; if the loader sets it: {options}"
        return ""

    def _row(self, name: str, outcome: TrialOutcome, kind: Kind = Kind.PROGRAM) -> Result:
        """Return a result of an outcome."""
        verdict, author, line = outcome.verdict, outcome.reason.author, outcome.reason.line
        if verdict is Verdict.OK and outcome.faults:
            verdict, author, line = Verdict.FAULTED, Author.KERNEL, outcome.faults[0]
        if verdict is Verdict.REFUSED and outcome.errno == reason.ENOMEM and author is Author.KERNEL:
            author = Author.HARNESS
        is_good = verdict is Verdict.OK
        return Result(
            kernel=self._label,
            object=self._plan.name,
            program=name,
            kind=kind,
            verdict=verdict,
            step=outcome.step,
            errno=outcome.errno,
            author=None if is_good else author,
            by="" if is_good else outcome.by if author is Author.LIBBPF else author.value,
            line=line,
            hint=self._hint(outcome) if verdict in (Verdict.REFUSED, Verdict.KILLED) else "",
            message=outcome.message,
            faults=outcome.faults,
        )
