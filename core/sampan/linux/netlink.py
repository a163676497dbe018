"""Links, addresses and routes over rtnetlink: requests packed here, many in one send, every answer checked.

    with Netlink() as kernel:
        kernel.run(add_bridge("br0"), set_link("br0", up=True))
        kernel.run(add_address(link_index("br0"), "172.17.0.1/16"))

A `Netlink` speaks to the network namespace of the thread that opened it; open one inside
`namespaces.call_in_netns` for another namespace's. Functions that pack a request touch nothing. Failures are
`OSError` with the kernel's errno and, where it gives one, its own words (extended acks).

Sources: `rtnetlink(7)`, `netlink(7)`, `include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,veth}.h`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

__all__ = [
    "Address", "Link", "Netlink", "Request", "Route", "add_address", "add_bridge", "add_route", "add_veth", "delete_address",
    "delete_link", "dumped", "each_attribute", "is_link_name", "link_index", "mac_of", "pack_attribute", "pack_nested", "replace_route",
    "set_link", "settle_link", "shut_port", "unpack_attributes",
]  # fmt: skip

NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = (
    0x1,
    0x4,
    0x100,
    0x200,
    0x400,
    0x300,
)
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE, NLMSGERR_ATTR_MSG = 2, 3, 1
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 20, 21, 22, 24, 26
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_PROTINFO, IFLA_IFALIAS, IFLA_NET_NS_FD = 12, 20, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_FLUSH, IFLA_BRPORT_ISOLATED, BR_STATE_DISABLED = 1, 4, 24, 33, 0
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_F_NODAD = 1, 2, 4, 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTN_UNICAST = 254, 3, 0, 253, 1

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")
_RECEIVE = 1 << 16
_LINK_NAME = re.compile(r'(?!\.{1,2}$)[^\x00-\x20/:"*\\%\x7f-\U0010ffff]{1,15}')


@dataclass(frozen=True, slots=True)
class Request:
    """One packed request: the message's type, its flags, its body, and what it does, for the error text."""

    type: int
    flags: int
    body: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface; `kind` is "" for hardware, `master` 0 for none; `carrier`: its other end is up."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: int
    up: bool
    alias: str
    carrier: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """An address with prefix length on the link with this index."""

    index: int
    address: str


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route: destination as CIDR text ("0.0.0.0/0" for the default), gateway or "", index of the
    link or 0.
    """

    destination: str
    gateway: str
    index: int
    table: int


# ---------------------------------------------------------------- requests


def add_veth(name: str, *, peer: str, netns: int, master: int = 0, mac: str = "", mtu: int = 0) -> Request:
    """Make a veth pair: `name` here, up and in bridge `master`; `peer` behind the descriptor `netns`, down,
    with `mac`.
    """
    far = _IFINFO.pack(0, 0, 0, 0, 0) + _name(peer) + pack_attribute(IFLA_NET_NS_FD, _U32.pack(netns))
    far += pack_attribute(IFLA_ADDRESS, _mac(mac)) if mac else b""
    body = _IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + _name(name)
    if mtu:
        far += pack_attribute(IFLA_MTU, _U32.pack(mtu))
        body += pack_attribute(IFLA_MTU, _U32.pack(mtu))
    if master:
        body += pack_attribute(IFLA_MASTER, _U32.pack(master))
    info = pack_attribute(IFLA_INFO_KIND, b"veth") + pack_nested(IFLA_INFO_DATA, pack_nested(VETH_INFO_PEER, far))
    return Request(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        body + pack_nested(IFLA_LINKINFO, info),
        f"add veth {name} with {peer}",
    )


def add_bridge(name: str, *, mac: str = "", mtu: int = 0) -> Request:
    """Make a bridge, down. With a `mac` its address does not change when ports come and go."""
    body = (
        _IFINFO.pack(0, 0, 0, 0, 0)
        + _name(name)
        + pack_nested(IFLA_LINKINFO, pack_attribute(IFLA_INFO_KIND, b"bridge"))
    )
    body += pack_attribute(IFLA_ADDRESS, _mac(mac)) if mac else b""
    body += pack_attribute(IFLA_MTU, _U32.pack(mtu)) if mtu else b""
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add bridge {name}")


def set_link(
    link: str | int, *, up: bool | None = None, mtu: int = 0, mac: str = "", master: int | None = None, alias: str = "",
    hairpin: bool | None = None, isolated: bool | None = None,
) -> Request:  # fmt: skip
    """Change a link, by name or index; what is not given stays. `hairpin` and `isolated` are for ports of a
    bridge.
    """
    index, name = (link, b"") if isinstance(link, int) else (0, _name(link))
    body = _IFINFO.pack(0, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP) + name
    body += pack_attribute(IFLA_MTU, _U32.pack(mtu)) if mtu else b""
    body += pack_attribute(IFLA_ADDRESS, _mac(mac)) if mac else b""
    body += pack_attribute(IFLA_MASTER, _U32.pack(master)) if master is not None else b""
    body += pack_attribute(IFLA_IFALIAS, alias.encode()) if alias else b""
    port = _flag(IFLA_BRPORT_MODE, hairpin) + _flag(IFLA_BRPORT_ISOLATED, isolated)
    if port:
        info = pack_attribute(IFLA_INFO_SLAVE_KIND, b"bridge") + pack_nested(IFLA_INFO_SLAVE_DATA, port)
        body += pack_nested(IFLA_LINKINFO, info)
    return Request(RTM_NEWLINK, 0, body, f"set link {link}")


def shut_port(index: int) -> Request:
    """Let a bridge's port pass nothing any more, and have the bridge forget who is behind it: at once, where taking the port
    out of the bridge waits for the kernel's readers. A change of its carrier opens it again.
    """
    port = pack_attribute(IFLA_BRPORT_STATE, bytes([BR_STATE_DISABLED])) + pack_attribute(IFLA_BRPORT_FLUSH, b"")
    # not as `set_link` does: that tells the bridge of a change, and it would open the port
    body = _IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + pack_nested(IFLA_PROTINFO, port)
    return Request(RTM_SETLINK, 0, body, f"shut port {index}")


def settle_link(link: str | int) -> Request:
    """Ask for a link, so that the kernel acts on a change of its carrier now (Linux 6.7:
    `linkwatch_sync_dev`).

    Else a worker does, up to a second later, and until then a bridge's port is disabled and a new link drops
    packets.
    """
    index, name = (link, b"") if isinstance(link, int) else (0, _name(link))
    return Request(RTM_GETLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + name, f"get link {link}")


def delete_link(link: str | int) -> Request:
    """Delete a link, by name or index; the other end of a veth goes with it. 8–21 ms: the kernel waits for
    its readers.
    """
    index, name = (link, b"") if isinstance(link, int) else (0, _name(link))
    return Request(RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + name, f"delete link {link}")


def add_address(index: int, address: str) -> Request:
    """Put an address with prefix length on a link; an IPv6 one without duplicate detection, so it works at
    once.
    """
    interface = ipaddress.ip_interface(address)
    raw = interface.ip.packed
    body = pack_attribute(IFA_LOCAL, raw) + pack_attribute(IFA_ADDRESS, raw)
    if interface.version == 4:
        family, flags = socket.AF_INET, 0
        if interface.network.prefixlen < 31:
            body += pack_attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    else:
        family, flags = socket.AF_INET6, IFA_F_NODAD
    head = _IFADDR.pack(family, interface.network.prefixlen, flags, 0, index)
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, head + body, f"add address {address}")


def delete_address(index: int, address: str) -> Request:
    """Take an address with prefix length from a link."""
    interface = ipaddress.ip_interface(address)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    head = _IFADDR.pack(family, interface.network.prefixlen, 0, 0, index)
    return Request(RTM_DELADDR, 0, head + pack_attribute(IFA_LOCAL, interface.ip.packed), f"delete address {address}")


def add_route(destination: str, *, gateway: str = "", index: int = 0) -> Request:
    """Add a route to `destination` (CIDR) in the main table, by a gateway, or onto the link with this index,
    or both.
    """
    return Request(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_EXCL,
        _pack_route(destination, gateway, index),
        f"add route to {destination}",
    )


def replace_route(destination: str, *, gateway: str = "", index: int = 0) -> Request:
    """Add a route as `add_route`, in place of the one to this destination if there is one, in one step."""
    return Request(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        _pack_route(destination, gateway, index),
        f"replace route to {destination}",
    )


def _pack_route(destination: str, gateway: str, index: int) -> bytes:
    network = ipaddress.ip_network(destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    scope = RT_SCOPE_UNIVERSE if gateway or network.version == 6 else RT_SCOPE_LINK
    head = _RTMSG.pack(family, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    body = pack_attribute(RTA_DST, network.network_address.packed) if network.prefixlen else b""
    body += pack_attribute(RTA_GATEWAY, ipaddress.ip_address(gateway).packed) if gateway else b""
    body += pack_attribute(RTA_OIF, _U32.pack(index)) if index else b""
    return head + body


# ---------------------------------------------------------------- the socket


class Netlink:
    """A socket to the kernel's routing subsystem, for one thread at a time. Raises `OSError`."""

    def __init__(self) -> None:
        """Open the socket in the calling thread's network namespace."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, 0))
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> Netlink:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def run(self, *requests: Request) -> None:
        """Send all requests at once and wait for every answer; raise the first failure.

        The kernel carries them out in order and goes on after a failure, so a caller that needs all or
        nothing undoes.
        """
        if not requests:
            return
        first = self._sequence + 1
        self._socket.sendall(b"".join(self._pack(r.type, NLM_F_ACK | r.flags, r.body) for r in requests))
        failure: OSError | None = None
        waiting = len(requests)
        while waiting:
            for kind, flags, sequence, body in self._receive():
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                waiting -= 1
                failure = failure or _failure(body, flags, requests[sequence - first].what)
        if failure is not None:
            raise failure

    def link(self, name: str) -> Link | None:
        """Give the link of this name, or None: at the same cost whether the host has two links or thousands."""
        self._socket.sendall(self._pack(RTM_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _name(name)))
        expected = self._sequence
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence == expected and kind == RTM_NEWLINK:
                    return _link(body)
                if sequence == expected and kind == NLMSG_ERROR:
                    failure = _failure(body, flags, f"get link {name}")
                    if failure is not None and failure.errno != errno.ENODEV:
                        raise failure
                    return None

    def links(self) -> list[Link]:
        """List all links."""
        return [_link(body) for body in self.dump(RTM_GETLINK, RTM_NEWLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def addresses(self, index: int = 0) -> list[Address]:
        """List the addresses of both families: all, or those of the link with this index. Raises `OSError` (ENODEV)."""
        return [_address(body) for body in self.dump(RTM_GETADDR, RTM_NEWADDR, _IFADDR.pack(0, 0, 0, 0, index))]

    def routes(self) -> list[Route]:
        """List the unicast routes of every table, of both families."""
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            head = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            found += [_route(body) for body in self.dump(RTM_GETROUTE, RTM_NEWROUTE, head) if body[7] == RTN_UNICAST]
        return found

    def route_to(self, address: str) -> Route:
        """Give the route that a packet of the host's to this address takes. Raises `OSError` (ENETUNREACH)."""
        target = ipaddress.ip_address(address)
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        head = _RTMSG.pack(family, target.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        self._socket.sendall(self._pack(RTM_GETROUTE, 0, head + pack_attribute(RTA_DST, target.packed)))
        while True:
            for kind, flags, sequence, data in self._receive():
                if sequence == self._sequence and kind == RTM_NEWROUTE:
                    return _route(data)
                if sequence == self._sequence and kind == NLMSG_ERROR:
                    raise _failure(data, flags, f"find the route to {address}") or OSError(f"no route to {address}")

    def discard(self, link: str | int) -> None:
        """Delete a link; one that is not there, or just vanishes with its namespace, is no error."""
        try:
            self.run(delete_link(link))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def dump(self, ask: int, answer: int, body: bytes) -> Iterator[bytes]:
        """Ask for a list; give the body of each message of type `answer`."""
        self._socket.sendall(self._pack(ask, NLM_F_DUMP, body))
        expected = self._sequence
        while True:
            for kind, flags, sequence, data in self._receive():
                if sequence != expected:
                    continue
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    raise _failure(data, flags, "list") or OSError("list: the kernel answered a dump with nothing")
                if kind == answer:
                    yield data

    def _pack(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        message = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0) + body
        return message + bytes(-len(message) % 4)

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE)
        messages, at = [], 0
        while at < len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            messages.append((kind, flags, sequence, data[at + _HEADER.size : at + length]))
            at += length + (-length % 4)
        return messages


