from __future__ import annotations

import socket

import pytest

from sampan.netd.names import Member, Names, Sandbox, Upstream

WEB = Member("c1", ("web", "WWW", "a.b"), ("10.0.0.2", "fd00::2"))
DB = Member("c2", ("db", "www"), ("10.0.0.3",))
BOX = Sandbox("c9", ("n1", "n2"), {"Store": "db"}, network_names={"n1": "front", "n2": "back.end"})


@pytest.fixture
def names() -> Names:
    names = Names()
    names.join("n1", WEB)
    names.join("n2", DB)
    names.join("n3", Member("c3", ("other",), ("10.3.0.1",)))
    return names


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web", [WEB]), ("www", [WEB]), ("a.b", [WEB]), ("db", [DB]), ("store", [DB]), ("web.front", [WEB]),
        ("www.back.end", [DB]), ("a.b.front", [WEB]), ("web.back.end", []), ("other", []), ("front", []), ("", []), (".", []),
    ],
)  # fmt: skip
def test_find(names: Names, name: str, found: list[Member]) -> None:
    assert names.find(BOX, name.encode()) == found


def test_several_members_of_one_name(names: Names) -> None:
    names.join("n1", DB)
    assert names.find(BOX, b"www") == [WEB, DB]
    names.leave("n1", "c1")
    assert names.find(BOX, b"www") == [DB]
    names.leave("n1", "c1")


def test_a_member_that_joins_again_has_only_its_new_names(names: Names) -> None:
    names.join("n1", Member("c1", ("new",), ("10.0.0.9",)))
    assert (names.find(BOX, b"web"), names.name_of(BOX, bytes((10, 0, 0, 2)))) == ([], "")
    assert names.name_of(BOX, bytes((10, 0, 0, 9))) == "new.front"


def test_an_address_that_went_to_another_is_the_others(names: Names) -> None:
    names.join("n1", Member("c4", ("four",), ("10.0.0.2",)))
    names.leave("n1", "c1")
    assert names.name_of(BOX, bytes((10, 0, 0, 2))) == "four.front"


def test_reverse(names: Names) -> None:
    assert names.name_of(BOX, socket.inet_pton(socket.AF_INET6, "fd00::2")) == "web.front"
    assert names.name_of(Sandbox("c9", ("n1",)), bytes((10, 0, 0, 2))) == "web"
    assert names.name_of(BOX, bytes((10, 3, 0, 1))) == ""


def test_replace_forgets_all_others_and_every_change_counts(names: Names) -> None:
    before = names.version
    names.replace({"n2": [WEB]})
    assert (names.find(BOX, b"web"), names.find(BOX, b"db")) == ([WEB], [])
    assert names.version > before


def test_they_travel_as_plain_data() -> None:
    box = Sandbox("c9", ("n1",), {"a": "c1"}, (Upstream("127.0.0.53", from_host=True),), False, {"n1": "front"}, True)
    assert Sandbox.from_data(box.to_data()) == box
    assert Member.from_data(WEB.to_data()) == WEB


def test_dots_cost_nothing_for_each_network() -> None:
    """A hostile sandbox in many networks may ask for a name of 120 labels, and all others wait meanwhile."""
    looked: list[str] = []

    class Called(dict[str, str]):
        def get(self, key: str, default: str = "") -> str:  # type: ignore[override]
            looked.append(key)
            return super().get(key, default)

    names, networks = Names(), [f"n{number}" for number in range(20)]
    for network in networks:
        names.join(network, Member("c1", ("web",), ("10.0.0.1",)))
    sandbox = Sandbox("c2", tuple(networks), network_names=Called({network: f"called-{network}" for network in networks}))
    assert names.find(sandbox, b".".join([b"a"] * 120)) == []
    assert len(looked) <= len(networks)
    assert [member.container_id for member in names.find(sandbox, b"web.called-n19")] == ["c1"]
