from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument
from sampan_network_vxlan import rules
from sampan_network_vxlan.options import Options, parse

LEAST = {"vni": "42", "remotes": "192.0.2.2"}


def test_the_least() -> None:
    assert parse(LEAST, 4789) == Options(
        vni=42, port=4789, remotes=("192.0.2.2",), group="", parent="", local="0.0.0.0", learning=True, mtu=0
    )


def test_all_options() -> None:
    assert parse(
        {
            "vni": "16777215",
            "port": "8472",
            "remotes": "2001:db8::0:2, 2001:db8::3,2001:db8::2",
            "parent": "eth1",
            "local": "2001:db8::1",
            "learning": "false",
            "com.docker.network.driver.mtu": "1400",
        },
        4789,
    ) == Options(
        vni=16777215, port=8472, remotes=("2001:db8::2", "2001:db8::3"), group="", parent="eth1", local="2001:db8::1",
        learning=False, mtu=1400,
    )  # fmt: skip


def test_the_group_says_the_ip_version() -> None:
    given = parse({"vni": "1", "group": "ff05::100", "parent": "eth1"}, 4789)
    assert (given.group, given.local, given.version) == ("ff05::100", "::", 6)


def test_options_of_others_are_none_of_ours() -> None:
    assert parse({**LEAST, "com.docker.network.bridge.name": "br7", "org.example.team": "a"}, 4789) == parse(LEAST, 4789)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vni": ""}, "vni is missing: a number from 1 to 16777215"),
        ({"vni": "0"}, "vni='0'"),
        ({"vni": "16777216"}, "vni='16777216'"),
        ({"vni": "٤٢"}, "vni="),
        ({"port": "65536"}, "port='65536'"),
        ({"remote": "192.0.2.2"}, "remote is unknown to driver vxlan: it knows vni, port, remotes"),
        ({"remotes": ""}, "-o remotes=ADDRESS,… or -o group=MULTICAST"),
        ({"remotes": "", "learning": "false"}, "-o parent=LINK"),
        ({"remotes": "192.0.2.2 192.0.2.3"}, "is no IP address"),
        ({"vni": "1" * 5000}, "a number from 1 to"),
        ({"remotes": "fe80::1%eth0"}, "names a link: do that by -o parent=LINK"),
        ({"local": "fe80::1%x } accept"}, "names a link"),
        ({"remotes": "machine2"}, "'machine2' is no IP address"),
        ({"remotes": "239.1.1.1"}, "239.1.1.1 is not the address of a machine"),
        ({"remotes": "0.0.0.0"}, "0.0.0.0 is not the address of a machine"),
        ({"remotes": "192.0.2.2,2001:db8::2"}, "one IP version"),
        ({"local": "2001:db8::1"}, "one IP version"),
        ({"group": "239.1.1.1", "parent": "eth0"}, "exclude each other"),
        ({"remotes": "", "group": "192.0.2.2", "parent": "eth0"}, "no multicast address: such as 239.1.1.1"),
        ({"remotes": "", "group": "239.1.1.1"}, "-o parent=LINK"),
        ({"parent": "eth0/1"}, "no link name"),
        ({"parent": "eth*"}, "no link name"),
        ({"parent": "ethø"}, "no link name"),
        ({"parent": 'x" drop'}, "no link name"),
        ({"parent": "eth0\0"}, "no link name"),
        ({"parent": "eth%d"}, "no link name"),
        ({"learning": "perhaps"}, "not a truth value"),
        ({"com.docker.network.driver.mtu": "67"}, "mtu='67'"),
    ],
)
def test_what_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse({**LEAST, **options}, 4789)
    assert words in str(caught.value)


@given(st.dictionaries(st.sampled_from(["vni", "port", "remotes", "group", "parent", "local", "learning", "x"]), st.text()))
def test_whatever_is_said_is_read_or_refused(options: dict[str, str]) -> None:
    """And what is read has no room for more than values in a rule."""
    with suppress(InvalidArgument):
        text = rules.render("t", "sx-*", {"id": parse({**LEAST, **options}, 4789)})
        assert re.fullmatch(r"[^\n\";]*|[^\n\"]*\"[^\n\"]*\"[^\n\"]*", text.splitlines()[-1].removesuffix(' comment "network id"'))
