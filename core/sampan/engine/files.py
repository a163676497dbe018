"""The engine's own files in a container: /etc/hostname, /etc/hosts, /etc/resolv.conf, and an empty /.dockerenv, which programs look for
to know that they are in a container."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from sampan.api.errors import InvalidArgument, host_errors
from sampan.engine import resolver
from sampan.engine.records import ContainerRecord, EndpointRecord

LOCAL_NAMES = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)

DOCKERENV = "/.dockerenv"

HOST_HOSTS = Path("/etc/hosts")

HOST_GATEWAY = "host-gateway"

MAX_HOSTS = 1 << 20
"""Bytes of an /etc/hosts that is still kept up to date."""


def write_files(
    directory: Path,
    record: ContainerRecord,
    endpoints: Sequence[EndpointRecord],
    *,
    host_network: bool,
    gateways: Sequence[str],
    resolv_conf: str,
    owner: tuple[int, int],
    linked: Sequence[str] = (),
) -> dict[str, Path]:
    """Write the files, as `owner` (uid, gid) has them, and give where each is to be bound. `linked` are more lines for /etc/hosts.

    An /etc/resolv.conf that was edited is kept.
    """
    contents = {
        "/etc/hostname": f"{record.config.hostname}\n",
        "/etc/hosts": hosts(record, endpoints, host_network=host_network, gateways=gateways, linked=linked),
        DOCKERENV: "",
    }
    directory.mkdir(mode=0o711, exist_ok=True)
    bound = bound_files(directory)
    for destination, text in contents.items():
        bound[destination].write_text(text, errors="surrogateescape")
    resolver.write(bound["/etc/resolv.conf"], resolv_conf)
    for path in bound.values():
        path.chmod(0o644)
        status = path.stat()
        if (status.st_uid, status.st_gid) != owner:
            os.chown(path, *owner)
    return bound


def bound_files(directory: Path) -> dict[str, Path]:
    """Give where each file of a container that has them is to be bound: in one that shares its network too."""
    return {DOCKERENV: directory / "dockerenv", **{f"/etc/{name}": directory / name for name in ("hostname", "hosts", "resolv.conf")}}


def hosts(
    record: ContainerRecord,
    endpoints: Sequence[EndpointRecord],
    *,
    host_network: bool,
    gateways: Sequence[str],
    linked: Sequence[str] = (),
) -> str:
    """Give the text of /etc/hosts: the host's own for its network, else local names, extra hosts, the container itself, links."""
    lines = _of_host() if host_network else list(LOCAL_NAMES)
    lines += extra_hosts(record.host.extra_hosts, gateways)
    if not host_network:
        lines += [line for endpoint in endpoints for line in _own_lines(record, endpoint)]
    return "\n".join([*lines, *linked]) + "\n"


def _of_host() -> list[str]:
    """Give the host's lines; local names for a host without the file."""
    try:
        return HOST_HOSTS.read_text(errors="surrogateescape").rstrip("\n").split("\n")
    except FileNotFoundError:
        return list(LOCAL_NAMES)


def extra_hosts(items: Sequence[str], gateways: Sequence[str]) -> list[str]:
    """Give the lines of `--add-host`; `host-gateway` stands for all of `gateways`. Raises `InvalidArgument`."""
    lines = []
    for item in items:
        name, separator, address = item.partition(":")
        if not separator:
            raise InvalidArgument(f"invalid extra host {item!r}", remedy="write HOST:ADDRESS")
        if address == HOST_GATEWAY and not gateways:
            raise InvalidArgument(
                "unable to derive the IP value for host-gateway: the default bridge has no gateway",
                remedy="set host-gateway-ip in config.toml",
            )
        lines += [f"{one}\t{name}" for one in (gateways if address == HOST_GATEWAY else [address])]
    return lines


def _own_lines(record: ContainerRecord, endpoint: EndpointRecord) -> list[str]:
    """Give the lines for a container's own name: as a whole, and without its domain, in whichever field that was asked for."""
    whole = ".".join(filter(None, (record.config.hostname, record.config.domainname)))
    name, separator, _ = whole.partition(".")
    names = f"{whole} {name}" if separator else whole
    return [f"{address.partition('/')[0]}\t{names}" for address in (endpoint.ipv4, endpoint.ipv6) if address]


def add_host_lines(directory: Path, record: ContainerRecord, endpoint: EndpointRecord) -> None:
    """Put a running container's address in one more network into its /etc/hosts."""
    _rewrite(directory, lambda lines: [*lines, *_own_lines(record, endpoint)])


def remove_host_lines(directory: Path, record: ContainerRecord, endpoint: EndpointRecord) -> None:
    """Take a running container's address in a network out of its /etc/hosts; other lines stay as they are."""
    own = set(_own_lines(record, endpoint))
    _rewrite(directory, lambda lines: [line for line in lines if line not in own])


def replace_host(directory: Path, names: Sequence[str], new: Sequence[str]) -> None:
    """Put `new` in place of the lines for exactly these names in a running container's /etc/hosts."""
    _rewrite(directory, lambda lines: [*(line for line in lines if line.split()[1:] != list(names)), *new])


def _rewrite(directory: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the file in place: it is bound into the container, by its inode. What grew out of size is the container's own."""
    path = directory / "hosts"
    with host_errors(f"change {path}"):
        if path.stat().st_size > MAX_HOSTS:
            return
        lines = path.read_text(errors="surrogateescape").splitlines()
        path.write_text("\n".join(change(lines)) + "\n", errors="surrogateescape")
