"""System calls that Python has no function for, by ctypes; one process-wide handle of libc.

Everything here raises `OSError` with `errno` set and a text that names the call. Sources: the kernel's
`arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`; `prctl(2)`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

MACHINE = os.uname().machine
"""The kernel's name of this machine's architecture: `x86_64` or `aarch64`."""

libc = ctypes.CDLL(None, use_errno=True)
"""The C library of this process. Calls release the interpreter's lock; read `ctypes.get_errno()` right
after."""

_X86_64 = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "setns": 308, "unshare": 272, "capget": 125,
    "capset": 126, "seccomp": 317, "bpf": 321, "execveat": 322, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "close_range": 436, "openat2": 437, "pidfd_getfd": 438, "mount_setattr": 442, "quotactl_fd": 443,
    "keyctl": 250, "rt_sigaction": 13, "sched_setattr": 314, "ioprio_set": 251,
    "add_key": 248,
}  # fmt: skip
_AARCH64 = {
    "mount": 40, "umount2": 39, "pivot_root": 41, "setns": 268, "unshare": 97, "capget": 90, "capset": 91,
    "seccomp": 277, "bpf": 280, "execveat": 281, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "close_range": 436,
    "openat2": 437, "pidfd_getfd": 438, "mount_setattr": 442, "quotactl_fd": 443, "keyctl": 219,
    "rt_sigaction": 134, "sched_setattr": 274, "ioprio_set": 30, "add_key": 217,
}  # fmt: skip

NR: dict[str, int] = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(MACHINE, {})
"""Numbers of the calls we make, for this machine. Empty on an architecture that nobody has tried."""

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_c_long = ctypes.c_long


def _entry(arguments: int) -> Callable[..., int]:
    """Give libc's `syscall` typed for so many arguments: ctypes then converts in C, at half the cost. A void
    pointer takes integers of any sign, bytes, None and references."""
    function = libc["syscall"]
    function.restype = _c_long
    function.argtypes = [_c_long, *[ctypes.c_void_p] * arguments]
    return function


_ENTRIES = tuple(_entry(arguments) for arguments in range(7))


def syscall(call: str, *args: object) -> int:
    """Make a system call by name, with six arguments at most. Integers go as C longs, str and paths as NUL-terminated bytes, None as
    NULL, ctypes objects as they are. Raises `OSError`; `ENOSYS` also where the number is not known here.
    """
    number = NR.get(call)
    if number is None:
        raise OSError(38, f"{call}: not known for {MACHINE}")
    plain = [arg if type(arg) is int else _argument(arg) for arg in args]
    result = _ENTRIES[len(plain)](number, *plain)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")
    return result


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Change or read an attribute of this thread or process; see prctl(2)."""
    result: int = libc.prctl(option, _c_long(arg2), _c_long(arg3), _c_long(arg4), _c_long(arg5))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl {option}: {os.strerror(error)}")
    return result


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close the descriptors `first` to `last`, or with `CLOSE_RANGE_CLOEXEC` have them closed on exec."""
    syscall("close_range", first, last, flags)


CLOSE_RANGE_CLOEXEC = 4


def _argument(arg: object) -> object:
    if isinstance(arg, (str, os.PathLike)):
        encoded = os.fsencode(arg)
        if b"\0" in encoded:
            raise ValueError(f"embedded NUL in {arg!r}")
        return encoded
    return arg
