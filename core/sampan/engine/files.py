"""The engine's own files in a container: /etc/hostname, /etc/hosts, /etc/resolv.conf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sampan.api.errors import InvalidArgument
from sampan.engine.records import ContainerRecord, EndpointRecord
from sampan.engine.resolver import resolv_conf

LOCAL_NAMES = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)

HOST_GATEWAY = "host-gateway"


def write_files(
    directory: Path,
    record: ContainerRecord,
    endpoints: Sequence[EndpointRecord],
    *,
    host_network: bool,
    gateway: str | None,
) -> dict[str, Path]:
    """Write the files and give where each is to be bound."""
    hostname = record.config.hostname
    contents = {
        "/etc/hostname": f"{hostname}\n",
        "/etc/hosts": hosts(record, endpoints, host_network=host_network, gateway=gateway),
        "/etc/resolv.conf": resolv_conf(record, host_network=host_network),
    }
    directory.mkdir(mode=0o711, exist_ok=True)
    bound = {}
    for destination, text in contents.items():
        path = directory / destination.rpartition("/")[2]
        path.write_text(text)
        path.chmod(0o644)
        bound[destination] = path
    return bound


def hosts(
    record: ContainerRecord, endpoints: Sequence[EndpointRecord], *, host_network: bool, gateway: str | None
) -> str:
    """Give the text of /etc/hosts: the host's own for its network, else local names, extra hosts and the container itself."""
    lines = [Path("/etc/hosts").read_text().rstrip("\n")] if host_network else list(LOCAL_NAMES)
    for item in record.host.extra_hosts:
        name, separator, address = item.partition(":")
        if not separator:
            raise InvalidArgument(f"invalid extra host {item!r}", remedy="write HOST:ADDRESS")
        if address == HOST_GATEWAY:
            if gateway is None:
                raise InvalidArgument(
                    "unable to derive the IP value for host-gateway: the container's network has no gateway"
                )
            address = gateway
        lines.append(f"{address}\t{name}")
    names = record.config.hostname
    if record.config.domainname:
        names = f"{names}.{record.config.domainname} {names}"
    for endpoint in endpoints:
        if endpoint.ipv4 and not host_network:
            lines.append(f"{endpoint.ipv4.partition('/')[0]}\t{names}")
    return "\n".join(lines) + "\n"
