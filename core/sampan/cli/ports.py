"""Port flags: `-p` and `--expose`, and how docker lists published ports."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

PROTOCOLS = ("tcp", "udp", "sctp")


class Publication(NamedTuple):
    """One container port (`80/tcp`) published on the host: its port or range as text, "" for a free one."""

    port: str
    host_ip: str
    host_port: str


def parse_publish(text: str) -> list[Publication]:
    """Parse `[[IP:][HOSTPORT]:]PORT[/PROTO]`, with ranges and IPv6 in brackets. Raises `ValueError`."""
    body, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    rest, _, container = body.rpartition(":")
    address, _, host = rest.rpartition(":")
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    if address:
        address = address.removeprefix("[").removesuffix("]")
        try:
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        except OSError:
            raise ValueError(f"invalid IP address: {address}") from None
    first, last = _range(container, "containerPort")
    if not host:
        return [Publication(f"{port}/{protocol}", address, "") for port in range(first, last + 1)]
    host_first, host_last = _range(host, "hostPort")
    if host_last - host_first != last - first:
        if first != last:
            raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
        return [Publication(f"{first}/{protocol}", address, f"{host_first}-{host_last}")]
    return [
        Publication(f"{port}/{protocol}", address, str(host_first + port - first)) for port in range(first, last + 1)
    ]


def parse_expose(text: str) -> list[str]:
    """Parse `PORT[-PORT][/PROTO]` to the API's names. Raises `ValueError`."""
    body, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    first, last = _range(body, "range format for --expose: port")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    if not all(end.isascii() and end.isdigit() and int(end) < 65536 for end in ends) or int(ends[0]) > int(ends[1]):
        raise ValueError(f"invalid {what}: {text}")
    return int(ends[0]), int(ends[1])


def bindings(publications: Iterable[Publication]) -> dict[str, list[dict[str, str]]]:
    """Give HostConfig.PortBindings."""
    table: dict[str, list[dict[str, str]]] = {}
    for item in publications:
        table.setdefault(item.port, []).append({"HostIp": item.host_ip, "HostPort": item.host_port})
    return table


def display(ports: Sequence[Mapping[str, Any]]) -> str:
    """Write the ports of a container in a list as docker does, runs of ports as a range."""
    items = sorted(
        {
            (
                int(port.get("PrivatePort", 0)),
                str(port.get("IP", "")),
                int(port.get("PublicPort", 0)),
                str(port.get("Type", "tcp")),
            )
            for port in ports
        }
    )
    runs: dict[tuple[str, str], tuple[int, int]] = {}  # address and protocol → the run of ports that may still grow
    done, mapped = [], []
    for private, ip, public, protocol in items:
        if ip and public != private:
            mapped.append(f"{_host(ip)}:{public}->{private}/{protocol}")
            continue
        first, last = runs.get((ip, protocol), (private, private))
        if private > last + 1:
            done.append(_run(ip, protocol, first, last))
            first = private
        runs[ip, protocol] = (first, private)
    done += [_run(ip, protocol, first, last) for (ip, protocol), (first, last) in runs.items()]
    return ", ".join([*done, *mapped])


def _run(ip: str, protocol: str, first: int, last: int) -> str:
    text = str(first) if first == last else f"{first}-{last}"
    return f"{_host(ip)}:{text}->{text}/{protocol}" if ip else f"{text}/{protocol}"


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
