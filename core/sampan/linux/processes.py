"""Processes: birth by clone3, and shedding what a program must not inherit.

Sources: `clone3(2)`, `close_range(2)`, `signal(7)`, `keyctl(2)`, `include/uapi/linux/sched.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Collection

from sampan.linux.namespaces import CLONE_INTO_CGROUP
from sampan.linux.syscalls import NR, close_range, libc, syscall

_KEYCTL_JOIN_SESSION_KEYRING = 1

_python = ctypes.PyDLL(None, use_errno=True)
_python.syscall.restype = ctypes.c_long


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


def clone(flags: int, cgroup: int = -1, exit_signal: int = 0) -> int:
    """Fork with `CLONE_*` flags, into the v2 cgroup of the descriptor `cgroup` if there is one; 0 in the
    child. Its end sends `exit_signal`, and without one only a wait with `__WALL` sees it; with `CLONE_PARENT` it
    sends what the caller's own end sends.

    Only for a process with one thread: no handler of `os.register_at_fork` runs. Raises `OSError`.
    """
    args = _CloneArgs(flags=flags, exit_signal=exit_signal)
    if cgroup >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup
    # Through PyDLL, which keeps the interpreter's lock: the child has it, as after os.fork.
    size = ctypes.sizeof(args)
    pid: int = _python.syscall(ctypes.c_long(NR["clone3"]), ctypes.byref(args), ctypes.c_size_t(size))
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"clone3: {os.strerror(error)}")
    return pid


def fork() -> int:
    """Fork without what `os.fork` does for threads that aren't there; 0 in the child.

    Where `threading` is imported, its own handler has the child copy 130 to 180 pages: 0.5 ms of the 1.2 that
    such a child costs. Only for a process with one thread, as `clone`.
    """
    return clone(0, exit_signal=signal.SIGCHLD)


def keep_only(fds: Collection[int]) -> None:
    """Close every descriptor that is not in `fds`."""
    following = 0
    for fd in sorted(fds):
        if fd > following:
            close_range(following, fd - 1)
        following = max(following, fd + 1)
    close_range(following)


def leave_keyring() -> None:
    """Give the process a session keyring of its own, empty and without a name: what the old one held is out of its reach."""
    try:
        syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a kernel without keys
            raise


def reset_signals() -> None:
    """Give every ignored signal its default again and block none. Both would survive an exec, which resets
    handlers.

    By the kernel's own call: glibc's `signal` refuses 32 and 33, which whatever its `posix_spawn` started
    (all that make runs) inherits as ignored.
    """
    signal.set_wakeup_fd(-1)  # whoever forked us may have one, and its number will be somebody else's
    default = bytes(32)  # struct sigaction of the kernel: SIG_DFL, no flags, no restorer, empty mask
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.read(fd, 8192)
    finally:
        os.close(fd)
    start = status.index(b"SigIgn:") + len(b"SigIgn:")
    ignored = int(status[start : status.index(b"\n", start)], 16)
    number = 1
    while ignored:
        if ignored & 1:
            syscall("rt_sigaction", number, default, None, 8)
        ignored >>= 1
        number += 1
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def set_personality(domain: int) -> None:
    """Choose which system this process, and what it will run, is shown: `PER_LINUX` or, as 32 bit, `PER_LINUX32` (`personality(2)`)."""
    if libc.personality(ctypes.c_ulong(domain)) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"personality {domain:#x}: {os.strerror(error)}")
