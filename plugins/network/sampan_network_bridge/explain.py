"""An endpoint's packets in words: which reach it, which it may send, and what in the table says so. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sampan.api.network import Endpoint, Network
from sampan_network_bridge.bindings import LOOPBACK6, Binding, place, shown
from sampan_network_bridge.options import GatewayMode, Options


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained. `published`: what should stand in the table for its ports; `live`: what does of that."""

    network: Network
    endpoint: Endpoint
    options: Options
    bridge: str
    link: str
    table: str
    proxy_port: int
    published: Collection[Binding]
    live: Collection[Binding]


def sentences(subject: Subject) -> Iterator[str]:
    """Give a sentence for each thing to know."""
    yield f"it is at {_addresses(subject)}, by link {subject.link} in bridge {subject.bridge}; rules are in table inet {subject.table}"
    yield from _in_by_port(subject)
    yield from _in_by_address(subject)
    yield from _out(subject)


def _addresses(subject: Subject) -> str:
    found = [address.partition("/")[0] for address in (subject.endpoint.ipv4, subject.endpoint.ipv6) if address]
    return " and ".join(found) or "no address"


def _in_by_port(subject: Subject) -> Iterator[str]:
    for item in subject.published:
        to = f"{item.protocol} to {_ports(item)} of {_host(item)}"
        where = f"element {shown(item)} of {place(item)}"
        if item.is_door:
            to = f"{item.protocol} to {_ports(item)} of {item.target} itself"
        if item not in subject.live:
            yield f"{to} should reach it at {item.container}, but {where} is missing: a restart of the daemon mends that"
        elif item.is_door:
            yield f"{to} is let through (chain judge, {where})"
        elif item.is_proxied:
            yield (
                f"{to} reaches it at {item.container} by the proxy on port {subject.proxy_port}, as a client with the"
                f" address of the bridge (chain divert, {where})"
            )
        else:
            yield f"{to} reaches it at {item.container} (chain translate, {where})"
    if any(item.host_ip.startswith("127.") for item in subject.published):
        yield "what is sent to 127.0.0.0/8 from a wire or from a container is not translated (chains guard and incoming)"
    if not subject.published:
        yield "no port of it is published"


def _in_by_address(subject: Subject) -> Iterator[str]:
    internal, given = subject.network.internal, subject.options
    name = subject.network.name
    if given.icc:
        yield f"containers of network {name} reach every port of it (chain judge, set open_pairs)"
    else:
        yield f"containers of network {name} reach its published ports only (chain judge, set closed_pairs; isolated links)"
    yield "this host reaches every port of it"
    for version, address in ((4, subject.endpoint.ipv4), (6, subject.endpoint.ipv6)):
        if not address:
            continue
        who, mode = f"who has a route to {address.partition('/')[0]}", given.mode(version)
        if internal:
            yield f"nobody else reaches it by IPv{version}: the network is internal (chain judge, set shut)"
        elif mode is GatewayMode.NAT_UNPROTECTED:
            yield f"{who} reaches every port of it (gateway mode {mode}; chain judge, set unprotected{version})"
        elif mode is GatewayMode.ROUTED:
            yield f"{who} reaches its published ports (gateway mode {mode}; chain judge, sets routed{version} and doors{version})"
        else:
            trusted = f", but by {', '.join(given.trusted)} its published ports" if given.trusted else ""
            yield f"{who} reaches nothing at that address{trusted} (chains guard and judge)"


def _out(subject: Subject) -> Iterator[str]:
    given = subject.options
    if subject.network.internal:
        yield "it reaches its network and nothing outside (chain judge, set shut)"
        return
    for version, address in ((4, subject.endpoint.ipv4), (6, subject.endpoint.ipv6)):
        if not address:
            continue
        if version not in subject.endpoint.gateway_for:
            yield f"its default route for IPv{version} goes by another network"
        elif not given.masquerade or given.mode(version) is GatewayMode.ROUTED:
            yield f"it reaches by IPv{version} what this host routes to, with its own address"
        else:
            source = given.source(version) or "the address of the link they leave by"
            yield (
                f"it reaches by IPv{version} what this host routes to; packets bear {source}"
                f" (chain leaving, set translated{version})"
            )


def _ports(item: Binding) -> str:
    first = item.port if item.is_door else item.host_port
    return f"ports {first} to {first + item.count - 1}" if item.count > 1 else f"port {first}"


def _host(item: Binding) -> str:
    if item.host_ip == LOOPBACK6 or item.host_ip.startswith("127."):
        return f"{item.host_ip}, from this host only,"
    return item.host_ip or f"every IPv{item.family} address of this host"
