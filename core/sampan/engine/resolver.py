"""A container's /etc/resolv.conf: the servers, search domains and options that it asks names with."""

from __future__ import annotations

from pathlib import Path

from sampan.engine.records import ContainerRecord

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""Docker's, for a host whose own servers are only reachable from the host itself."""


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
