"""A reserve of free disk space that taking in images leaves alone: a disk filled to its last byte stops the engine, its
containers and whatever else lives there.
"""

from __future__ import annotations

import os

from sampan.api.errors import System
from sampan.linux import trees

_RESERVE = 256 << 20
_RESERVE_SHARE = 20
_LOOK_AFTER = 64 << 20


class Space:
    """The free space of the file system that `fd` is on, watched while files are written there.

    The reserve is 256 MB, or a twentieth of a smaller disk. `doing` begins the error message.
    """

    def __init__(self, fd: int, doing: str) -> None:
        """Look at nothing yet."""
        self._fd = fd
        self._doing = doing
        self._unseen = 0  # Bytes that may be written before the next look.
        self._unflushed = 0

    def take(self, size: int) -> None:
        """Account for `size` bytes that are about to be written. `System` if they would touch the reserve."""
        self._unseen -= size
        self._unflushed += size
        if self._unseen < 0:
            self.check()

    def check(self) -> None:
        """Look at the disk. `System` if what is about to be written would touch the reserve."""
        left = self._left()
        if left < self._unflushed:  # What is still to be flushed may not be counted yet: btrfs does not.
            trees.syncfs(self._fd)
            self._unflushed = 0
            left = self._left()
        if left < 0:
            raise System(f"{self._doing}: no space left on the disk but a reserve",
                         remedy="free some space, for instance by `docker system prune`")  # fmt: skip
        self._unseen = min(left, _LOOK_AFTER)

    def _left(self) -> int:
        found = os.fstatvfs(self._fd)
        if not found.f_blocks:  # a tmpfs without a bound
            return _LOOK_AFTER
        reserve = min(_RESERVE, found.f_blocks * found.f_frsize // _RESERVE_SHARE)
        return found.f_bavail * found.f_frsize - reserve
