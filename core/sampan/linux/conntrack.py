"""Connection tracking: forgetting the flows that lead to an address, and asking where a redirected one was sent to.

Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; filters since Linux 5.8, older kernels answer EINVAL.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from sampan.linux.netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
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
CTA_FILTER_REPLY_FLAGS, CTA_FILTER_F_CTA_IP_SRC = 2, 1

_HEADER = struct.Struct("=IHHII")


def forget_flows_to(address: str) -> None:
    """Drop the state of every flow that `address` answers, so that a client's next packet is looked at anew.

    Without this a client that goes on sending UDP keeps a stopped container's translation alive. In the calling thread's
    network namespace. Raises `OSError`.
    """
    ip = ipaddress.ip_address(address)
    family, kind = (socket.AF_INET, CTA_IP_V4_SRC) if ip.version == 4 else (socket.AF_INET6, CTA_IP_V6_SRC)
    body = struct.pack("=BBH", family, 0, 0)
    body += pack_nested(CTA_TUPLE_REPLY, pack_nested(CTA_TUPLE_IP, pack_attribute(kind, ip.packed)))
    body += pack_nested(CTA_FILTER, pack_attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", CTA_FILTER_F_CTA_IP_SRC)))
    answer = _ask(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body)
    _, kind, *_ = _HEADER.unpack_from(answer)
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if kind == NLMSG_ERROR and number:
        raise OSError(-number, f"forget flows to {address}: {os.strerror(-number)}")


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
    answer = _ask(IPCTNL_MSG_CT_GET, 0, body)
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        return None
    found = unpack_attributes(unpack_attributes(answer[_HEADER.size + 4 : length])[CTA_TUPLE_ORIG])
    address = unpack_attributes(found[CTA_TUPLE_IP])[CTA_IP_V6_DST]
    (port,) = struct.unpack("!H", unpack_attributes(found[CTA_TUPLE_PROTO])[CTA_PROTO_DST_PORT])
    return socket.inet_ntop(socket.AF_INET6, address), port


def _ask(operation: int, flags: int, body: bytes) -> bytes:
    message_type = NFNL_SUBSYS_CTNETLINK << 8 | operation
    head = _HEADER.pack(_HEADER.size + len(body), message_type, NLM_F_REQUEST | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as kernel:
        kernel.sendall(head + body)
        return kernel.recv(1 << 16)
