"""The table of architectures."""

from __future__ import annotations

import pytest

from harness import needs
from harness.errors import SelectorError
from harness.util import architecture


def test_words_name_one_architecture_each() -> None:
    words = [word for one in architecture.known().values() for word in (one.name, *one.aliases)]
    assert len(words) == len(set(words))
    for name, one in architecture.known().items():
        assert all(architecture.named(word) is one for word in (name, *one.aliases))


def test_an_unknown_word_is_one_clear_error() -> None:
    assert architecture.named("mips") is None
    with pytest.raises(SelectorError, match="the harness boots no kernels for 'mips'") as raised:
        architecture.require("mips")
    assert "amd64, arm64" in str(raised.value)


def test_a_machine_that_the_table_lacks_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "mips64")
    architecture.own.cache_clear()
    try:
        with pytest.raises(SelectorError, match="no architecture mips64, which is this machine's"):
            architecture.own()
    finally:
        architecture.own.cache_clear()


@pytest.mark.parametrize("name", architecture.known())
def test_all_have_the_same_system_calls_and_a_qemu_that_the_table_of_needs_has(name: str) -> None:
    one = architecture.known()[name]
    assert one.syscalls.keys() == architecture.known()["amd64"].syscalls.keys()
    assert needs.need(one.qemu).packages
    assert len(set(one.flavours.values())) == len(one.flavours)
