"""Legacy links (`--link` on the default bridge): another container's name in /etc/hosts, and what it is in the environment.

In networks that users make, a link is another name that the name server answers with: `discovery`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sampan.engine.ports import parse_port
from sampan.engine.records import ContainerRecord, EndpointRecord


@dataclass(frozen=True, slots=True)
class Link:
    """A running container that another one knows by `alias`, and its endpoint in the default bridge."""

    alias: str
    target: ContainerRecord
    endpoint: EndpointRecord


def host_lines(links: Sequence[Link]) -> list[str]:
    """Give the lines for /etc/hosts: alias, host name and name of each target."""
    return [
        f"{address.partition('/')[0]}\t{' '.join(names(link.alias, link.target))}"
        for link in links
        for address in (link.endpoint.ipv4, link.endpoint.ipv6)
        if address
    ]


def names(alias: str, target: ContainerRecord) -> list[str]:
    """Give the names of a target on such a line."""
    return [alias, target.config.hostname, *([target.name] if target.name != alias else [])]


def environment(name: str, links: Sequence[Link]) -> list[str]:
    """Give the variables that the container `name` gets by its links, as dockerd up to version 28 sets them."""
    return [variable for link in links if link.endpoint.ipv4 for variable in _variables(name, link, link.endpoint.ipv4)]


def _variables(name: str, link: Link, ipv4: str) -> Iterator[str]:
    prefix = link.alias.upper().replace("-", "_")
    address = ipv4.partition("/")[0]
    ports = sorted((parse_port(port) for port in link.target.config.exposed_ports), key=lambda p: (p[1] != "tcp", p[1], p[0]))
    if ports:
        number, protocol = ports[0]
        yield f"{prefix}_PORT={protocol}://{address}:{number}"
    for number, protocol in ports:
        one = f"{prefix}_PORT_{number}_{protocol.upper()}"
        yield f"{one}={protocol}://{address}:{number}"
        yield f"{one}_ADDR={address}"
        yield f"{one}_PORT={number}"
        yield f"{one}_PROTO={protocol}"
    for (first, protocol), (last, _) in _ranges(ports):
        one = f"{prefix}_PORT_{first}_{protocol.upper()}"
        yield f"{one}_START={protocol}://{address}:{first}"
        yield f"{one}_PORT_START={first}"
        yield f"{one}_END={protocol}://{address}:{last}"
        yield f"{one}_PORT_END={last}"
    yield f"{prefix}_NAME=/{name}/{link.alias}"
    for item in link.target.config.env:
        variable, separator, value = item.partition("=")
        if separator and variable not in ("HOME", "PATH"):
            yield f"{prefix}_ENV_{variable}={value}"


def _ranges(ports: Sequence[tuple[int, str]]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Give first and last of each run of at least two neighbouring ports."""
    runs: list[list[tuple[int, str]]] = []
    for number, protocol in ports:
        if runs and runs[-1][-1] == (number - 1, protocol):
            runs[-1].append((number, protocol))
        else:
            runs.append([(number, protocol)])
    return [(run[0], run[-1]) for run in runs if len(run) > 1]
