"""Try whether overlay works on a file system: with a real overlay that is attached nowhere.

A detached mount needs no mount namespace of its own, is seen by nobody, and goes away with its descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sampan.linux import trees
from sampan.linux.mounts import Mount, open_mount

_PATH_BYTES = 255 - len("/snapshots/999999999999/work")
"""fsconfig(2) takes values of up to 255 bytes."""

_REMEDIES = {
    errno.ENODEV: "load the kernel module overlay (modprobe overlay)",
    errno.EPERM: "run as root with CAP_SYS_ADMIN",
    errno.ENOSYS: "use a kernel of 6.8 or later",
    errno.EINVAL: "use a kernel of 6.8 or later, and a root on ext4, xfs or btrfs (not on overlay or NFS)",
    errno.EOPNOTSUPP: "put the root on a file system with trusted extended attributes (ext4, xfs, btrfs)",
}


def why_unsupported(root: Path, options: Sequence[str]) -> str:
    """Give the reason why overlay can't be used under `root`, with a remedy; "" if it can. Leaves nothing
    behind.
    """
    if len(os.fsencode(root)) > _PATH_BYTES:
        return f"{root} is longer than {_PATH_BYTES} bytes, too long for a mount option: use a shorter path"
    try:
        place = Path(tempfile.mkdtemp(prefix=".probe-", dir=_nearest_directory(root)))
    except OSError as error:
        return f"cannot make a directory for a trial under {root}: {error.strerror}"
    try:
        return _try_overlay(place, options)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "use another storage driver")
        return f"a trial overlay under {root} failed: {error}: {remedy}"
    finally:
        trees.remove(place)


def _try_overlay(place: Path, options: Sequence[str]) -> str:
    """Stack two directories, and delete and replace through the overlay as a container would."""
    lower, upper, work = (place / name for name in ("lower", "upper", "work"))
    for directory in (lower, lower / "opaque", upper, work):
        directory.mkdir()
    (lower / "file").touch()
    overlay = Mount(
        "overlay", "overlay", (f"lowerdir+={lower}", f"upperdir={upper}", f"workdir={work}", *options)
    )  # fmt: skip
    fd = open_mount(overlay)
    try:
        os.unlink("file", dir_fd=fd)
        os.rmdir("opaque", dir_fd=fd)
        os.mkdir("opaque", dir_fd=fd)
    finally:
        os.close(fd)
    whiteout = (upper / "file").lstat()
    if not (stat.S_ISCHR(whiteout.st_mode) and whiteout.st_rdev == 0):
        return f"overlay under {place.parent} writes deletions in another form than a 0/0 device"
    if os.getxattr(upper / "opaque", "trusted.overlay.opaque") != b"y":
        return f"overlay under {place.parent} does not mark a replaced directory as opaque"
    return ""


def _nearest_directory(path: Path) -> Path:
    """Give `path`, or what will be above it as long as it is not there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path
