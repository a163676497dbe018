"""Arithmetic on address ranges: text in, ranges out, and the first gap between them. Nothing here walks over addresses."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable, Sequence

from sampan.api.errors import InvalidArgument

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_range(text: str, what: str) -> IPNetwork:
    """Read CIDR text; bits after the prefix do not matter. Raises `InvalidArgument`, which calls it `what`."""
    try:
        _refuse_zone(text)
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidArgument(f"{what} {text!r} is no address range", remedy="give it as CIDR: 172.28.0.0/16") from error


def parse_address(text: str, within: IPNetwork, what: str) -> IPAddress:
    """Read an address that must lie in `within`. Raises `InvalidArgument`, which calls it `what`."""
    try:
        _refuse_zone(text)
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"{what} {text!r} is no address") from error
    if address not in within:
        raise InvalidArgument(f"{what} {address} is not in {within}")
    return address


def _refuse_zone(text: str) -> None:
    """Raise `ValueError` for a zone (RFC 4007): it is any text, and belongs to no address that others are given."""
    if "%" in text:
        raise ValueError("it has a zone")


def taken_numbers(texts: Iterable[str], version: int) -> set[int]:
    """Give the addresses of a version among `texts` as numbers. By inet_pton(3): a start waits for it, and there may be a
    thousand. Raises `InvalidArgument`.
    """
    family, is_version_6 = (socket.AF_INET6, True) if version == 6 else (socket.AF_INET, False)
    try:
        return {int.from_bytes(socket.inet_pton(family, text), "big") for text in texts if (":" in text) is is_version_6}
    except OSError as error:
        raise InvalidArgument(f"an address in use is none: {', '.join(texts)}") from error


def hosts(network: IPNetwork) -> range:
    """Give the addresses that hosts may have. Raises `InvalidArgument` for a subnet without room for two.

    Not the first: it is the network's, or every router's (RFC 4291 §2.6.1); nor the last in IPv4, which is everybody's. A
    subnet of two addresses is a link between two (RFC 3021, RFC 6164): both are theirs.
    """
    first, last = int(network[0]), int(network[-1])
    if first == last:
        raise InvalidArgument(f"subnet {network} has no room for a gateway and a container", remedy="choose a shorter prefix")
    if last - first == 1:
        return range(first, last + 1)
    return range(first + 1, last + 1 if network.version == 6 else last)


def overlap(one: range, other: range) -> range:
    """Give what two ranges have in common."""
    return range(max(one.start, other.start), min(one.stop, other.stop))


def numbers(network: IPNetwork) -> range:
    """Give all its addresses as numbers."""
    return range(int(network[0]), int(network[-1]) + 1)


def lowest_free(numbers: range, taken: Collection[int]) -> int | None:
    """Give the lowest number that is not taken: at most one step more than there are taken ones."""
    return next((number for number in numbers if number not in taken), None)


def overlapping(network: IPNetwork, others: Iterable[IPNetwork]) -> IPNetwork | None:
    """Give one of the others that has an address in common, or None."""
    return next((other for other in others if other.version == network.version and network.overlaps(other)), None)


def first_gap(base: IPNetwork, size: int, taken: Sequence[IPNetwork]) -> IPNetwork | None:
    """Give the lowest subnet of `base` with prefix length `size` that overlaps none of `taken`, which are sorted.

    One pass over `taken`: a /64 of a /8 is as near as one of a /48.
    """
    step = 1 << (base.max_prefixlen - size)
    at = int(base[0])
    for other in taken:
        if int(other[-1]) < at:
            continue
        if int(other[0]) >= at + step:
            break
        at = -(-(int(other[-1]) + 1) // step) * step
    return type(base)((at, size)) if at + step <= int(base[-1]) + 1 else None
