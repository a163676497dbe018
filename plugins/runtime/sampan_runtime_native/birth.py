"""How a container's first process comes into its namespaces: born in new ones, and moved into others by whoever has the right.

Mostly it is the driver's own clone, and joins others by itself. But what a process can only be born into (a pid namespace that
is there, a time namespace, and a user namespace, which is to own the new ones) is chosen by its parent, and the driver must stay
with the host. Then a process between them moves, bears the first process as a child of the driver, and ends.

Sources: `clone(2)`, `setns(2)`, `user_namespaces(7)`, `pid_namespaces(7)`, `time_namespaces(7)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from sampan.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_PARENT,
    set_time_offsets,
    setns,
    unshare,
)
from sampan.linux.processes import clone, fork
from sampan.linux.syscalls import PR_SET_DUMPABLE, prctl
from sampan_runtime_native import channel

if TYPE_CHECKING:
    import socket

Join = tuple[int, int]
"""A namespace to join: its CLONE_NEW* flag and a descriptor of it."""

_JOINED_BY_A_PARENT: Final = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWTIME


@dataclass(frozen=True, slots=True)
class Settling:
    """What a first process does when it is born: join namespaces, become root of its user namespace, make `new` ones."""

    joins: tuple[Join, ...]
    new: int = 0
    becomes_root: bool = False

    def go(self) -> None:
        """Do it. Raises `OSError`."""
        for flag, fd in self.joins:
            setns(fd, flag)
            os.close(fd)
        if self.becomes_root:
            become_root()
        if self.new:
            unshare(self.new)


def become_root() -> None:
    """Be root of the user namespace: files are made as root's, and nobody of the host's is left. Capabilities stay."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    prctl(PR_SET_DUMPABLE, 0)  # a change of ids sets it anew


@dataclass(frozen=True, slots=True)
class Birth:
    """Namespaces that are `new` (CLONE_NEW* flags) and others to join, and the v2 cgroup to be born in, or -1.

    `time_offsets` are a new time namespace's: clock, seconds, nanoseconds. `before_user` is what the host's root has to do for a
    process that is going to be in a user namespace: it gets a procfs.
    """

    new: int
    joins: tuple[Join, ...]
    cgroup: int
    time_offsets: tuple[tuple[str, int, int], ...]
    before_user: Callable[[int], None]

    def bear(self, live: Callable[[Settling], NoReturn], teller: socket.socket) -> int:
        """Make the process, which calls `live` with what it has still to do. Give its pid; 0 if it never was, and why is told."""
        # The cgroup namespace comes later: its root is the cgroup that the process is in when it is made.
        new = self.new & ~CLONE_NEWCGROUP
        if not new & CLONE_NEWTIME and not any(flag & _JOINED_BY_A_PARENT for flag, _ in self.joins):
            return self._clone(new, lambda: live(Settling(self.joins)))
        hear, tell = os.pipe2(os.O_CLOEXEC)
        try:
            between = fork()
            if between == 0:
                self._bear_between(new, live, teller, tell)
            os.waitpid(between, 0)
        finally:
            os.close(tell)
        try:
            return int.from_bytes(os.read(hear, 4), "little")
        finally:
            os.close(hear)

    def _clone(self, new: int, live: Callable[[], NoReturn]) -> int:
        pid = clone(new | CLONE_PARENT, self.cgroup)
        if pid == 0:
            live()
        return pid

    def _bear_between(self, new: int, live: Callable[[Settling], NoReturn], teller: socket.socket, tell: int) -> NoReturn:
        """Be the process between. The user namespace comes last: until then all others may be joined, whoever owns them.

        Its own root the first process becomes by itself, and makes the others then, for what is in them is to be that root's: to
        be put into its v2 cgroup by clone, who bears it must be the host's. From that one's view too: so no cgroup namespace yet.
        """
        try:
            user = tuple(fd for flag, fd in self.joins if flag == CLONE_NEWUSER)
            left = tuple((flag, fd) for flag, fd in self.joins if flag == CLONE_NEWCGROUP)
            for flag, fd in self.joins:
                if flag not in (CLONE_NEWUSER, CLONE_NEWCGROUP):
                    setns(fd, flag)
            for fd in user:
                self.before_user(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                os.setgroups(())  # in there it may be forbidden
                setns(fd, CLONE_NEWUSER)
            if new & CLONE_NEWTIME:
                unshare(CLONE_NEWTIME)  # of its children
                set_time_offsets(self.time_offsets)
                new &= ~CLONE_NEWTIME
            later = new & ~CLONE_NEWPID if user else 0
            pid = self._clone(new & ~later, lambda: live(Settling(left, later, becomes_root=bool(user))))
            os.write(tell, pid.to_bytes(4, "little"))
        except BaseException as error:  # told to the driver: nothing here may unwind into the caller's code
            channel.send_error(teller, error)
        os._exit(0)
