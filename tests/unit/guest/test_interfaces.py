"""The guest's network interfaces, as far as they need no guest."""

from __future__ import annotations

from pathlib import Path

from harness.guest.interfaces import _ROUTE, _name_resolver, parse_card
from harness.vm.network import Network, network_words


def test_the_guest_reads_what_the_host_writes() -> None:
    (word,) = network_words(Network.USER, 0)
    card = parse_card(word.removeprefix("harness.cards="))
    assert card == ("52:54:00:6b:68:ff", "10.0.2.15", 24, "10.0.2.2", "10.0.2.3")


def test_a_card_may_lead_nowhere() -> None:
    assert parse_card("52:54:00:6b:68:00,10.1.0.1/16") == ("52:54:00:6b:68:00", "10.1.0.1", 16, "", "")


def test_a_route_is_as_long_as_the_kernels() -> None:
    assert _ROUTE.size == 120


def test_a_resolver_replaces_what_names_one_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    _name_resolver(str(tmp_path), "10.0.2.3")
    assert not (tmp_path / "etc/resolv.conf").is_symlink()
    assert (tmp_path / "etc/resolv.conf").read_text() == "nameserver 10.0.2.3\n"


def test_a_root_without_a_folder_for_it_gets_no_resolver(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "etc").symlink_to(tmp_path / "elsewhere")
    _name_resolver(str(tmp_path), "10.0.2.3")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    _name_resolver(str(tmp_path / "none"), "10.0.2.3")
    assert not (tmp_path / "none").exists()
