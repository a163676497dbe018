"""VXLAN links: Ethernet frames of one virtual network in UDP packets between machines (RFC 7348).

    with Netlink() as kernel:
        kernel.run(add_vxlan("vx0", vni=42, local="192.0.2.1"))
        index = link_index("vx0")
        kernel.run(add_flood(index, "192.0.2.2"))

What goes to nobody in particular, and what nobody has answered from yet, is sent to each machine of the flood list, or to a
multicast group. The link's socket stays in the namespace in which the link was made.

Sources: `ip-link(8)`, `bridge(8)`, `include/uapi/linux/{if_link,neighbour}.h`, `drivers/net/vxlan/`.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from sampan.linux.netlink import (
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_NEWLINK,
    Netlink,
    Request,
    pack_attribute,
    pack_nested,
    unpack_attributes,
)  # fmt: skip

__all__ = ["PORT", "add_flood", "add_vxlan", "flood_list", "overhead"]

PORT = 4789
"""IANA's UDP port for VXLAN."""

RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
NLM_F_APPEND = 0x800
IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL = 1, 2, 3, 4
IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT, IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6 = 7, 15, 16, 17
NDA_DST, NDA_LLADDR = 1, 2
NTF_SELF, NUD_PERMANENT, NUD_NOARP = 0x02, 0x80, 0x40

_IFINFO = struct.Struct("=BxHiII")
_NDMSG = struct.Struct("=BxxxiHBB")
_ANY_MAC = bytes(6)


def overhead(version: int) -> int:
    """Give the bytes that a frame's way costs over IPv4 or IPv6: the outer IP and UDP headers, VXLAN's, the inner Ethernet's."""
    return {4: 20, 6: 40}[version] + 8 + 8 + 14


def add_vxlan(
    name: str, *, vni: int, local: str, port: int = PORT, parent: int = 0, group: str = "", learning: bool = True, mtu: int = 0
) -> Request:  # fmt: skip
    """Make a VXLAN link, down.

    `local`: address to send from, "0.0.0.0" or "::" for the route's choice; it says which IP version carries the tunnel.
    `parent`: index of the link to send by, 0 for the route's choice. `group`: multicast address for the flood, which takes a
    parent. Without `learning` only the forwarding table's entries say where an address is.
    EEXIST: another link of the namespace has this VNI on this port.
    """
    data = pack_attribute(IFLA_VXLAN_ID, struct.pack("=I", vni)) + pack_attribute(IFLA_VXLAN_PORT, struct.pack("!H", port))
    data += pack_attribute(IFLA_VXLAN_LEARNING, bytes([learning]))
    for text, kinds in ((local, (IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6)), (group, (IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6))):
        if text:
            address = ipaddress.ip_address(text)
            data += pack_attribute(kinds[address.version == 6], address.packed)
    data += pack_attribute(IFLA_VXLAN_LINK, struct.pack("=I", parent)) if parent else b""
    info = pack_attribute(IFLA_INFO_KIND, b"vxlan") + pack_nested(IFLA_INFO_DATA, data)
    body = _IFINFO.pack(0, 0, 0, 0, 0) + pack_attribute(IFLA_IFNAME, name.encode() + b"\0")
    body += pack_attribute(IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
    return Request(
        RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + pack_nested(IFLA_LINKINFO, info), f"add vxlan {name}, VNI {vni}"
    )


def add_flood(index: int, remote: str) -> Request:
    """Add a machine to the flood list of the VXLAN link with this index; one that is in it stays once in it."""
    head = _NDMSG.pack(socket.AF_BRIDGE, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF, 0)
    body = pack_attribute(NDA_LLADDR, _ANY_MAC) + pack_attribute(NDA_DST, ipaddress.ip_address(remote).packed)
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND, head + body, f"flood to {remote}")


def flood_list(kernel: Netlink, index: int) -> set[str]:
    """Give the machines in the flood list of the VXLAN link with this index, and its group."""
    found = set()
    for body in kernel.dump(RTM_GETNEIGH, RTM_NEWNEIGH, _NDMSG.pack(socket.AF_BRIDGE, index, 0, 0, 0)):
        attributes = unpack_attributes(body[_NDMSG.size :])
        if attributes.get(NDA_LLADDR) == _ANY_MAC and NDA_DST in attributes:
            found.add(str(ipaddress.ip_address(attributes[NDA_DST])))
    return found
