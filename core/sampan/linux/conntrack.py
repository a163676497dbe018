"""Connection tracking: forgetting the flows that lead to an address.

Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; filters since Linux 5.8, older kernels answer EINVAL.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from sampan.linux.netlink import NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, pack_attribute, pack_nested

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_REPLY, CTA_FILTER, CTA_TUPLE_IP = 2, 25, 1
CTA_IP_V4_SRC, CTA_IP_V6_SRC = 1, 3
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
    message_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
    head = _HEADER.pack(_HEADER.size + len(body), message_type, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as kernel:
        kernel.sendall(head + body)
        answer = kernel.recv(1 << 16)
    _, kind, *_ = _HEADER.unpack_from(answer)
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if kind == NLMSG_ERROR and number:
        raise OSError(-number, f"forget flows to {address}: {os.strerror(-number)}")
