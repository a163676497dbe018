"""Links that stand on another link: macvlan links, in other namespaces than their lower link's too, and VLAN links.

    with Netlink() as kernel:
        give_id(kernel, netns)
        kernel.run(add_macvlan("eth0", lower=link_index("uplink"), netns=netns, group=MINE))
        for namespace in namespace_ids(kernel):
            stale = [link for link in macvlans(kernel, namespace) if link.group == MINE]

A macvlan link in another namespace leaves no trace in its lower link's. By the ids that namespaces have in each other it is
found and deleted from here all the same, with nothing remembered and without entering a namespace. An id goes with its
namespace and is used again: to delete by a name that nobody else has is safe at any moment, to delete by an index is not.

Sources: `ip-link(8)`, `ip-netns(8)`, `include/uapi/linux/{if_link,net_namespace}.h`, `net/core/{rtnetlink,net_namespace}.c`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.linux.netlink import (
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    Netlink,
    Request,
    each_attribute,
    pack_attribute,
    pack_nested,
    unpack_attributes,
)  # fmt: skip

__all__ = [
    "MODES", "Macvlan", "add_altname", "add_macvlan", "add_vlan", "delete_by_altname", "delete_by_index", "give_id", "macvlans",
    "namespace_ids",
]  # fmt: skip

MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
"""Modes of macvlan links, and the kernel's numbers for them."""

RTM_NEWNSID, RTM_GETNSID, RTM_NEWLINKPROP = 88, 90, 108
IFLA_LINK, IFLA_GROUP, IFLA_TARGET_NETNSID, IFLA_PROP_LIST, IFLA_ALT_IFNAME = 5, 27, 46, 52, 53
IFLA_VLAN_ID, IFLA_MACVLAN_MODE = 1, 1
NETNSA_NSID, NETNSA_FD, NETNSA_NSID_NOT_ASSIGNED = 1, 3, -1

_IFINFO = struct.Struct("=BxHiII")
_RTGEN = struct.Struct("=B3x")
_U16, _U32, _S32 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Macvlan:
    """A macvlan link. `lower`: index of the link that it stands on, in that link's namespace."""

    index: int
    name: str
    mac: str
    mtu: int
    lower: int
    mode: str
    group: int
    altnames: tuple[str, ...]


def add_macvlan(
    name: str, *, lower: int, mode: str = "bridge", netns: int | None = None, mac: str = "", mtu: int = 0, group: int = 0
) -> Request:  # fmt: skip
    """Make a macvlan link on the link with index `lower` of this namespace, down; behind the descriptor `netns`, if given.

    `mode`: a key of `MODES`; in passthru the link has the lower one's hardware address. `mtu` 0: the lower one's.
    `group` marks it from its first moment on, which no name or alias can.
    """
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + pack_attribute(IFLA_LINK, _U32.pack(lower))
    body += pack_attribute(IFLA_NET_NS_FD, _U32.pack(netns)) if netns is not None else b""
    body += pack_attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))) if mac else b""
    body += pack_attribute(IFLA_MTU, _U32.pack(mtu)) if mtu else b""
    body += pack_attribute(IFLA_GROUP, _U32.pack(group))
    data = pack_attribute(IFLA_MACVLAN_MODE, _U32.pack(MODES[mode]))
    return _new_link(body, "macvlan", data, f"add macvlan {name}")


def add_vlan(name: str, *, lower: int, number: int) -> Request:
    """Make a link of the VLAN `number` (1 to 4094) on the link with index `lower`, down. EOPNOTSUPP: no 802.1Q here."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + pack_attribute(IFLA_LINK, _U32.pack(lower))
    return _new_link(body, "vlan", pack_attribute(IFLA_VLAN_ID, _U16.pack(number)), f"add VLAN link {name}")


def add_altname(link: str, altname: str) -> Request:
    """Give a link one more name, of up to 127 bytes without spaces. Linux 5.5."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, link)
    body += pack_nested(IFLA_PROP_LIST, _text(IFLA_ALT_IFNAME, altname))
    return Request(RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL, body, f"add name {altname} to link {link}")


