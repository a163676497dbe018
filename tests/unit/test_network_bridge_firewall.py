"""The table in a network namespace of its own, with others who flush it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sampan.linux.namespaces import call_in_netns, new_netns
from sampan.linux.nftables import Nftables
from sampan_network_bridge.bindings import Binding
from sampan_network_bridge.firewall import Firewall

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs CAP_SYS_ADMIN")

WEB = Binding(4, "tcp", "", 8080, "10.0.0.2", 80)


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    netns = new_netns()
    made = call_in_netns(netns, lambda: Firewall("f1f1f1f1"))
    yield made
    made.close()
    os.close(netns)


def test_what_is_there_is_asked_for_no_more_than_its_number(firewall: Firewall, monkeypatch: pytest.MonkeyPatch) -> None:
    firewall.make()
    assert firewall.is_there()
    firewall.publish([WEB])
    monkeypatch.setattr(Nftables, "list", None)
    assert firewall.is_there()


def test_a_flush_by_others_is_seen_though_it_comes_right_after_a_change_of_ours(
    firewall: Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    firewall.make()
    assert firewall.is_there()
    run = Nftables.run

    def run_and_lose_it(nft: Nftables, commands: str) -> None:
        run(nft, commands)
        run(nft, "flush ruleset")

    with monkeypatch.context() as patch:
        patch.setattr(Nftables, "run", run_and_lose_it)
        firewall.publish([WEB])
    assert not firewall.is_there()
