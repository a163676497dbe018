"""From `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's volumes to mount points. Docker's rules and words."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.types import HostConfig, MountRequest
from sampan.engine.records import ContainerRecord, MountPoint
from sampan.linux.mounts import MountInfo, parse_mountinfo

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")
TMPFS_OPTIONS = frozenset("size mode uid gid nr_inodes nr_blocks mpol".split())
TMPFS_FLAGS = frozenset(
    "ro rw exec noexec suid nosuid dev nodev sync async dirsync remount mand nomand atime noatime diratime nodiratime"
    " relatime norelatime strictatime nostrictatime private rprivate shared rshared slave rslave unbindable runbindable".split()
)
"""What `--tmpfs` takes, as Docker's `MergeTmpfsOptions` has it."""


def mount_points(
    host: HostConfig, image_volumes: Sequence[str], find: Callable[[str], ContainerRecord]
) -> list[MountPoint]:
    """Give all mount points of a new container, one for each destination; volumes not yet made have no source.

    `find` resolves the containers of `--volumes-from`. Raises `InvalidArgument`, e.g. for two mounts on one place.
    """
    explicit = [
        *(parse_bind(text, host.volume_driver) for text in host.binds),
        *(_from_request(request) for request in host.mounts),
        *(_tmpfs(destination, options) for destination, options in host.tmpfs.items()),
    ]
    points: dict[str, MountPoint] = {}
    for point in explicit:
        if point.destination in points:
            raise InvalidArgument(f"Duplicate mount point: {point.destination}")
        points[point.destination] = point
    for text in host.volumes_from:
        for point in _volumes_from(text, find):
            points.setdefault(point.destination, point)
    for destination in image_volumes:
        clean = _destination(destination)
        points.setdefault(
            clean, MountPoint(type="volume", destination=clean, driver=host.volume_driver or "local", copy_up=True)
        )
    return list(points.values())