def give_id(kernel: Netlink, netns: int) -> None:
    """Give the namespace behind the descriptor an id in `kernel`'s, if it has none. Raises `OSError`."""
    body = _RTGEN.pack(0) + pack_attribute(NETNSA_FD, _U32.pack(netns))
    body += pack_attribute(NETNSA_NSID, _S32.pack(NETNSA_NSID_NOT_ASSIGNED))
    try:
        kernel.run(Request(RTM_NEWNSID, 0, body, "give a network namespace an id"))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def namespace_ids(kernel: Netlink) -> list[int]:
    """Give the ids of all network namespaces that have one in `kernel`'s, which may have one for itself."""
    bodies = kernel.dump(RTM_GETNSID, RTM_NEWNSID, _RTGEN.pack(0))
    return [_S32.unpack(unpack_attributes(body[_RTGEN.size :])[NETNSA_NSID])[0] for body in bodies]


def macvlans(kernel: Netlink, namespace: int | None = None) -> list[Macvlan]:
    """Give the macvlan links of `kernel`'s namespace, or of the one with this id; none if that is gone."""
    where = b"" if namespace is None else pack_attribute(IFLA_TARGET_NETNSID, _S32.pack(namespace))
    return list(_macvlans(kernel.dump(RTM_GETLINK, RTM_NEWLINK, _IFINFO.pack(0, 0, 0, 0, 0) + where)))


def delete_by_altname(altname: str, namespace: int) -> Request:
    """Delete the link of this name in the namespace with this id. ENODEV: it has none; EINVAL: there is no such namespace."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_ALT_IFNAME, altname)
    return _delete(body, namespace, f"delete link {altname}")


def delete_by_index(index: int, namespace: int) -> Request:
    """Delete the link with this index, as `delete_by_altname`, but for the danger told above."""
    return _delete(_IFINFO.pack(0, 0, index, 0, 0), namespace, f"delete link {index} of namespace {namespace}")


def _delete(body: bytes, namespace: int, what: str) -> Request:
    return Request(RTM_DELLINK, 0, body + pack_attribute(IFLA_TARGET_NETNSID, _S32.pack(namespace)), what)


def _new_link(body: bytes, kind: str, data: bytes, what: str) -> Request:
    info = pack_attribute(IFLA_INFO_KIND, kind.encode()) + pack_nested(IFLA_INFO_DATA, data)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + pack_nested(IFLA_LINKINFO, info), what)


def _text(kind: int, text: str) -> bytes:
    return pack_attribute(kind, text.encode() + b"\0")


def _macvlans(bodies: Iterator[bytes]) -> Iterator[Macvlan]:
    names = {number: mode for mode, number in MODES.items()}
    for body in bodies:
        attributes = unpack_attributes(body[_IFINFO.size :])
        info = unpack_attributes(attributes.get(IFLA_LINKINFO, b""))
        if info.get(IFLA_INFO_KIND, b"").rstrip(b"\0") != b"macvlan":
            continue
        mode = _U32.unpack(unpack_attributes(info[IFLA_INFO_DATA])[IFLA_MACVLAN_MODE])[0]
        properties = each_attribute(attributes.get(IFLA_PROP_LIST, b""))
        yield Macvlan(
            index=_IFINFO.unpack_from(body)[2],
            name=_word(attributes[IFLA_IFNAME]),
            mac=attributes[IFLA_ADDRESS].hex(":"),
            mtu=_U32.unpack(attributes[IFLA_MTU])[0],
            lower=_U32.unpack(attributes[IFLA_LINK])[0],
            mode=names.get(mode, str(mode)),
            group=_U32.unpack(attributes[IFLA_GROUP])[0],
            altnames=tuple(_word(data) for kind, data in properties if kind == IFLA_ALT_IFNAME),
        )


def _word(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
