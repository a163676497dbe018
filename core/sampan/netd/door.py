"""A sandbox's door to its name server: sockets on a port of their own, and packets to port 53 led to them.

A container may run a server of its own on port 53 of every address, so the sockets cannot sit there: a table in the
sandbox's own namespace leads its queries to another port. That port is the same in every sandbox, where nobody took it, so
that a flow the kernel knows leads to the right one after the sockets had to be made anew.

Sources: `nft(8)`, `nftables` wiki "Performing NAT", `ip(7)`.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from sampan.api.errors import System
from sampan.linux.namespaces import call_in_netns
from sampan.linux.nftables import LibraryMissing, Nftables, NftError
from sampan.netd.names import NAMESERVER

PORT = 61053
"""Outside of the range that the kernel gives to clients."""

BACKLOG = 64

TABLE = "sampan_names"


@dataclass(frozen=True, slots=True)
class Door:
    """A bound UDP socket and a listening TCP socket in a sandbox, until `close`; or until nobody has the door, whose
    maker was cancelled.
    """

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        """Close our copies."""
        self.udp.close()
        self.tcp.close()

    def __del__(self) -> None:
        self.close()


def open_door(netns: int) -> Door:
    """Make the door of the sandbox behind a descriptor; one that was there before is replaced. Raises `System`.

    Needs no loopback yet, and leaves nothing behind that the namespace would outlive.
    """
    try:
        return call_in_netns(netns, _open)
    except (OSError, NftError, LibraryMissing) as error:
        raise System(
            f"serve names in a sandbox: {error}", remedy="the kernel needs nf_tables with NAT, and libnftables.so.1"
        ) from error


def redirect(port: int) -> str:
    """Give the commands that lead queries to `port`. They fail where an earlier door's table is."""
    return "\n".join(
        (
            f"create table ip {TABLE}",
            f"table ip {TABLE} {{",
            "  chain asked {",
            "    type nat hook output priority -100;",
            f"    ip daddr {NAMESERVER} udp dport 53 dnat to {NAMESERVER}:{port}",
            f"    ip daddr {NAMESERVER} tcp dport 53 dnat to {NAMESERVER}:{port}",
            "  }",
            "}",
        )
    )


def _open() -> Door:
    udp, tcp = _bind(PORT)
    try:
        _lead(udp.getsockname()[1])
    except BaseException:
        udp.close()
        tcp.close()
        raise
    return Door(udp, tcp)


def _lead(port: int) -> None:
    nft = Nftables()
    try:
        try:
            nft.run(redirect(port))
        except NftError:  # there was a door before; taking away a table costs 5 to 10 ms, so only then
            nft.run(f"add table ip {TABLE}\ndelete table ip {TABLE}\n{redirect(port)}")
    finally:
        nft.close()


def _bind(port: int) -> tuple[socket.socket, socket.socket]:
    """Bind both to one port: this one, or any where a process of the container has it."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier door may linger
        udp.bind((NAMESERVER, port))
        tcp.bind((NAMESERVER, udp.getsockname()[1]))
        tcp.listen(BACKLOG)
    except OSError as error:
        udp.close()
        tcp.close()
        if error.errno == errno.EADDRINUSE and port:
            return _bind(0)
        raise
    return udp, tcp
