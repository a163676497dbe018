"""The /dev/shm of containers that others may join (`--ipc shareable`): a tmpfs in the container's state directory.

Every other container has its /dev/shm inside its own mount namespace alone. This one must be had by name as long as its container
runs, so it is the one mount that the engine makes on the host; it is gone when the container has ended, or at the sweep after a crash.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sampan.api.errors import Conflict, host_errors
from sampan.linux import mounts


def mount(directory: Path, size: int, owner: tuple[int, int]) -> None:
    """Make it, `size` bytes at most, as `owner` (uid, gid) has it. Raises `System`."""
    options = f"mode=1777,size={size},uid={owner[0]},gid={owner[1]}"
    with host_errors(f"mount {directory}"):
        directory.mkdir(mode=0o700)
        mounts.mount("shm", directory, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC, options)


def check(directory: Path, name: str) -> Path:
    """Give the directory of a running container's, which another may mount. Raises `Conflict` if this daemon can't see it."""
    with host_errors(f"look at {directory}"):
        if not directory.exists() or os.stat(directory).st_dev == os.stat(directory.parent).st_dev:
            raise Conflict(
                f"join the IPC of container {name}: its /dev/shm is not mounted here", remedy=f"restart container {name}"
            )
    return directory


def unmount(directory: Path) -> None:
    """Take it away; containers that joined keep theirs. Nothing happens if there is none. Raises `System`."""
    with host_errors(f"unmount {directory}"):
        try:
            mounts.umount(directory, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
