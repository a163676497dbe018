"""What our netlink code does without privileges: lists, errors, packing."""

from __future__ import annotations

import errno

import pytest

from sampan.linux.netlink import Netlink, delete_link, is_link_name, link_index, mac_of, set_link, unpack_attributes
from sampan.linux.vxlan import add_flood, add_vxlan, overhead


def test_the_loopback_is_listed() -> None:
    with Netlink() as kernel:
        loopback = next(link for link in kernel.links() if link.name == "lo")
    assert loopback.index == link_index("lo")
    assert (loopback.kind, loopback.master, loopback.mac) == ("", 0, "00:00:00:00:00:00")


def test_addresses_of_one_link_or_of_all() -> None:
    with Netlink() as kernel:
        everywhere = kernel.addresses()
        for link in kernel.links():
            assert kernel.addresses(link.index) == [item for item in everywhere if item.index == link.index]
    assert everywhere


def test_dockers_hardware_address() -> None:
    assert mac_of("172.17.0.2/16") == mac_of("172.17.0.2") == "02:42:ac:11:00:02"
    assert mac_of("fd00::1:2/64") == "02:42:00:01:00:02"


def test_a_failure_says_what_failed() -> None:
    with Netlink() as kernel, pytest.raises(OSError, match="delete link no-such") as caught:
        kernel.run(delete_link("no-such"))
    assert caught.value.errno in (errno.ENODEV, errno.EPERM)


def test_the_first_failure_of_a_batch_is_told_and_the_socket_stays_good() -> None:
    with Netlink() as kernel:
        with pytest.raises(OSError, match="set link first"):
            kernel.run(set_link("first", up=True), set_link("second", up=True))
        assert any(link.name == "lo" for link in kernel.links())


def test_nothing_to_do_is_no_request() -> None:
    with Netlink() as kernel:
        kernel.run()


def test_one_link_by_name() -> None:
    with Netlink() as kernel:
        assert kernel.link("lo") == next(link for link in kernel.links() if link.name == "lo")
        assert kernel.link("no-such") is None


def test_the_route_to_the_own_machine_goes_by_loopback() -> None:
    with Netlink() as kernel:
        route = kernel.route_to("127.0.0.1")
    assert (route.destination, route.index) == ("127.0.0.1/32", link_index("lo"))


def test_what_a_vxlan_frame_costs() -> None:
    assert (overhead(4), overhead(6)) == (50, 70)


@pytest.mark.parametrize(("local", "kind", "raw"), [("192.0.2.1", 4, "c0000201"), ("::", 17, "00" * 16)])
def test_the_local_address_says_which_version_carries_a_tunnel(local: str, kind: int, raw: str) -> None:
    info = unpack_attributes(unpack_attributes(add_vxlan("vx0", vni=42, local=local, port=8472).body[16:])[18])
    data = unpack_attributes(info[2])
    assert info[1] == b"vxlan"
    assert data == {1: b"*\0\0\0", 15: b"!\x18", 7: b"\1", kind: bytes.fromhex(raw)}


def test_a_flood_entry_is_for_no_address_in_particular() -> None:
    attributes = unpack_attributes(add_flood(7, "192.0.2.9").body[12:])
    assert attributes == {2: bytes(6), 1: bytes([192, 0, 2, 9])}


def test_a_link_that_is_not_there_has_no_index() -> None:
    with pytest.raises(OSError, match="find link no-such") as caught:
        link_index("no-such")
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize("text", ["eth0", "a", "fifteen-letters", "10.0.0.9", "...", "{;}$#@!,'|~"])
def test_names_of_links(text: str) -> None:
    assert is_link_name(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "sixteen-letters-", "a/b", "a:b", 'a"b', "a*", "a%d", "a\\", "a b", "a\n", "a\0", "a\x7f", "ä", "\ud800"]
)
def test_no_names_of_links(text: str) -> None:
    assert not is_link_name(text)
