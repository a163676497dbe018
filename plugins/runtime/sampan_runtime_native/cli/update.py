"""`update`: from options, or an OCI `linux.resources` object, to the driver."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sampan.api.errors import Conflict, InvalidArgument
from sampan_runtime_native.cli import container
from sampan_runtime_native.cli.bundle import parse_json, read_json
from sampan_runtime_native.cli.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS: Final = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgtp])i?)?b?", re.ASCII | re.IGNORECASE)


def size(text: str) -> int:
    """Read bytes with a unit of 1024, as `512m`; -1 is no limit. Raises `ArgumentTypeError`."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ArgumentTypeError(f"{text!r} is not a size such as 512m")
    return int(float(match[1]) * (1 << _UNITS[(match[2] or "").lower()]))


class _Limit(NamedTuple):
    option: str
    group: str
    key: str
    convert: Callable[[str], Any]
    help: str


_LIMITS: Final = (
    _Limit("--memory", "memory", "limit", size, "memory"),
    _Limit("--memory-reservation", "memory", "reservation", size, "memory that is left to it when memory is short"),
    _Limit("--memory-swap", "memory", "swap", size, "memory and swap together; -1 for any amount of swap"),
    _Limit("--cpu-period", "cpu", "period", int, "microseconds in which --cpu-quota counts"),
    _Limit("--cpu-quota", "cpu", "quota", int, "microseconds of CPU time in each period"),
    _Limit("--cpu-burst", "cpu", "burst", int, "microseconds that may be saved up"),
    _Limit("--cpu-share", "cpu", "shares", int, "weight against other containers"),
    _Limit("--cpu-rt-period", "cpu", "realtimePeriod", int, "microseconds in which --cpu-rt-runtime counts"),
    _Limit("--cpu-rt-runtime", "cpu", "realtimeRuntime", int, "microseconds of real-time scheduling"),
    _Limit("--cpu-idle", "cpu", "idle", int, "1: runs only when nothing else wants to"),
    _Limit("--cpuset-cpus", "cpu", "cpus", str, "CPUs to run on, as 0-1,3"),
    _Limit("--cpuset-mems", "cpu", "mems", str, "memory nodes to use"),
    _Limit("--pids-limit", "pids", "limit", int, "processes and threads; -1 for any number"),
    _Limit("--blkio-weight", "blockIO", "weight", int, "weight against other containers, 10 to 1000"),
)


def declare(parser: ArgumentParser) -> None:
    """Declare the options of `update`."""
    parser.add_argument(
        "--resources",
        "-r",
        default="",
        metavar="FILE",
        help="OCI linux.resources object with what changes; - reads stdin",
    )
    for limit in _LIMITS:
        parser.add_argument(limit.option, dest=_name(limit), type=limit.convert, metavar="N", help=limit.help)


def update(options: Namespace) -> int:
    """Change limits of a container that has not ended."""
    resources = _read(options.resources) if options.resources else _of_options(options)
    store = Store(options.root)
    with store.held(options.id) as record:
        if container.status_of(store, record) in (container.STOPPED, container.CREATING):
            raise Conflict("container not running")
        container.driver_for(store, record.id).update(container.handle_of(record), resources)
    return 0


def _of_options(options: Namespace) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for limit in _LIMITS:
        value = getattr(options, _name(limit))
        if value is not None:
            resources.setdefault(limit.group, {})[limit.key] = value
    if not resources:
        raise InvalidArgument("update: there is nothing to change", remedy="give --resources or a limit")
    return resources


def _name(limit: _Limit) -> str:
    return limit.option[2:].replace("-", "_")


def _read(name: str) -> dict[str, Any]:
    return parse_json(sys.stdin.buffer.read(), "stdin") if name == "-" else read_json(Path(name))
