"""Connection tracking: forgetting flows by whom they lead to, and asking where a redirected one was sent to.

Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; filters since Linux 5.8, older kernels answer EINVAL.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Collection, Iterator

from sampan.linux.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    dumped,
    pack_attribute,
    pack_nested,
    unpack_attributes,
)  # fmt: skip

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER = 1, 2, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_FILTER_F_CTA_IP_SRC, CTA_FILTER_F_CTA_PROTO_NUM, CTA_FILTER_F_CTA_PROTO_DST_PORT = 1, 8, 32

FEW = 16
"""Ports up to which the kernel looks through its table for each: 0.3 ms; for more it gives all flows of the protocol once."""

_HEADER = struct.Struct("=IHHII")


class Flows:
    """The flows of one network namespace: that of the thread that made this. Safe to share between threads.

    By a socket that stays open: to close one, the kernel waits until what was deleted of nftables' sets is freed, 3 to 15 ms.
    Methods raise `OSError`.
    """

    def __init__(self) -> None:
        """Open the socket."""
        self._lock = threading.Lock()
        self._kernel = _opened()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._kernel.close()

    def forget_to(self, address: str) -> None:
        """Drop the state of every flow that `address` answers, so that a client's next packet is looked at anew.

        Without this a client that goes on sending UDP keeps a stopped container's translation alive.
        """
        ip = ipaddress.ip_address(address)
        family, kind = (socket.AF_INET, CTA_IP_V4_SRC) if ip.version == 4 else (socket.AF_INET6, CTA_IP_V6_SRC)
        body = struct.pack("=BBH", family, 0, 0)
        body += pack_nested(CTA_TUPLE_REPLY, pack_nested(CTA_TUPLE_IP, pack_attribute(kind, ip.packed)))
        body += pack_nested(CTA_FILTER, pack_attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", CTA_FILTER_F_CTA_IP_SRC)))
        self._delete(body)

    def forget_sent_to(self, family: int, protocol: int, ports: Collection[int]) -> None:
        """Drop the state of every flow sent to one of these ports, on any address; `family` 4 or 6, `protocol` as in IP.

        Without this a client that went on sending UDP while nobody had the port would not be looked at when somebody has it.
        """
        head = struct.pack("=BBH", socket.AF_INET if family == 4 else socket.AF_INET6, 0, 0)
        number = pack_attribute(CTA_PROTO_NUM, bytes([protocol]))
        if len(ports) <= FEW:
            flags = struct.pack("=I", CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT)
            wanted = pack_nested(CTA_FILTER, pack_attribute(CTA_FILTER_ORIG_FLAGS, flags))
            for port in ports:
                sent_to = number + pack_attribute(CTA_PROTO_DST_PORT, struct.pack("!H", port))
                self._delete(head + pack_nested(CTA_TUPLE_ORIG, pack_nested(CTA_TUPLE_PROTO, sent_to)) + wanted)
            return
        for flow in list(_flows(head, number)):
            (port,) = struct.unpack("!H", unpack_attributes(unpack_attributes(flow)[CTA_TUPLE_PROTO])[CTA_PROTO_DST_PORT])
            if port in ports:
                self._delete(head + pack_nested(CTA_TUPLE_ORIG, flow))

    def _delete(self, body: bytes) -> None:
        with self._lock:
            answer = _ask(self._kernel, IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body)
        (number,) = struct.unpack_from("=i", answer, _HEADER.size)
        if number and -number != errno.ENOENT:
            raise OSError(-number, f"forget flows: {os.strerror(-number)}")


def _flows(head: bytes, number: bytes) -> Iterator[bytes]:
    """Give the original tuples of all flows of a family and protocol."""
    wanted = pack_attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", CTA_FILTER_F_CTA_PROTO_NUM))
    body = head + pack_nested(CTA_TUPLE_ORIG, pack_nested(CTA_TUPLE_PROTO, number)) + pack_nested(CTA_FILTER, wanted)
    with _opened() as kernel:
        kernel.sendall(_request(IPCTNL_MSG_CT_GET, NLM_F_DUMP, body))
        for flow in dumped(kernel, "list flows"):
            yield unpack_attributes(flow[4:])[CTA_TUPLE_ORIG]


def original_destination(protocol: int, here: tuple[str, int], peer: tuple[str, int]) -> tuple[str, int] | None:
    """Give the IPv6 address and port that `peer` sent to, of a flow redirected to the socket `here`; None for an unknown flow.

    What `IP6T_SO_ORIGINAL_DST` tells of a TCP socket, for protocols without connections. In the calling thread's network
    namespace. Raises `OSError`.
    """
    addresses = [(CTA_IP_V6_SRC, here[0]), (CTA_IP_V6_DST, peer[0])]
    ports = [(CTA_PROTO_SRC_PORT, here[1]), (CTA_PROTO_DST_PORT, peer[1])]
    body = struct.pack("=BBH", socket.AF_INET6, 0, 0) + pack_nested(
        CTA_TUPLE_REPLY,
        pack_nested(
            CTA_TUPLE_IP, b"".join(pack_attribute(kind, socket.inet_pton(socket.AF_INET6, text)) for kind, text in addresses)
        )
        + pack_nested(
            CTA_TUPLE_PROTO,
            pack_attribute(CTA_PROTO_NUM, bytes([protocol]))
            + b"".join(pack_attribute(kind, struct.pack("!H", port)) for kind, port in ports),
        ),
    )
    with _opened() as kernel:
        answer = _ask(kernel, IPCTNL_MSG_CT_GET, 0, body)
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        return None
    found = unpack_attributes(unpack_attributes(answer[_HEADER.size + 4 : length])[CTA_TUPLE_ORIG])
    address = unpack_attributes(found[CTA_TUPLE_IP])[CTA_IP_V6_DST]
    (port,) = struct.unpack("!H", unpack_attributes(found[CTA_TUPLE_PROTO])[CTA_PROTO_DST_PORT])
    return socket.inet_ntop(socket.AF_INET6, address), port


def _ask(kernel: socket.socket, operation: int, flags: int, body: bytes) -> bytes:
    kernel.sendall(_request(operation, flags, body))
    return kernel.recv(1 << 16)


def _opened() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)


def _request(operation: int, flags: int, body: bytes) -> bytes:
    message_type = NFNL_SUBSYS_CTNETLINK << 8 | operation
    return _HEADER.pack(_HEADER.size + len(body), message_type, NLM_F_REQUEST | flags, 1, 0) + body
