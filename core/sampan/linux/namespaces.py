"""Namespaces: making, joining, and running a function in another one without moving the caller.

A thread that has moved must not do anything else, so the helpers here use threads of their own.
Sources: `namespaces(7)`, `setns(2)`, `unshare(2)`, `include/uapi/linux/sched.h`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from sampan.linux.syscalls import syscall

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

CLONE_PIDFD: Final = 0x00001000
CLONE_PARENT: Final = 0x00008000
CLONE_INTO_CGROUP: Final = 0x200000000

T = TypeVar("T")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces of the kinds in `flags`."""
    syscall("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace `fd`, or into the namespaces `flags` of the process of a
    pidfd."""
    syscall("setns", fd, flags)


def new_netns() -> int:
    """Make a network namespace and give a descriptor that keeps it. Nothing is mounted; its loopback is
    down."""

    def make() -> int:
        unshare(CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _in_thread(make)


def call_in_netns(fd: int, fn: Callable[[], T]) -> T:
    """Run `fn` in a fresh thread that has joined the network namespace `fd`; give its result or raise its
    error.

    Sockets made there stay in that namespace and can be used from any thread.
    """

    def call() -> T:
        setns(fd, CLONE_NEWNET)
        return fn()

    return _in_thread(call)


def _in_thread(fn: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(fn())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
