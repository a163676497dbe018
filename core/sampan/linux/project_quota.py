"""Project quotas: a limit for all files that carry one number, on ext4 (feature `project`) and xfs.

A directory with a project and the flag *inherit* hands both to what is made in it. The file system counts per project,
and refuses what would exceed the project's limit with EDQUOT (ENOSPC on xfs).

On ext4 a process with CAP_SYS_RESOURCE is above all limits; overlay writes to its upper without that capability.

Sources: `quotactl(2)`, `ioctl_xfs_fsgetxattr(2)`, `include/uapi/linux/fs.h` and `dqblk_xfs.h`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from dataclasses import dataclass
from typing import Final

from sampan.linux.syscalls import syscall

FS_IOC_FSGETXATTR: Final = 0x801C581F
FS_IOC_FSSETXATTR: Final = 0x401C5820
FS_XFLAG_PROJINHERIT: Final = 0x200

_PRJQUOTA: Final = 2
_Q_XGETQUOTA: Final = (ord("X") << 8) + 3
_Q_XSETQLIM: Final = (ord("X") << 8) + 4
_Q_XGETQSTATV: Final = (ord("X") << 8) + 8
_FS_QUOTA_PDQ_ACCT: Final = 1 << 4
_FS_QUOTA_PDQ_ENFD: Final = 1 << 5
_FS_DQ_BSOFT_BHARD: Final = 1 << 2 | 1 << 3
_SECTOR: Final = 512

_fsxattr = struct.Struct("=5I8s")
"""`struct fsxattr`: flags, extent size, extents, project, copy-on-write extent size."""
_disk_quota = struct.Struct("=bbHI6Q56x")
"""`struct fs_disk_quota`: version, flags, field mask, id; limits of blocks and inodes (hard, soft), blocks, inodes."""
_statv = struct.Struct("=bxHI152x")
"""`struct fs_quota_statv`: version, flags."""


@dataclass(frozen=True, slots=True)
class ProjectUse:
    """What a file system knows of one project: its hard limit in bytes (0: none), what its files occupy, and their inodes."""

    limit: int
    bytes: int
    inodes: int


def is_enforced(fd: int) -> bool:
    """Tell whether the file system of `fd` counts per project and enforces limits."""
    buffer = ctypes.create_string_buffer(_statv.pack(1, 0, 0), _statv.size)
    try:
        syscall("quotactl_fd", fd, _command(_Q_XGETQSTATV), 0, buffer)
    except OSError:  # ENOSYS, EINVAL, ESRCH, EOPNOTSUPP, by what is missing
        return False
    wanted = _FS_QUOTA_PDQ_ACCT | _FS_QUOTA_PDQ_ENFD
    return bool(_statv.unpack(buffer.raw)[1] & wanted == wanted)


def get_project(fd: int) -> int:
    """Give the project of an open file or directory; 0 if it is in none. Raises `OSError`."""
    return int(_fsxattr.unpack(_get_attributes(fd))[3])


def set_project(fd: int, project: int) -> None:
    """Put an empty directory, and with it all that will be made in it, in a project; 0 takes it out. Raises `OSError`."""
    flags, extent, extents, _, cow, rest = _fsxattr.unpack(_get_attributes(fd))
    flags = flags | FS_XFLAG_PROJINHERIT if project else flags & ~FS_XFLAG_PROJINHERIT
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, _fsxattr.pack(flags, extent, extents, project, cow, rest))


def get_use(fd: int, project: int) -> ProjectUse:
    """Tell what the file system of `fd` knows of a project; all is 0 for one it never heard of. Raises `OSError`."""
    buffer = ctypes.create_string_buffer(_disk_quota.size)
    try:
        syscall("quotactl_fd", fd, _command(_Q_XGETQUOTA), project, buffer)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return ProjectUse(0, 0, 0)
        raise
    _, _, _, _, hard, _, _, _, blocks, inodes = _disk_quota.unpack(buffer.raw)
    return ProjectUse(hard * _SECTOR, blocks * _SECTOR, inodes)


def set_limit(fd: int, project: int, limit: int) -> None:
    """Let the files of a project occupy at most `limit` bytes, 0 for any number. Raises `OSError`."""
    sectors = -(-limit // _SECTOR)
    block = _disk_quota.pack(1, 2, _FS_DQ_BSOFT_BHARD, project, sectors, sectors, 0, 0, 0, 0)
    syscall("quotactl_fd", fd, _command(_Q_XSETQLIM), project, ctypes.create_string_buffer(block, _disk_quota.size))


def _command(command: int) -> int:
    return command << 8 | _PRJQUOTA


def _get_attributes(fd: int) -> bytes:
    return fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(_fsxattr.size))
