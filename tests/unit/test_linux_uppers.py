"""How requests about links on other links are packed; that the kernel takes them is shown by test_network_macvlan."""

from __future__ import annotations

import pytest

from sampan.linux.netlink import Netlink, Request, unpack_attributes
from sampan.linux.uppers import MODES, add_altname, add_macvlan, add_vlan, delete_by_altname, macvlans, namespace_ids


def attributes(request: Request) -> dict[int, bytes]:
    return unpack_attributes(request.body[16:])


def kind_and_details(request: Request) -> tuple[bytes, dict[int, bytes]]:
    info = unpack_attributes(attributes(request)[18])
    return info[1], unpack_attributes(info[2])


@pytest.mark.parametrize("mode", MODES)
def test_a_macvlan_says_where_it_stands_where_it_goes_and_whose_it_is(mode: str) -> None:
    request = add_macvlan("eth0", lower=7, mode=mode, netns=9, mac="02:42:0a:00:00:01", group=0x5A3BCA7E)
    assert kind_and_details(request) == (b"macvlan", {1: MODES[mode].to_bytes(4, "little")})
    packed = attributes(request)
    assert (packed[3], packed[5], packed[28], packed[1]) == (b"eth0\0", b"\7\0\0\0", b"\t\0\0\0", b"\x02\x42\x0a\0\0\1")
    assert int.from_bytes(packed[27], "little") == 0x5A3BCA7E


def test_a_vlan_has_a_number() -> None:
    assert kind_and_details(add_vlan("eth0.10", lower=2, number=10)) == (b"vlan", {1: b"\n\0"})


def test_a_second_name_is_long() -> None:
    altname = "x" * 100
    names = unpack_attributes(attributes(add_altname("eth0", altname))[52])
    assert names == {53: altname.encode() + b"\0"}
    assert attributes(delete_by_altname(altname, 3)) == {53: altname.encode() + b"\0", 46: b"\3\0\0\0"}


def test_lists_that_may_be_empty() -> None:
    with Netlink() as kernel:
        assert all(number >= 0 for number in namespace_ids(kernel))
        assert macvlans(kernel, 2**31 - 1) == []