def parse_bind(text: str, volume_driver: str) -> MountPoint:
    """Read one `-v`: `[SOURCE:]DESTINATION[:MODES]`."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    source, destination, modes = "", parts[0], ""
    if len(parts) > 1:
        source, destination = parts[0], parts[1]
    if len(parts) > 2:
        modes = parts[2]
    destination = _destination(destination, text)
    rw, propagation, copy = True, "", True
    for mode in filter(None, modes.split(",")):
        if mode in ("rw", "ro"):
            rw = mode == "rw"
        elif mode in PROPAGATIONS:
            propagation = mode
        elif mode == "nocopy":
            copy = False
        elif mode not in ("z", "Z", "consistent", "cached", "delegated"):
            raise InvalidArgument(f"invalid mode: {modes}")
    if "\0" in source:
        raise InvalidArgument(f"invalid volume specification: {text!r}: it has a NUL in it")
    if source.startswith("/"):
        return MountPoint(
            type="bind", source=posixpath.normpath(source), destination=destination, mode=modes, rw=rw,
            propagation=propagation or "rprivate", create=True,
        )  # fmt: skip
    if source.startswith((".", "~")) or "/" in source:
        raise InvalidArgument(
            f'{source!r} includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed.'
            " If you intended to pass a host directory, use absolute path"
        )
    return MountPoint(
        type="volume", name=source, driver=volume_driver or "local", destination=destination,
        mode=modes or "z", rw=rw, copy_up=copy,
    )  # fmt: skip


def _destination(path: str, text: str = "") -> str:
    if not path.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{text or path}': invalid mount path: '{path}' mount path must be absolute"
        )
    if "\0" in path:
        raise InvalidArgument(f"invalid volume specification: {text or path!r}: invalid mount path: it has a NUL in it")
    clean = posixpath.normpath(path)
    if clean in ("/", "//"):
        raise InvalidArgument(
            f"invalid volume specification: '{text or path}': invalid specification: destination can't be '/'"
        )
    if clean == "/proc":
        raise InvalidArgument(f"invalid volume specification: '{text or path}': a container needs its own /proc")
    return clean


def _from_request(request: MountRequest) -> MountPoint:
    destination = _destination(request.target)
    if request.type == "bind":
        if not request.source.startswith("/") or "\0" in request.source:
            raise InvalidArgument(
                f"invalid mount config for type \"bind\": invalid mount path: '{request.source}' mount path must be absolute"
            )
        if not os.path.lexists(request.source) and not request.bind_options.create_mountpoint:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {request.source}'
            )
        if request.bind_options.read_only_non_recursive and request.bind_options.read_only_force_recursive:
            raise InvalidArgument("mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive")
        propagation = request.bind_options.propagation or "rprivate"
        if propagation not in PROPAGATIONS:
            raise InvalidArgument(f"invalid propagation mode: {propagation}")
        return MountPoint(
            type="bind", source=request.source, destination=destination, rw=not request.read_only,
            propagation=propagation, create=request.bind_options.create_mountpoint,
            recursive=not request.bind_options.non_recursive, recursive_ro=not request.bind_options.read_only_non_recursive,
        )  # fmt: skip
    if request.type == "volume":
        if request.volume_options.subpath:
            raise Unsupported(
                "mount a part of a volume (volume-subpath): not built yet", remedy="mount the whole volume"
            )
        return MountPoint(
            type="volume", name=request.source, destination=destination, rw=not request.read_only,
            driver=request.volume_options.driver_config.name or "local", mode="z", copy_up=not request.volume_options.no_copy,
        )  # fmt: skip
    if request.type == "tmpfs":
        options = _merged([*TMPFS_DEFAULTS, *("=".join(pair) for pair in request.tmpfs_options.options)])
        if request.tmpfs_options.size_bytes:
            options.append(f"size={request.tmpfs_options.size_bytes}")
        if request.tmpfs_options.mode:
            options.append(f"mode={request.tmpfs_options.mode:o}")
        if request.read_only:
            options.append("ro")
        return MountPoint(type="tmpfs", destination=destination, options=options, rw=not request.read_only)
    raise InvalidArgument(f"mount type unknown: {request.type!r}", remedy="known ones are bind, volume and tmpfs")


def _tmpfs(destination: str, text: str) -> MountPoint:
    options = _merged([*TMPFS_DEFAULTS, *filter(None, text.split(","))])
    return MountPoint(type="tmpfs", destination=_destination(destination), options=options, rw="ro" not in options)


def _merged(options: Sequence[str]) -> list[str]:
    """Give options of which the last of each kind holds: one of a pair as exec and noexec, one value for a key."""
    kept: dict[str, str] = {}
    for option in options:
        key, equals, _ = option.partition("=")
        if option == "defaults":
            continue
        if key not in (TMPFS_OPTIONS if equals else TMPFS_FLAGS):
            raise InvalidArgument(f'invalid tmpfs option "{key}"')
        kind = key if equals else _flag_kind(key)
        kept.pop(kind, None)
        kept[kind] = option
    return list(kept.values())


def _flag_kind(flag: str) -> str:
    if flag in ("ro", "rw"):
        return "access"
    if flag in PROPAGATIONS or flag.endswith("unbindable"):
        return "propagation"
    return flag.removeprefix("no")


def _volumes_from(text: str, find: Callable[[str], ContainerRecord]) -> list[MountPoint]:
    name, _, mode = text.partition(":")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidArgument(f"invalid mode for volumes-from: {mode}")
    points = [point for point in find(name).mounts if point.type != "tmpfs"]
    return [point.model_copy(update={"copy_up": False, **({"rw": False} if mode == "ro" else {})}) for point in points]


def ready_bind(point: MountPoint, owner: tuple[int, int]) -> None:
    """Have what a bind is from: a `-v` makes a directory that is not there, as Docker's does, for `owner` (uid, gid). A file
    system that does not answer holds the caller. Raises `InvalidArgument`.
    """
    if not Path(point.source).exists():
        if not point.create:
            raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {point.source}')
        _make_source(point.source, owner)
    _check_propagation(point)


def _make_source(path: str, owner: tuple[int, int]) -> None:
    try:
        Path(path).mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chown(path, *owner)
    except OSError as error:
        raise InvalidArgument(f"error while creating mount source path '{path}': {error.strerror}") from error


def _check_propagation(point: MountPoint) -> None:
    """See that mounts can pass where a bind asks for it: what it is from must let them. Raises `InvalidArgument` in Docker's words."""
    kind = point.propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    source = _mount_of(os.path.realpath(point.source))
    tags = ("shared:",) if kind == "shared" else ("shared:", "master:")
    if not any(tag.startswith(tags) for tag in source.tags):
        what = "shared" if kind == "shared" else "shared or slave"
        raise InvalidArgument(
            f"path {point.source} is mounted on {source.target} but it is not a {what} mount",
            remedy=f"mount --make-rshared {source.target}",
        )


def _mount_of(path: str) -> MountInfo:
    """Give the mount that a path without links is on: of those on the way to it the deepest, and of two on one place the later."""
    above = [mount for mount in parse_mountinfo() if mount.target == "/" or f"{path}/".startswith(f"{mount.target}/")]
    return max(enumerate(above), key=lambda each: (len(each[1].target), each[0]))[1]
