"""Which ports the sockets of a network namespace have, by sock_diag(7): one look for all, where a trial bind(2) asks for one.

Source: `include/uapi/linux/{sock_diag,inet_diag}.h`. A TCP socket counts when it listens, a UDP socket when it is bound.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from sampan.linux.netlink import NLM_F_DUMP, NLM_F_REQUEST, dumped, unpack_attributes

__all__ = ["bound_ports"]

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, INET_DIAG_SKV6ONLY = 4, 20, 11
TCP_LISTEN = 10

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")
_ANSWER_BYTES = 72  # inet_diag_msg; the local port is at 4, the local address at 8


def bound_ports(family: int, protocol: int) -> Iterator[tuple[str, int]]:
    """Give address and port of every socket of `IPPROTO_TCP` or `IPPROTO_UDP` that a bind with `family` 4 or 6 may meet.

    With 4, sockets of every IPv6 address that take IPv4 too are among them, as 0.0.0.0. In the calling thread's network namespace.
    Raises `OSError`.
    """
    for item in _dump(socket.AF_INET if family == 4 else socket.AF_INET6, protocol):
        yield _address(item, 4 if family == 4 else 16), _port(item)
    if family == 4:
        for item in _dump(socket.AF_INET6, protocol):
            only6 = unpack_attributes(item[_ANSWER_BYTES:]).get(INET_DIAG_SKV6ONLY, b"\1")
            if _address(item, 16) == "::" and not only6[0]:
                yield "0.0.0.0", _port(item)


def _address(item: bytes, length: int) -> str:
    return socket.inet_ntop(socket.AF_INET if length == 4 else socket.AF_INET6, item[8 : 8 + length])


def _port(item: bytes) -> int:
    return int.from_bytes(item[4:6])


def _dump(family: int, protocol: int) -> Iterator[bytes]:
    states = 1 << TCP_LISTEN if protocol == socket.IPPROTO_TCP else 0xFFFFFFFF
    body = _REQUEST.pack(family, protocol, 0, states)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as kernel:
        kernel.sendall(_HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        try:
            yield from dumped(kernel, "list sockets")
        except OSError as error:
            if error.errno != errno.ENOENT:  # the kernel has no such protocol
                raise
