"""The engine's own files in a container: /etc/hostname, /etc/hosts, /etc/resolv.conf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sampan.api.errors import InvalidArgument
from sampan.engine.records import ContainerRecord, EndpointRecord

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""Docker's, for a host whose own servers are only reachable from the host itself."""

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


def resolv_conf(record: ContainerRecord, *, host_network: bool) -> str:
    """Give the text of /etc/resolv.conf: the host's, without servers on its loopback, changed by `--dns*`."""
    host = record.host
    servers, search, options = _read_host()
    if not host_network:
        servers = [server for server in servers if not _is_loopback(server)] or list(FALLBACK_SERVERS)
    servers = host.dns or servers
    search = [] if host.dns_search == ["."] else host.dns_search or search
    options = host.dns_options or options
    lines = [f"nameserver {server}" for server in servers]
    if search:
        lines.append(f"search {' '.join(search)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "\n".join(lines) + "\n"


def _read_host() -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    try:
        lines = HOST_RESOLV_CONF.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == "nameserver":
            servers.append(rest.strip())
        elif word in ("search", "domain"):
            search = rest.split()
        elif word == "options":
            options = rest.split()
    return servers, search, options


def _is_loopback(server: str) -> bool:
    return server.startswith("127.") or server == "::1"
