"""Limits of snapshots, by btrfs' simple quotas (Linux 6.7).

What a subvolume writes is counted in its quota group 0/<id of the subvolume>. A limited one gets a group above that,
1/<id>, which has the limit: subvolumes that are made in a subvolume join the groups above it, so that nobody gets out of
the limit by making one. Snapshots of it do not join, and have no limit.

Groups that are ours are recorded, as files `qgroups/<level>-<id>` under the storage's root, before there can be one that
nobody owns: 1/<id> before it is made, 0/<id> before its subvolume is deleted. The subvolume's blocks are freed later, by
the kernel, and not before they are may its groups go; newer kernels (6.18 for one) take 0/<id> away themselves, unless
files elsewhere share its blocks. `sweep` destroys what can be, and is called again and again. While there is a subvolume of an
id its groups stay, whoever made it: the highest id is given again if the file system was mounted anew.

Other qgroups are never touched, nor is the mode of the file system's quotas once it has one.

Source: the kernel's `include/uapi/linux/btrfs.h` and `btrfs_tree.h`, `fs/btrfs/qgroup.c`; `btrfs-quota(8)`.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sampan.linux.files import opened_directory
from sampan_storage_btrfs.tree_search import MAX, QUOTA_TREE, ROOT_TREE, search

BTRFS_IOC_QUOTA_CTL = 0xC0109428
BTRFS_IOC_QGROUP_ASSIGN = 0x40189429
BTRFS_IOC_QGROUP_CREATE = 0x4010942A
BTRFS_IOC_QGROUP_LIMIT = 0x8030942B
BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA = 4
BTRFS_QGROUP_LIMIT_MAX_RFER = 1
BTRFS_QGROUP_STATUS_FLAG_SIMPLE_MODE = 1 << 3
BTRFS_QGROUP_STATUS_KEY = 240
BTRFS_ROOT_ITEM_KEY = 132

NO_LIMIT = MAX

_FEATURE = Path("/sys/fs/btrfs/features/simple_quota")
_SWEEP_SECONDS = 30


class Mode(enum.Enum):
    """How the file system counts."""

    OFF = enum.auto()
    SIMPLE = enum.auto()
    CLASSIC = enum.auto()


class Quotas:
    """The limits of all snapshots of one driver. Methods raise `OSError`, and may be called from any thread."""

    def __init__(self, root: Path, *, may_enable: bool) -> None:
        """Keep the storage's root, and whether simple quotas may be turned on for its file system."""
        self._root = root
        self._may_enable = may_enable
        self._records = root / "qgroups"
        self._swept = time.monotonic()

    def why_unsupported(self) -> str:
        """Give the reason why snapshots can't be limited, with a remedy; "" if they can. Never raises."""
        try:
            mode = self._mode()
        except OSError as error:
            return f"cannot read the quotas of the file system at {self._root}: {error.strerror}: run as root with CAP_SYS_ADMIN"
        if mode is Mode.CLASSIC:
            return (
                f"the file system at {self._root} has classic qgroups on, which make snapshots slow and are not Sampan's to "
                "change: turn them off (btrfs quota disable) if nothing needs them, or put the root on another btrfs"
            )
        if mode is Mode.SIMPLE:
            return ""
        if not self._may_enable:
            return (
                f"the file system at {self._root} has no quotas on: set quotas = true under [storage.btrfs] to have simple "
                "quotas turned on for all of it (kernels before 6.7 can't mount it then)"
            )
        return "" if _FEATURE.exists() else "this kernel has no simple quotas: run Linux 6.7 or newer"

    def open(self) -> None:
        """Turn simple quotas on where that is allowed and nothing is on, and sweep."""
        if self._may_enable and not self.why_unsupported() and self._mode() is Mode.OFF:
            self._control(BTRFS_IOC_QUOTA_CTL, struct.pack("=2Q", BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, 0))
        self.sweep()

    def close(self) -> None:
        """Sweep. What the kernel is not done with is left to the next `open`."""
        self.sweep()
        try:
            self._records.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def limit(self, subvolume: Path, size: int) -> None:
        """Have all that is written in a new subvolume, and in those made there, be `size` bytes at most (then EDQUOT)."""
        import btrfsutil

        number: int = btrfsutil.subvolume_id(subvolume)
        is_ours = self._record_of(1, number).exists()  # from an earlier subvolume of the same id
        self._record(1, number)
        try:
            self._control(BTRFS_IOC_QGROUP_CREATE, struct.pack("=2Q", 1, _group(1, number)))
        except FileExistsError:
            if not is_ours:
                self._record_of(1, number).unlink()
                raise
        self._set_limit(number, min(size, NO_LIMIT - 1))
        self._control(BTRFS_IOC_QGROUP_ASSIGN, struct.pack("=3Q", 1, _group(0, number), _group(1, number)))

    def releasing(self, subvolumes: Iterable[int]) -> None:
        """Prepare for subvolumes to be deleted, by their ids: at its limit, one could not be."""
        if self._mode() is not Mode.SIMPLE:
            return
        for number in subvolumes:
            self._record(0, number)
            if self._record_of(1, number).exists():
                self._set_limit(number, NO_LIMIT)
        if time.monotonic() - self._swept > _SWEEP_SECONDS:
            self.sweep()

    def sweep(self) -> None:
        """Destroy our groups of subvolumes that are gone."""
        self._swept = time.monotonic()
        for level, number in sorted(self._recorded()):  # 1/N can't go while 0/N is in it
            if not self._is_there(number) and self._destroy(level, number):
                self._record_of(level, number).unlink(missing_ok=True)

    def _mode(self) -> Mode:
        try:
            with opened_directory(self._root) as fd:
                first, last = (0, BTRFS_QGROUP_STATUS_KEY, 0), (0, BTRFS_QGROUP_STATUS_KEY, MAX)
                for item in search(fd, QUOTA_TREE, first, last):
                    flags = struct.unpack_from("<3Q", item.data)[2]  # after version and generation
                    return Mode.SIMPLE if flags & BTRFS_QGROUP_STATUS_FLAG_SIMPLE_MODE else Mode.CLASSIC
        except FileNotFoundError:  # there is no such tree
            pass
        return Mode.OFF

    def _is_there(self, subvolume: int) -> bool:
        """Tell whether there is a subvolume of this id, be it deleted and not yet cleaned up."""
        with opened_directory(self._root) as fd:
            first, last = (subvolume, BTRFS_ROOT_ITEM_KEY, 0), (subvolume, BTRFS_ROOT_ITEM_KEY, MAX)
            return any(True for _ in search(fd, ROOT_TREE, first, last))

    def _destroy(self, level: int, number: int) -> bool:
        """Destroy a group. Tell whether it is gone; it is in use while files elsewhere share its blocks."""
        try:
            self._control(BTRFS_IOC_QGROUP_CREATE, struct.pack("=2Q", 0, _group(level, number)))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno not in (errno.ENOENT, errno.ENOTCONN):  # not there; quotas are off by now
                raise
        return True

    def _set_limit(self, number: int, size: int) -> None:
        limit = struct.pack("=6Q", _group(1, number), BTRFS_QGROUP_LIMIT_MAX_RFER, size, 0, 0, 0)
        try:
            self._control(BTRFS_IOC_QGROUP_LIMIT, limit)
        except FileNotFoundError:
            if size != NO_LIMIT:
                raise

    def _control(self, request: int, argument: bytes) -> None:
        with opened_directory(self._root) as fd:
            fcntl.ioctl(fd, request, argument)

    def _record(self, level: int, number: int) -> None:
        self._records.mkdir(exist_ok=True)
        self._record_of(level, number).touch()

    def _record_of(self, level: int, number: int) -> Path:
        return self._records / f"{level}-{number}"

    def _recorded(self) -> Iterator[tuple[int, int]]:
        try:
            names = os.listdir(self._records)
        except FileNotFoundError:
            return
        for name in names:
            level, _, number = name.partition("-")
            yield int(level), int(number)


def _group(level: int, number: int) -> int:
    return level << 48 | number
