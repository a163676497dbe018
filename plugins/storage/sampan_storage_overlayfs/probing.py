"""Try whether overlay works on a file system: with a real overlay that is attached nowhere.

A detached mount needs no mount namespace of its own, is seen by nobody, and goes away with its descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.linux import trees
from sampan.linux.files import nearest_directory
from sampan.linux.idmap import shifts_owners
from sampan.linux.mounts import Mount, open_mount

_REMEDIES = {
    errno.ENODEV: "load the kernel module overlay (modprobe overlay)",
    errno.EPERM: "run as root with CAP_SYS_ADMIN",
    errno.ENOSYS: "use a kernel of 5.12 or later",
    errno.EINVAL: "use a root on ext4, xfs or btrfs (not on overlay or NFS)",
    errno.EOPNOTSUPP: "put the root on a file system with trusted extended attributes (ext4, xfs, btrfs)",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial found: the `reason` why overlay can't be used, with a remedy, or "", and whether its layers' owners can be shifted."""

    reason: str = ""
    shifts_owners: bool = False


def try_overlay(root: Path, options: Sequence[str]) -> Trial:
    """Try overlay under `root`. Leaves nothing behind; never raises."""
    try:
        place = Path(tempfile.mkdtemp(prefix=".probe-", dir=nearest_directory(root)))
    except OSError as error:
        return Trial(f"cannot make a directory for a trial under {root}: {error.strerror}")
    try:
        return _try_below(place, options)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "use another storage driver")
        return Trial(f"a trial overlay under {root} failed: {error}: {remedy}")
    finally:
        trees.remove(place)


def _try_below(place: Path, options: Sequence[str]) -> Trial:
    """Stack two directories, and delete and replace through the overlay as a container would."""
    lower, upper, work = (place / name for name in ("lower", "upper", "work"))
    for directory in (lower, lower / "opaque", upper, work):
        directory.mkdir()
    for name in ("file", "shifted"):
        (lower / name).touch()
    overlay = Mount("overlay", "overlay", (f"lowerdir+={lower}", f"upperdir={upper}", f"workdir={work}", *options))
    fd = open_mount(overlay)
    try:
        os.unlink("file", dir_fd=fd)
        os.rmdir("opaque", dir_fd=fd)
        os.mkdir("opaque", dir_fd=fd)
    finally:
        os.close(fd)
    whiteout = (upper / "file").lstat()
    if not (stat.S_ISCHR(whiteout.st_mode) and whiteout.st_rdev == 0):
        return Trial(f"overlay under {place.parent} writes deletions in another form than a 0/0 device")
    if os.getxattr(upper / "opaque", "trusted.overlay.opaque") != b"y":
        return Trial(f"overlay under {place.parent} does not mark a replaced directory as opaque")
    return Trial(shifts_owners=shifts_owners(overlay, upper / "shifted"))
