"""Mutants by hand and mechanically, on source text that only looks like the kernel's."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import SelectorError, UsageError
from harness.mutants import generate, recipes
from harness.mutants.edit import Edit, Mutant, apply, changed, function_span
from harness.util.data import read_toml

SOURCE = """\
#include <linux/bpf.h>

/* By José. */
static int helper(struct bpf_map *map);

int put_one(struct bpf_map *map, void *key)
{
	int err = 0;

	if (!map)
		return -EINVAL;
	err = lookup(map, key);
	if (err && key > map->first) {
		bpf_map_put(map);
		goto out;
	}
	if (map->ops->map_poke_run)
		mutex_lock(&map->lock);
	bpf_map_inc(map);
out:
	return err;
}

static int helper(struct bpf_map *map)
{
	for_each_thing(map) {
		use(map);
	}
	return map->size == 8 ? 1 : -ENOENT;
}
"""


def read(name: str) -> str:
    assert name == "kernel/bpf/x.c"
    return SOURCE


def mutants(**part: Any) -> list[Mutant]:
    return generate.generate([{"file": "kernel/bpf/x.c", "tier": 1, **part}], read)


def texts(found: list[Mutant]) -> dict[str, str]:
    return {mutant.name.rpartition("/")[2]: f"{mutant.was} -> {mutant.becomes}" for mutant in found}


# edits


def test_edits_are_made_all_at_once() -> None:
    edits = [Edit("f", 4, "two", "2"), Edit("f", 0, "one", "1")]
    assert apply("one two", edits) == "1 2"
    assert changed(edits, lambda name: "one two") == {"f": "1 2"}


@pytest.mark.parametrize("edits", [[Edit("f", 1, "one", "")], [Edit("f", 0, "one", ""), Edit("f", 2, "e t", "")]])
def test_an_edit_that_does_not_fit_is_refused(edits: list[Edit]) -> None:
    with pytest.raises(UsageError, match="does not fit"):
        apply("one two", edits)


def test_a_function_is_its_definition_and_no_declaration() -> None:
    start, end = function_span(SOURCE, "helper")
    assert SOURCE[start:end].startswith("static int helper(struct bpf_map *map)\n{")
    assert SOURCE[start:end].endswith("-ENOENT;\n}")
    start, end = function_span(SOURCE, "put_one")
    assert SOURCE[start:end].startswith("int put_one(")
    with pytest.raises(UsageError, match="defined 0 times"):
        function_span(SOURCE, "lookup")


# by hand


def recipe(**edit: str) -> dict[str, object]:
    edit = {"file": "kernel/bpf/x.c", "function": "put_one", "replace": "", **edit}
    return {"name": "x", "area": "a", "what": "w", "edit": [edit]}


def test_a_recipe_finds_its_place() -> None:
    mutant = recipes.parse(recipe(find="bpf_map_inc(map)", replace="bpf_map_put(map)"), read)
    assert mutant.name == "hand/x"
    assert "bpf_map_inc" not in apply(SOURCE, mutant.edits)
    mutant = recipes.parse(recipe(before="goto ", find="out", replace="in"), read)
    assert "goto in;" in apply(SOURCE, mutant.edits)
    mutant = recipes.parse(recipe(function="helper", find="return", replace="goto"), read)
    assert apply(SOURCE, mutant.edits).endswith("goto map->size == 8 ? 1 : -ENOENT;\n}\n")


@pytest.mark.parametrize(
    ("edit", "count"),
    [
        ({"find": "nothing"}, 0),
        ({"find": "map)"}, 3),
        ({"find": "map)", "function": "helper"}, 3),
        ({"find": "bpf_map_inc", "function": "helper"}, 0),
    ],
)
def test_a_recipe_that_does_not_fit_once_is_refused(edit: dict[str, str], count: int) -> None:
    with pytest.raises(UsageError, match=rf"is there {count} times"):
        recipes.parse(recipe(**edit), read)


def test_a_series_without_recipes_names_those_that_have_some() -> None:
    with pytest.raises(SelectorError, match=r"no mutants are written for 3\.0") as caught:
        recipes.load("3.0", read)
    assert "6.1" in caught.value.expected


def test_every_recipe_that_is_shipped_is_whole_and_holds_no_more_than_a_few_tokens() -> None:
    rows = read_toml("kernels", "mutants/6.1.toml")["mutant"]
    assert len({row["name"] for row in rows}) == len(rows) >= 20
    for row in rows:
        assert set(row) == {"name", "area", "what", "edit"}
        for edit in row["edit"]:
            assert set(edit) - {"before"} == {"file", "function", "find", "replace"}
            assert edit["find"] != edit["replace"]
            assert edit["find"].count("\n") <= 2
    areas = {row["area"] for row in rows}
    assert {"creation", "template comparison", "reference counting", "lookup", "update flags", "deletion"} < areas


# mechanically


def test_every_place_is_a_mutant() -> None:
    found = texts(mutants(functions=["put_one"]))
    assert found["negate-1"] == "(!map) -> (!(!map))"
    assert found["never-1"] == "(!map) -> (0 && (!map))"
    assert found["errno-1"] == "EINVAL -> EPERM"
    assert found["compare-1"] == "> -> >="
    assert found["logic-1"] == "&& -> ||"
    assert found["drop-1"] == "err = lookup(map, key); -> ;"
    assert found["call-1"] == "bpf_map_put -> bpf_map_inc"
    assert found["number-1"] == "0 -> 1"
    # What comes to the same as another is left out: the return under a condition, the not that is all of a condition.
    assert not any(text.startswith(("return", "! ->")) for text in found.values())


def test_a_return_that_ends_its_function_is_never_dropped() -> None:
    source = "int f(int a)\n{\n\tif (a) {\n\t\tg();\n\t\treturn 1;\n\t} else {\n\t\treturn 2;\n\t}\n}\n"
    found = generate.generate([{"file": "x.c", "tier": 1, "functions": ["f"]}], lambda name: source)
    assert [mutant.was for mutant in found if mutant.area == "drop"] == ["g();"]


def test_mutants_are_where_they_say_after_letters_of_several_bytes() -> None:
    for mutant in mutants(functions=["put_one", "helper"]):
        assert apply(SOURCE, mutant.edits) != SOURCE


def test_the_head_of_a_loop_macro_is_not_a_statement() -> None:
    assert not any("for_each_thing" in text for text in texts(mutants(functions=["helper"])).values())


def test_only_what_is_near_a_word_or_not_for_other_maps() -> None:
    assert set(texts(mutants(functions=["put_one"], near=["goto"]))) == {
        "negate-1", "never-1", "logic-1", "compare-1"
    } | {"drop-1"}  # fmt: skip
    everything = texts(mutants(functions=["put_one"]))
    fewer = texts(mutants(functions=["put_one"], others=["map_poke_run"]))
    assert any("mutex_lock" in text for text in everything.values())
    assert not any("poke" in text or "mutex_lock" in text for text in fewer.values())


def test_the_order_is_scattered_always_the_same_and_by_tier() -> None:
    parts: list[dict[str, Any]] = [
        {"file": "kernel/bpf/x.c", "tier": 2, "functions": ["put_one"]},
        {"file": "kernel/bpf/x.c", "tier": 1, "functions": ["helper"]},
    ]
    names = [mutant.name for mutant in generate.generate(parts, read)]
    assert names == [mutant.name for mutant in generate.generate(parts, read)]
    functions = [name.split("/")[1] for name in names]
    assert functions == sorted(functions)
    kinds = [name.rpartition("/")[2].partition("-")[0] for name in names if "put_one" in name]
    assert kinds != sorted(kinds)


def test_the_functions_that_are_shipped_are_of_the_files_that_matter() -> None:
    parts = read_toml("kernels", "mutants/functions.toml")["part"]
    files = {part["file"].rpartition("/")[2] for part in parts}
    assert files == {"map_in_map.c", "hashtab.c", "arraymap.c", "syscall.c"}