def dumped(kernel: socket.socket, what: str) -> Iterator[bytes]:
    """Give the body of each answer to a dump that was asked for on this socket of any netlink family. Raises `OSError`."""
    while True:
        data, at = kernel.recv(2 * _RECEIVE), 0
        while at < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                (number,) = struct.unpack_from("=i", data, at + _HEADER.size)
                raise OSError(-number, f"{what}: {os.strerror(-number)}")
            yield data[at + _HEADER.size : at + length]
            at += length + (-length % 4)


def link_index(name: str) -> int:
    """Give the index of the link `name` in the calling thread's namespace. Raises `OSError` (ENODEV)."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # it comes without a number
        raise OSError(errno.ENODEV, f"find link {name}: {os.strerror(errno.ENODEV)}") from error


def is_link_name(text: str) -> bool:
    """Say whether it names one link, to all who read it: the kernel (`dev_valid_name`), which sees a pattern in %, and nft(8),
    which sees one in *, and whose quotes it must not end. ASCII, so that its 15 letters are 15 bytes.
    """
    return _LINK_NAME.fullmatch(text) is not None


def mac_of(address: str) -> str:
    """Give the hardware address that belongs to an address, as Docker makes it: 172.17.0.2 is 02:42:ac:11:00:02. Of IPv6 the
    last four bytes count.
    """
    raw = ipaddress.ip_interface(address).ip.packed[-4:]
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + raw)


# ---------------------------------------------------------------- packing


def pack_attribute(kind: int, data: bytes) -> bytes:
    """Pack an attribute with its padding."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def pack_nested(kind: int, data: bytes) -> bytes:
    """Pack an attribute that holds attributes."""
    return pack_attribute(kind | NLA_F_NESTED, data)


