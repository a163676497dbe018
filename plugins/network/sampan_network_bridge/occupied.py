"""Which ports programs of the host have: for a few a trial `bind(2)` each, for many one look at the kernel's list of sockets.

A trial costs 20 µs, the look 300 for the first port and nothing for the others.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing
from functools import cached_property
from pathlib import Path

from sampan.api.errors import Conflict, System
from sampan.linux.sockdiag import bound_ports

FEW = 16
SOCKETS = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "sctp": (socket.SOCK_STREAM, 132)}
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ANY = ("0.0.0.0", "::")


class Occupied:
    """Looks in the calling thread's network namespace, while some ports are reserved; what it saw it does not look at again."""

    def __init__(self, asked: int) -> None:
        """`asked`: how many ports are reserved."""
        self._many = asked > FEW
        self._bound: dict[tuple[int, str], dict[int, set[str]]] = {}
        self._addresses: set[tuple[int, str, str]] = set()

    @cached_property
    def ephemeral(self) -> tuple[int, int]:
        """The first and last of the ports that the host gives to who asks for none."""
        low, high = _EPHEMERAL.read_text().split()
        return int(low), int(high)

    def check(self, family: int, protocol: str, address: str, ports: range) -> None:
        """Raise `Conflict` if a program has one of the ports on that address, `System` if the host does not have the address."""
        if not self._many or protocol not in _NUMBERS:
            for port in ports:
                _try_bind(family, protocol, address, port)
            return
        if (family, protocol, address) not in self._addresses:
            _try_bind(family, protocol, address, 0)
            self._addresses.add((family, protocol, address))
        bound = self._list(family, protocol)
        for port in ports:
            others = bound.get(port)
            if others and (address in _ANY or address in others or not others.isdisjoint(_ANY)):
                raise _failure(errno.EADDRINUSE, family, protocol, address, port)

    def _list(self, family: int, protocol: str) -> dict[int, set[str]]:
        """Give port → addresses."""
        if (family, protocol) not in self._bound:
            found = self._bound[family, protocol] = {}
            for address, port in bound_ports(family, _NUMBERS[protocol]):
                found.setdefault(port, set()).add(address)
        return self._bound[family, protocol]


def place(address: str, port: int) -> str:
    """Write an address and a port."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _try_bind(family: int, protocol: str, address: str, port: int) -> None:
    """Bind and let go. As a server would: TIME_WAIT is no hindrance."""
    kind, number = SOCKETS[protocol]
    try:
        probe = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind | socket.SOCK_CLOEXEC, number)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT):
            return  # no process of this host can have the port either
        raise
    with closing(probe):
        if family == 6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol != "udp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise _failure(error.errno or 0, family, protocol, address, port) from error


def _failure(number: int, family: int, protocol: str, address: str, port: int) -> Conflict | System:
    words = f"listen {protocol}{family} {place(address, port)}: bind: {os.strerror(number).lower()}"
    return Conflict(words) if number == errno.EADDRINUSE else System(words)
