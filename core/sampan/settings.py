"""The daemon's settings: `/etc/sampan/config.toml`, then `SAMPAN_…` in the environment, then flags; the later is stronger."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from sampan.api.errors import InvalidArgument
from sampan.api.types import Ulimit

DEFAULT_FILE = Path("/etc/sampan/config.toml")

Table = dict[str, dict[str, Any]]
"""A driver kind's tables: driver name → its settings, checked by the driver's own model."""

_SIZE = re.compile(r"(\d{1,19})([kmgt]?)(?:i?b)?", re.ASCII)
_ULIMIT = re.compile(r"([a-z]+)=(-?\d{1,19})(?::(-?\d{1,19}))?", re.ASCII)


class Settings(BaseModel):
    """All that can be set. In the file, keys are written with hyphens (`storage-driver`) or underscores alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path = Path("/var/lib/sampan")
    state: Path = Path("/run/sampan")
    hosts: tuple[str, ...] = ("unix:///run/sampan.sock",)
    group: str = "sampan"
    storage_driver: str | None = None
    runtime: str = "native"
    log_driver: str = "json-file"
    bridge_name: str = "sampan0"
    bridge_subnet: str | None = None
    bridge_subnet6: str | None = None
    bridge_range: str | None = None
    publish: Literal["all", "loopback"] = "all"
    host_gateway_ip: tuple[str, ...] = ()
    sandbox_pool: int = Field(default=4, ge=0, le=64)
    cgroup_parent: str = "/sampan"
    userns_remap: str | None = None
    init: bool = False
    init_path: Path | None = None
    seccomp_profile: str = "builtin"
    no_new_privileges: bool = False
    default_ipc_mode: Literal["private", "shareable"] = "private"
    default_cgroupns_mode: Literal["host", "private"] | None = None
    default_shm_size: int = Field(default=64 << 20, gt=0)
    default_ulimits: tuple[Ulimit, ...] = ()
    pidfile: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tlsverify: bool = False
    tlscacert: Path | None = None
    tlscert: Path | None = None
    tlskey: Path | None = None
    insecure_tcp: bool = False
    storage: Table = {}
    network: Table = {}
    ipam: Table = {}
    volume: Table = {}
    runtimes: Table = {}

    @field_validator("hosts")
    @classmethod
    def _known_schemes(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host.startswith(("unix://", "tcp://", "fd://")):
                raise ValueError(f"{host!r} is none of unix://PATH, tcp://HOST:PORT, fd://")
        return hosts

    @field_validator("host_gateway_ip")
    @classmethod
    def _addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_address(address)) for address in addresses)

    @field_validator("bridge_subnet")
    @classmethod
    def _interface(cls, text: str | None) -> str | None:
        if text is not None and ipaddress.ip_interface(text).version != 4:
            raise ValueError(f"{text!r} is no IPv4 address with its prefix; bridge_subnet6 is for IPv6")
        return text

    @field_validator("bridge_subnet6")
    @classmethod
    def _interface6(cls, text: str | None) -> str | None:
        if text is not None and text != "auto" and ipaddress.ip_interface(text).version != 6:
            raise ValueError(f"{text!r} is no IPv6 address with its prefix")
        return text

    @field_validator("bridge_range")
    @classmethod
    def _range(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None:
            within, subnet = ipaddress.IPv4Network(text), info.data.get("bridge_subnet")
            if subnet is None or not within.subnet_of(ipaddress.IPv4Interface(subnet).network):
                raise ValueError(f"{text!r} is no part of bridge_subnet, which it needs")
        return text

    @field_validator("default_shm_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        """Read a size as Docker writes it: `64m`, `1g`, bytes."""
        if not isinstance(value, str):
            return value
        match = _SIZE.fullmatch(value.strip().lower())
        if match is None:
            raise ValueError(f"{value!r} is no size: write a number of bytes, or one with k, m, g or t")
        return int(match[1]) << 10 * " kmgt".index(match[2] or " ")

    @field_validator("default_ulimits", mode="before")
    @classmethod
    def _ulimits(cls, items: object) -> object:
        """Read limits as `--ulimit` has them: `nofile=1024:2048`."""
        if not isinstance(items, list | tuple):
            return items
        return tuple(_ulimit(item) if isinstance(item, str) else item for item in items)

    @field_validator("root", "state")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return Path.cwd() / path


def _ulimit(text: str) -> Ulimit:
    match = _ULIMIT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no limit: write NAME=SOFT[:HARD]")
    return Ulimit(name=match[1], soft=int(match[2]), hard=int(match[3] or match[2]))


def load(overrides: Mapping[str, Any], config_file: str | None, environ: Mapping[str, str]) -> Settings:
    """Put the three sources together. Raises `InvalidArgument` that names the source, the key and what is wrong."""
    layers = [
        (_from_file(config_file), f"config file {config_file or DEFAULT_FILE}"),
        (_from_environment(environ), "environment"),
        (dict(overrides), "command line"),
    ]
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for values, source in layers:
        merged.update(values)
        origin.update(dict.fromkeys(values, source))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise InvalidArgument("; ".join(_explain(item, origin) for item in error.errors())) from error


def _explain(item: ErrorDetails, origin: Mapping[str, str]) -> str:
    key = str(item["loc"][0])
    where = ".".join(str(part) for part in item["loc"])
    text = "is not a setting" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
    return f"{origin.get(key, 'settings')}: {where}: {text}"


def _from_file(config_file: str | None) -> dict[str, Any]:
    path = Path(config_file) if config_file else DEFAULT_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        if config_file:
            raise InvalidArgument(f"read config file {path}: it does not exist") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"read config file {path}: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(
            f"read config file {path}: {error}", remedy="see docs/reference/configuration.md"
        ) from error
    return {key.replace("-", "_"): value for key, value in values.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, info in Settings.model_fields.items():
        text = environ.get(f"SAMPAN_{name.upper()}")
        if text is not None and info.annotation is not Table:
            values[name] = tuple(text.split(",")) if info.annotation in (tuple[str, ...], tuple[Ulimit, ...]) else text
    return values
