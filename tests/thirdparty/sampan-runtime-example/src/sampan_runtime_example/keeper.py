"""A process that holds the reading ends of a container's outputs and hands out copies of them.

A pipe breaks when nobody can read it, and what is in it is lost. The keeper reads nothing: shims do. It ends when told so,
or when nobody writes to the pipes any more.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from sampan.api.runtime import Stdio
from sampan.linux.processes import fork, keep_only

_NAME = "keeper"
_GIVE, _END = b"g", b"e"


def keep(stdio: Stdio, directory: Path) -> None:
    """Leave a keeper that listens in `directory`, in a session of its own: it outlives the shim."""
    with _opened(directory) as fd, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"/proc/self/fd/{fd}/{_NAME}")
        listener.listen(1)
        middle = fork()
        if middle == 0:
            try:
                os.setsid()
                if fork() == 0:
                    _serve(listener, [stdio.stdout, stdio.stderr])
            finally:
                os._exit(0)
        os.waitpid(middle, 0)


def reclaim(directory: Path) -> Stdio | None:
    """Give copies of what a keeper holds, if there is one."""
    try:
        with _called(directory, _GIVE) as keeper:
            _, (stdout, stderr), _, _ = socket.recv_fds(keeper, 1, 2, socket.MSG_CMSG_CLOEXEC)
            return Stdio(stdout=stdout, stderr=stderr)
    except (OSError, ValueError):
        return None


def dismiss(directory: Path) -> None:
    """End the keeper, if there is one, and wait for that."""
    try:
        with _called(directory, _END) as keeper:
            _await_end(int(keeper.recv(16) or b"0"))
    except OSError:  # there is none, or it has just ended
        pass
    (directory / _NAME).unlink(missing_ok=True)


def _serve(listener: socket.socket, outputs: list[int]) -> NoReturn:
    readers = [os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC) for fd in outputs]
    keep_only({listener.fileno(), *readers})
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    written = {fd for fd in readers if poll.register(fd, 0) is None}
    while written:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                if _answer(listener, readers) == _END:
                    os._exit(0)
            else:  # only a hang-up is told without being asked for
                poll.unregister(fd)
                written.discard(fd)
    os._exit(0)


def _answer(listener: socket.socket, readers: list[int]) -> bytes:
    caller, _ = listener.accept()
    with caller:
        asked = caller.recv(1)
        if asked == _GIVE:
            socket.send_fds(caller, [b"!"], readers)
        else:
            caller.send(b"%d" % os.getpid())
        return asked


def _await_end(pid: int) -> None:
    """Wait until a process has ended, whoever collects it."""
    pidfd = os.pidfd_open(pid)
    try:
        select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


@contextmanager
def _called(directory: Path, request: bytes) -> Iterator[socket.socket]:
    with _opened(directory) as fd, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(f"/proc/self/fd/{fd}/{_NAME}")
        sock.send(request)
        yield sock


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Give a descriptor of the directory: a socket's address holds 107 bytes, and the path may be longer."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