def _name(name: str) -> bytes:
    return pack_attribute(IFLA_IFNAME, name.encode() + b"\0")


def _flag(kind: int, value: bool | None) -> bytes:
    return b"" if value is None else pack_attribute(kind, bytes([value]))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def unpack_attributes(data: bytes) -> dict[int, bytes]:
    """Give the attributes in a message's body by kind; of several of one kind the last."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give kind and content of each attribute in a message's body, in their order."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + length]
        at += length + (-length % 4)


def _failure(body: bytes, flags: int, what: str) -> OSError | None:
    """Read an answer: None if it says that all went well."""
    (number,) = struct.unpack_from("=i", body)
    if not number:
        return None
    # the answer repeats the request's header, and its body too unless capped; the kernel's words come after
    start = 4 + (_HEADER.size if flags & NLM_F_CAPPED else _U32.unpack_from(body, 4)[0])
    words = b""
    if flags & NLM_F_ACK_TLVS:
        words = unpack_attributes(body[start + (-start % 4) :]).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0")
    text = os.strerror(-number) + (f" ({words.decode(errors='replace')})" if words else "")
    return OSError(-number, f"{what}: {text}")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little" if struct.pack("=H", 1) == b"\1\0" else "big")


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    attrs = unpack_attributes(body[_IFINFO.size :])
    return Link(
        index=index,
        name=_text(attrs.get(IFLA_IFNAME, b"")),
        kind=_text(unpack_attributes(attrs.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"")),
        mac=attrs.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(attrs.get(IFLA_MTU, b"")),
        master=_number(attrs.get(IFLA_MASTER, b"")),
        up=bool(flags & IFF_UP),
        alias=_text(attrs.get(IFLA_IFALIAS, b"")),
        carrier=bool(flags & IFF_LOWER_UP),
    )


def _address(body: bytes) -> Address:
    _, length, _, _, index = _IFADDR.unpack_from(body)
    attrs = unpack_attributes(body[_IFADDR.size :])
    raw = attrs.get(IFA_LOCAL) or attrs[IFA_ADDRESS]
    return Address(index, f"{ipaddress.ip_address(raw)}/{length}")


def _route(body: bytes) -> Route:
    family, length, _, _, table, *_ = _RTMSG.unpack_from(body)
    attrs = unpack_attributes(body[_RTMSG.size :])
    zero = bytes(4 if family == socket.AF_INET else 16)
    return Route(
        destination=f"{ipaddress.ip_address(attrs.get(RTA_DST, zero))}/{length}",
        gateway=str(ipaddress.ip_address(attrs[RTA_GATEWAY])) if RTA_GATEWAY in attrs else "",
        index=_number(attrs.get(RTA_OIF, b"")),
        table=_number(attrs[RTA_TABLE]) if RTA_TABLE in attrs else table,
    )
