"""The model of outer maps: what it foretells, and that it finds a kernel that does otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from harness.contracts import contracts
from harness.contracts.sequences.comparison import difference, seen, unexplained
from harness.contracts.sequences.facts import ANY, SETTINGS, Facts, OuterSetting, common, facts
from harness.contracts.sequences.model import Model, Step
from harness.contracts.sequences.script import script
from harness.contracts.sequences.strategy import Foretold, check
from harness.guest.sequences import Player
from harness.guest.steps import OPERATIONS
from harness.kernel.version import KernelVersion

HASH = SETTINGS["hash_of_maps"]


def answers(model: Model, *steps: Any) -> list[Any]:
    return [model.take(*step)[1]["answer"] for step in steps]


def test_an_inner_map_lives_as_long_as_a_descriptor_or_a_slot_holds_it() -> None:
    model = Model(HASH, Facts())
    steps: list[Any] = [("create", 0), ("insert", 1, 1, 0), ("close", 1), ("delete", 1)]
    assert [model.take(*step)[1]["alive"] for step in steps] == [[0, 1], [0, 1], [0, 1], [0]]


def test_a_released_outer_map_releases_its_inner_maps_which_may_take_a_while() -> None:
    model = Model(HASH, Facts())
    answers(model, ("create", 0), ("insert", 1, 1, 0), ("close", 1), ("load",), ("close_outer",))
    assert model.is_alive(1)
    step, foretold = model.take("unload")
    assert step.gone == (1,)
    assert (foretold["alive"], foretold["outer"]) == ([0], None)


def test_flags_and_sizes_are_answered_as_the_kernel_orders_its_checks() -> None:
    given = [("create", 2), ("insert", 1, 1, 3), ("insert", 1, 0, 3), ("insert", 1, 0, 2), ("insert", 9, 0, 0)]
    assert answers(Model(HASH, Facts()), *given) == ["ok", "EINVAL", "EINVAL", "ENOENT", "ok"]
    assert answers(Model(SETTINGS["array_of_maps"], Facts()), *given)[1:] == ["EINVAL", "EINVAL", "EINVAL", "E2BIG"]


def test_a_batch_goes_as_far_as_it_can() -> None:
    model = Model(HASH, Facts())
    assert answers(model, ("batch_insert", 1, 0, 2, 0, 3, 0, 4, 0)) == [["E2BIG", 3]]
    assert answers(model, ("batch_delete", 2, 9, 1), ("batch_take",)) == [["ENOENT", 1], ["batch", {1: 0, 3: 0}]]


@pytest.mark.parametrize("word", ["EINVAL", "ENOTSUPP"])
def test_a_batch_command_that_a_map_does_not_have_leaves_the_count_as_it_was(word: str) -> None:
    lacking = Model(HASH, Facts(batch=dict.fromkeys(Facts().batch, word)))
    assert answers(lacking, ("batch_insert", 1, 0, 2, 0)) == [[word, 2]]


def test_a_frozen_map_leaves_the_count_as_it_was() -> None:
    assert answers(Model(HASH, Facts()), ("freeze_outer",), ("batch_delete", 1, 2, 3))[1] == ["EPERM", 3]


def test_what_no_table_knows_is_equal_to_everything() -> None:
    foretold = {"answer": ["EPERM", ANY], "outer": ANY, "inners": {}, "alive": None}
    assert not difference(foretold, {"answer": ["EPERM", 7], "outer": {1: 2}, "inners": {}, "alive": None})
    assert "the answer: expected EPERM anything, got ok 1" in difference(
        foretold, seen({"answer": [0, 1], "outer": None, "inners": {}, "alive": None})
    )


def test_a_difference_between_kernels_is_explained_by_what_is_foretold_of_both() -> None:
    rest: dict[str, Any] = {"outer": {}, "inners": {}, "alive": []}
    old, new = ({"answer": answer, **rest} for answer in ("EBUSY", "EPERM"))
    assert not unexplained((old, new), (old, new))
    assert unexplained((old, old), (old, new)) == "the answer: the first EBUSY, the second EPERM"
    assert unexplained(({"answer": ANY, **rest}, new), (old, new))
    assert not unexplained((old, old), (new, new))


def test_what_could_not_be_opened_is_not_used() -> None:
    model = Model(HASH, Facts())
    steps = [("close", 0), ("reopen", 0), ("close", 0), ("insert", 1, 0, 0), ("close_outer",), ("keys",)]
    assert answers(model, *steps) == ["ok", "ENOENT", "nothing open", "nothing open", "ok", "nothing open"]


def test_a_sequence_for_two_kernels_leaves_out_what_one_cannot_be_asked() -> None:
    both = common(Facts(), Facts(ids=False, batch={**Facts().batch, "delete": ANY}))
    assert not both.ids
    assert both.batch["delete"] is ANY
    assert both.batch["update"] == "ok"


@pytest.mark.parametrize("setting", SETTINGS)
def test_facts_come_from_the_tables_of_contracts(setting: str) -> None:
    old, new = (facts(contracts(), KernelVersion.parse(text), SETTINGS[setting]) for text in ("4.12.4", "6.12.30"))
    assert (old.lookup, new.lookup) == ("ENOTSUPP", "ok")
    assert (old.batch["update"], new.batch["update"]) == ("EINVAL", "ok")
    assert (old.freeze, new.second_freeze) == ("EINVAL", "EPERM")
    assert (old.leaks, new.leaks) == (setting == "hash_of_maps", False)


def test_all_sides_know_the_operations_of_the_table() -> None:
    for where, prefix in ((Model, "_"), (Player, "step_")):
        for name, operation in OPERATIONS.items():
            _, *numbers = inspect.signature(getattr(where, prefix + name)).parameters.values()
            repeated = any(one.kind is one.VAR_POSITIONAL for one in numbers)
            assert repeated or len(numbers) == len(operation.numbers), f"{where.__name__}: {name}"
    assert {name for name in vars(Player) if name.startswith("step_")} == {f"step_{name}" for name in OPERATIONS}


def test_the_maps_that_a_step_uses_are_among_its_numbers() -> None:
    assert OPERATIONS["insert"].maps((4, 1, 2)) == [1]
    assert OPERATIONS["batch_insert"].maps((4, 1, 3, 2)) == [1, 2]
    assert OPERATIONS["write"].maps((2, 0, 7)) == [2]
    assert OPERATIONS["reopen"].maps((2,)) == OPERATIONS["run"].maps((3,)) == []


class Kernel:
    """Carries sequences out by the model itself, with a defect."""

    def __init__(self, defect: Callable[[Model], None]) -> None:
        self._defect = defect

    def judge(self, setting: OuterSetting, foretold: Foretold) -> None:
        kernel = Model(setting, Facts())
        self._defect(kernel)
        for number, (step, expected) in enumerate(foretold):
            differs = difference(expected, kernel.take(step.name, *step.arguments)[1])
            if differs:
                raise AssertionError(
                    script(setting, [(one, e["answer"]) for one, e in foretold[: number + 1]], differs)
                )


def replaced_maps_leak(model: Model) -> None:
    model.facts = Facts(leaks=True)


def deletes_nothing(model: Model) -> None:
    model._remove = lambda key: "ok" if key in model.slots else "ENOENT"  # type: ignore[method-assign]


def noexist_replaces(model: Model) -> None:
    put = model._put
    model._put = lambda key, number, flags: put(key, number, 0 if flags == 1 else flags)  # type: ignore[method-assign]


def freezing_is_forgotten(model: Model) -> None:
    model._freeze_outer = lambda: "ok"  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("defect", "steps", "said"),
    [
        (replaced_maps_leak, 3, "which maps are alive"),
        (deletes_nothing, 2, "what the outer map holds"),
        (noexist_replaces, 2, "the answer: expected EEXIST, got ok"),
        (freezing_is_forgotten, 4, "expected EPERM"),
    ],
)
def test_a_kernel_with_a_defect_is_found_and_the_sequence_made_short(
    defect: Callable[[Model], None], steps: int, said: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        check("hash_of_maps", Facts(), Kernel(defect).judge, examples=60)
    lines = str(caught.value).splitlines()
    body = [line for line in lines[lines.index("def test_sequence(bpf: Bpf) -> None:") + 1 :] if "    # " not in line]
    assert len(body) <= steps + 3, "\n".join(lines)
    assert any(said in line for line in lines)


def test_a_kernel_without_a_defect_is_not_complained_of() -> None:
    check("array_of_maps", Facts(), Kernel(lambda _: None).judge, examples=30)


def test_a_sequence_is_written_down_as_a_test() -> None:
    steps: list[tuple[Step, Any]] = [
        (Step("create", (1,)), "ok"),
        (Step("insert", (2, 1, 0)), "ok"),
        (Step("insert", (2, 1, 1)), "EEXIST"),
        (Step("close", (1,)), "ok"),
        (Step("reopen", (1,)), "ok"),
        (Step("batch_insert", (1, 0, 3, 1)), ["ok", 2]),
        (Step("write", (1, 0, 7)), "ok"),
        (Step("load"), "ok"),
        (Step("run", (2,)), ["returned", 7]),
    ]
    text = script(SETTINGS["hash_of_maps_no_prealloc"], steps, "this; that")
    compile(text, "sequence", "exec")
    assert text.splitlines()[5:] == [
        '    map0 = bpf.map("hash", value_size=4, max_entries=8)',
        '    outer = bpf.map("hash_of_maps", max_entries=3, inner=map0, map_flags=1)',
        '    map1 = bpf.map("hash", value_size=4, max_entries=16)',
        "    map1_id = map1.id",
        "    outer.update(2, map1, 0)",
        '    assert errno_of(outer.update, 2, map1, 1) == "EEXIST"',
        "    map1.close()",
        "    map1_again = bpf.map_by_id(map1_id)",
        "    outer.update_batch([(1, map0), (3, map1_again)])",
        "    map1_again.update(0, 7)",
        '    prog = bpf.prog("xdp", reader(outer.fd))',
        "    prog.run(bytes([0, 0, 2]) + bytes(61))",
        "    # this",
        "    # that",
    ]
