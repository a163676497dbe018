"""What our netlink code does without privileges: lists, errors, packing."""

from __future__ import annotations

import errno

import pytest

from sampan.linux.netlink import Netlink, delete_link, link_index, mac_of, set_link


def test_the_loopback_is_listed() -> None:
    with Netlink() as kernel:
        loopback = next(link for link in kernel.links() if link.name == "lo")
    assert loopback.index == link_index("lo")
    assert (loopback.kind, loopback.master, loopback.mac) == ("", 0, "00:00:00:00:00:00")


def test_dockers_hardware_address() -> None:
    assert mac_of("172.17.0.2/16") == mac_of("172.17.0.2") == "02:42:ac:11:00:02"


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
