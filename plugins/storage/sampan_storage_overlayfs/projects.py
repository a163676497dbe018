"""Snapshots of a limited size by project quota: the snapshot's directory, and all that is made in it, is in a project of its own.

A project is a number that anybody may use on the same file system: another engine, an administrator. So a number is taken like
this: put the new directory in it, and look whether it is now the only inode there. Two who take the same number at
once see each other, whoever comes second at the latest, and try the next one; nobody needs a common lock.
Only then the directory is marked with `trusted.sampan.project`, and only then the limit is set: whoever finds
a marked directory after a crash knows that number and limit are ours, and of one without a mark that neither is.

The limit is taken away before the directory is deleted: a limit never outlives its mark.

The limit is a little below the size, and the size itself while the snapshot is full: else its next mount could not be made for want of
space, or read-only, and nothing be deleted.

Why, and where it ends: docs/adr/0065-limited-snapshots-by-project.md.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from sampan.api.errors import Unavailable, Unsupported
from sampan.linux import project_quota
from sampan.linux.files import opened_directory
from sampan.linux.project_quota import ProjectUse

MINIMUM = 4 << 20
"""Bytes: the least limit that leaves something beside the room."""

_ROOM = 1 << 20
"""Bytes that are kept back: a mount of overlay makes a directory, for which xfs wants hundreds of kilobytes to be free."""

_MARK = "trusted.sampan.project"
_TRIES = 1000
_UNUSED = ProjectUse(limit=0, bytes=0, inodes=0)


class Projects:
    """Project quotas under one directory. Its methods may be called from any thread."""

    def __init__(self, first: int, last: int) -> None:
        """Take numbers from `first` to `last` only."""
        self._first, self._last = first, last

    def limit(self, directory: Path, size: int) -> None:
        """Let what will be made in an empty directory occupy at most `size` bytes. Raises `OSError`, `Unsupported` (too
        small), `Unavailable` (no number is free).
        """
        if size < MINIMUM:
            raise Unsupported(f"a limit of {size} bytes: the least is {MINIMUM}", remedy="ask for more")
        with opened_directory(directory) as fd:
            project = self._take(fd)
            os.setxattr(fd, _MARK, f"{project} {size}".encode())
            project_quota.set_limit(fd, project, size - _ROOM)

    def make_room(self, directory: Path) -> None:
        """Let a full snapshot have all of its size from now on, one that is not full any more only what it had at first.

        Raises `OSError`.
        """
        with opened_directory(directory) as fd:
            if mark := _read_mark(fd):
                project, size = mark
                use = project_quota.get_use(fd, project)
                limit = size if use.bytes > size - 2 * _ROOM else size - _ROOM
                if use.limit != limit:
                    project_quota.set_limit(fd, project, limit)

    def unlimit(self, directory: Path) -> None:
        """Take the limit off a directory; one that is not ours, or not there, is left as it is. Raises `OSError`."""
        try:
            with opened_directory(directory) as fd:
                if mark := _read_mark(fd):
                    project, _ = mark
                    project_quota.set_limit(fd, project, 0)
                    os.removexattr(fd, _MARK)
        except FileNotFoundError:
            return

    def _take(self, fd: int) -> int:
        """Put the directory in a project that nobody else uses."""
        for _ in range(_TRIES):
            project = random.randint(self._first, self._last)
            if project_quota.get_use(fd, project) != _UNUSED:
                continue
            project_quota.set_project(fd, project)
            use = project_quota.get_use(fd, project)
            if use.inodes == 1 and use.limit == 0:
                return project
            project_quota.set_project(fd, 0)
        raise Unavailable(
            f"take a project quota: {_TRIES} numbers between {self._first} and {self._last} were all in use",
            remedy="set another range with project_ids in [storage.overlayfs]",
        )


def is_limited(directory: Path) -> bool:
    """Tell whether a directory has a limit of ours. Raises `OSError`."""
    with opened_directory(directory) as fd:
        return _read_mark(fd) is not None


def why_unsupported(place: Path) -> str:
    """Give why there are no project quotas at the directory `place`; "" if there are."""
    try:
        with opened_directory(place) as fd:
            if project_quota.is_enforced(fd):
                return ""
    except OSError as error:
        return f"{place}: {error.strerror}"
    return (
        f"the file system of {place} does not enforce project quotas (ext4 with the features project and quota, mounted with "
        "prjquota; or xfs mounted with pquota; and a kernel built with CONFIG_QUOTA)"
    )


def _read_mark(fd: int) -> tuple[int, int] | None:
    """Give project and size of a directory that has a limit of ours."""
    try:
        project, size = os.getxattr(fd, _MARK).split()
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return None
    return int(project), int(size)
