"""Namespaces: making, joining, and running a function in another one.

A thread that has moved must not do anything else: whoever only visits a network namespace is back when the helper returns,
and other moves are made in threads of their own.
Sources: `namespaces(7)`, `setns(2)`, `unshare(2)`, `include/uapi/linux/sched.h`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

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

_NS_GET_NSTYPE: Final = 0xB703

T = TypeVar("T")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces of the kinds in `flags`."""
    syscall("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace `fd`, or into the namespaces `flags` of the process of a
    pidfd."""
    syscall("setns", fd, flags)


def kind_of_namespace(fd: int) -> int:
    """Give the CLONE_NEW* flag of the namespace `fd`, 0 if it is none (`ioctl_nsfs(2)`)."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        return 0


def new_netns(userns: int = -1) -> int:
    """Make a network namespace and give a descriptor that keeps it. Nothing is mounted; its loopback is
    down. `userns`: the user namespace that is to own it, else the caller's does. Raises `OSError`.
    """
    if userns >= 0:

        def move() -> None:
            setns(userns, CLONE_NEWUSER)
            unshare(CLONE_NEWNET)

        with _child_that(move, "make a network namespace") as pid:
            return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with _and_home():
        unshare(CLONE_NEWNET)
        return _own_netns()


@dataclass(frozen=True, slots=True)
class IdRange:
    """A line of a user namespace's map: `count` ids from `inside` on are those from `outside` on."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True)
class IdMaps:
    """Both maps of a user namespace; `outside` is as the host's user namespace counts."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    def uid(self, inside: int) -> int:
        """Give what a user id inside is outside, -1 if the map does not have it."""
        return _outside(self.uids, inside)

    def gid(self, inside: int) -> int:
        """As `uid`, of a group."""
        return _outside(self.gids, inside)


def _outside(ranges: Sequence[IdRange], inside: int) -> int:
    return next((each.outside + inside - each.inside for each in ranges if 0 <= inside - each.inside < each.count), -1)


def maps_of(pid: int | str) -> IdMaps:
    """Read the maps of the user namespace that a process is in, as the caller's own counts. Raises `OSError`."""
    uids, gids = (_read_map(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map"))
    return IdMaps(uids, gids)


def _read_map(path: str) -> tuple[IdRange, ...]:
    with open(path) as file:  # noqa: PTH123, a shim has it loaded already
        return tuple(IdRange(*map(int, line.split())) for line in file)


def maps_of_userns(fd: int) -> IdMaps:
    """As `maps_of`, of the user namespace `fd`, by a child that goes there."""
    with _child_that(lambda: setns(fd, CLONE_NEWUSER), "join a user namespace") as pid:
        return maps_of(pid)


def new_userns(uids: Sequence[IdRange], gids: Sequence[IdRange]) -> int:
    """Make a user namespace with these maps, empty of processes, and give a descriptor that keeps it.

    A child makes it, for a process with threads can't. Raises `OSError` (EPERM, EINVAL for a map, ENOSPC: too many).
    """
    with _child_that(lambda: unshare(CLONE_NEWUSER), "make a user namespace") as pid:
        for name, ranges in (("uid_map", uids), ("gid_map", gids)):
            _write_map(f"/proc/{pid}/{name}", ranges)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def _child_that(moves: Callable[[], None], operation: str) -> Iterator[int]:
    """Give the pid of a child that has moved to other namespaces and lives as long as the block. Raises its `OSError`."""
    pipes: list[int] = []
    try:
        pipes += os.pipe2(os.O_CLOEXEC)
        pipes += os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
    except OSError:  # there are too many descriptors or processes
        for fd in pipes:
            os.close(fd)
        raise
    told, tell, held, hold = pipes
    if pid == 0:
        _be_elsewhere(moves, tell, held, hold)
    try:
        os.close(tell)
        error = int.from_bytes(os.read(told, 4), "little")
        if error:
            raise OSError(error, f"{operation}: {os.strerror(error)}")
        yield pid
    finally:
        for fd in (told, held, hold):
            os.close(fd)
        os.waitpid(pid, 0)


def _be_elsewhere(moves: Callable[[], None], tell: int, held: int, hold: int) -> NoReturn:
    """In a child that was forked beside threads: nothing here takes a lock."""
    try:
        os.close(hold)
        try:
            moves()
            error = 0
        except OSError as problem:
            error = problem.errno or 1
        os.write(tell, error.to_bytes(4, "little"))
        os.read(held, 1)  # ends when the parent has what it needs, or has ended
    finally:
        os._exit(0)


def _write_map(path: str, ranges: Sequence[IdRange]) -> None:
    """Write the map at once, as the kernel wants it."""
    _write(path, "".join(f"{each.inside} {each.outside} {each.count}\n" for each in ranges))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {path}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(fd)


def set_time_offsets(offsets: Iterable[tuple[str, int, int]]) -> None:
    """Say how the clocks of the time namespace that the caller's children will be in differ from the host's: clock (`monotonic` or
    `boottime`), seconds, nanoseconds. Before the first child is there. Raises `OSError` (ERANGE: before the machine's own start).
    """
    for offset in offsets:
        _write("/proc/self/timens_offsets", " ".join(map(str, offset)))


def call_in_netns(fd: int, fn: Callable[[], T]) -> T:
    """Run `fn` in the network namespace `fd`, to which the calling thread goes for so long; give its result or raise its error.

    Sockets made there stay in that namespace and can be used from any thread.
    """
    with _and_home():
        setns(fd, CLONE_NEWNET)
        return fn()


@contextmanager
def _and_home() -> Iterator[None]:
    """Bring the calling thread back to the network namespace that it is in now. One that cannot go back ends the process:
    else its next work would be done in a container's network.
    """
    home = _own_netns()
    try:
        yield
    finally:
        try:
            setns(home, CLONE_NEWNET)
        except OSError:
            os.abort()
        os.close(home)


def _own_netns() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def in_thread(fn: Callable[[], T]) -> T:
    """Run `fn` in a fresh thread, which may move elsewhere: it ends with it. Give its result or raise its error.

    The thread is gone for the kernel too: a process with one thread has one again and may, say, join a user namespace.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(fn())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()  # which may return a moment before the end
    while os.access(f"/proc/self/task/{thread.native_id}", os.F_OK):
        os.sched_yield()
    if errors:
        raise errors[0]
    return results[0]
