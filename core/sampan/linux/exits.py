"""How a process ended that is not our child.

Sources: `pidfd_open(2)` (what `poll` says of one), `proc(5)` (`exit_code` of `/proc/PID/stat`), `include/uapi/linux/pidfd.h`
(`PIDFD_GET_INFO`; `PIDFD_INFO_EXIT` since Linux 6.15).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

_GET_INFO = 0xC040FF0B
"""`_IOWR(PIDFS_IOCTL_MAGIC, 11, …)` for the structure's first published size, 64 bytes."""

_INFO_EXIT = 1 << 3


def exit_code(pid: int, pidfd: int) -> int:
    """Wait for the end of process `pid`, which `pidfd` is of, and give its exit code: 0 to 255, 128 + n for signal n.

    Its parent may reap it at any moment: before Linux 6.15 that can take the code away. Then `OSError` ENODATA is raised.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    status = _status_of_zombie(pid)
    poll.modify(pidfd, 0)  # a hang-up says that it was reaped: the number may be another's by now
    if status is None or poll.poll(0):
        status = _status_of_reaped(pidfd)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _status_of_zombie(pid: int) -> int | None:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        stat = os.read(fd, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return int(stat.split()[-1])


def _status_of_reaped(pidfd: int) -> int:
    info = bytearray(64)
    struct.pack_into("=Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ESRCH):
            raise
        info = bytearray(64)
    if not struct.unpack_from("=Q", info)[0] & _INFO_EXIT:
        raise OSError(errno.ENODATA, "the kernel does not keep the exit code of a process that was reaped")
    status: int = struct.unpack_from("=i", info, 60)[0]
    return status
