"""A bundle on disk as the driver wants it: paths made absolute, and the cgroup named.

Source: OCI runtime spec 1.2, `bundle.md`, `config.md` (Root, Mounts), `config-linux.md` (Cgroups Path).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from sampan.api.errors import InvalidArgument

_DEFAULT_NODES: Final = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
"""null, zero, full, random, urandom, tty, console, ptmx and the terminals, all character devices."""
_DEFAULT_RULES: Final = (
    *({"allow": True, "type": kind, "access": "m"} for kind in "cb"),
    *({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"} for major, minor in _DEFAULT_NODES),
)


class Bundle(NamedTuple):
    """A bundle that was read. In `spec` no path of the host is relative any more."""

    path: Path
    spec: dict[str, Any]
    rootfs: str
    cgroup: str


def load(directory: str, container: str) -> Bundle:
    """Read a bundle's config.json for the container of that id. Raises `InvalidArgument`."""
    path = Path(os.path.realpath(directory))
    spec = read_json(path / "config.json")
    version = str(spec.get("ociVersion", ""))
    if not version.startswith("1."):
        raise InvalidArgument(f"ociVersion {version!r} in {path}/config.json is not 1.something")
    try:
        return _complete(path, spec, container)
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path}/config.json: {type(error).__name__}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object. Raises `InvalidArgument`."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"read {path}: {error.strerror}") from error
    return parse_json(text, str(path))


def parse_json(text: bytes, place: str) -> dict[str, Any]:
    """Give the JSON object that was read from `place`. Raises `InvalidArgument`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"read {place}: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgument(f"read {place}: it holds no JSON object")
    return found


def _complete(path: Path, spec: dict[str, Any], container: str) -> Bundle:
    root = spec.get("root") or {}
    rootfs = str(path / root["path"]) if root.get("path") else ""
    linux = spec.get("linux") or {}
    # A relative path is ours to interpret: under one cgroup of this program's.
    cgroup = os.path.join("/sampan-runtime", linux.get("cgroupsPath") or container)  # noqa: PTH118
    mounts = [_with_absolute_source(path, mount) for mount in spec.get("mounts") or ()]
    linux = {**linux, "cgroupsPath": cgroup, "resources": _with_default_devices(linux.get("resources") or {})}
    complete = {**spec, "root": {**root, "path": rootfs}, "mounts": mounts, "linux": linux}
    return Bundle(path, complete, rootfs, cgroup)


def _with_default_devices(resources: dict[str, Any]) -> dict[str, Any]:
    """Where there are rules, let the default devices be used, and any node be made, as runc does: a bundle may just deny all."""
    rules = resources.get("devices")
    return {**resources, "devices": [*rules, *_DEFAULT_RULES]} if rules else resources


def _with_absolute_source(bundle: Path, mount: dict[str, Any]) -> dict[str, Any]:
    options = mount.get("options") or ()
    if mount.get("source") and (mount.get("type") == "bind" or "bind" in options or "rbind" in options):
        return {**mount, "source": str(bundle / mount["source"])}
    return mount
