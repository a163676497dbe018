"""Whether programs of the host have a port: a trial for a few, one look for many; both give the same answer."""

from __future__ import annotations

import os
import socket

import pytest

from sampan.api.errors import Conflict, System
from sampan_network_bridge.occupied import FEW, Occupied

PORT = 47200 + os.getpid() % 200 * 5  # tests run in several processes
HERE, THERE = "127.9.8.7", "127.9.8.8"


@pytest.fixture(params=[1, FEW + 1], ids=["few", "many"])
def occupied(request: pytest.FixtureRequest) -> Occupied:
    return Occupied(int(request.param))


def bound(protocol: str, address: str, *, only6: bool = True) -> socket.socket:
    made = socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    )
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
    made.bind((address, PORT + 2))
    if protocol == "tcp":
        made.listen()
    return made


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("theirs", "only6", "ours", "taken"),
    [
        (HERE, True, HERE, True),
        (HERE, True, THERE, False),
        (HERE, True, "0.0.0.0", True),
        (HERE, True, "::", False),
        ("0.0.0.0", True, HERE, True),
        ("::", True, HERE, False),
        ("::", False, HERE, True),
        ("::", False, "::1", True),
        ("::1", True, "::", True),
    ],
)
def test_what_a_program_has(occupied: Occupied, protocol: str, theirs: str, only6: bool, ours: str, taken: bool) -> None:
    family = 6 if ":" in ours else 4
    with bound(protocol, theirs, only6=only6):
        occupied.check(family, protocol, ours, range(PORT, PORT + 2))
        if not taken:
            occupied.check(family, protocol, ours, range(PORT, PORT + 4))
            return
        with pytest.raises(Conflict, match=rf"listen {protocol}{family} .*:{PORT + 2}: bind: address already in use"):
            occupied.check(family, protocol, ours, range(PORT, PORT + 4))


def test_an_address_that_the_host_does_not_have(occupied: Occupied) -> None:
    with pytest.raises(System, match="cannot assign requested address"):
        occupied.check(4, "tcp", "192.0.2.77", range(PORT, PORT + 2))


def test_a_connected_udp_socket_has_its_port(occupied: Occupied) -> None:
    with bound("udp", HERE) as theirs:
        theirs.connect((THERE, 9))
        with pytest.raises(Conflict):
            occupied.check(4, "udp", HERE, range(PORT, PORT + 4))
