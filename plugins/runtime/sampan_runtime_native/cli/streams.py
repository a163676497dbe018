"""What a new process gets from the caller: streams, terminal, further descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from sampan.api.errors import InvalidArgument
from sampan.api.runtime import Spec, Stdio

_FIRST_LISTENING = 3


def check_terminal(*, terminal: bool, detached: bool, console_socket: str) -> None:
    """See that there is somebody for the terminal, and that no one waits for one in vain. Raises `InvalidArgument`."""
    if detached and terminal and not console_socket:
        raise InvalidArgument("cannot allocate tty if the runtime will detach without setting console socket")
    if console_socket and not (detached and terminal):
        raise InvalidArgument("cannot use console socket if the runtime will not detach or allocate tty")


@contextlib.contextmanager
def console(path: str) -> Iterator[int]:
    """Give a connection to the socket at `path` for so long. Raises `InvalidArgument`."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise InvalidArgument(f"--console-socket {path}: {error.strerror or error}") from error
        yield connection.fileno()


def own(preserved: int) -> Stdio:
    """Give this process's own streams, and how many descriptors after them go on to the new process."""
    return Stdio(0, 1, 2, preserved=preserved)


def with_our_size(process: Spec) -> Spec:
    """Give a process on a terminal the size that ours has, from its first moment."""
    if not os.isatty(0):
        return process
    columns, lines = os.get_terminal_size(0)
    return {**process, "consoleSize": {"height": lines, "width": columns}}


def descriptors(process: Spec, wanted: int) -> tuple[Spec, int]:
    """Give the process with what `sd_listen_fds(3)` wants to find, and the number of descriptors from 3 that are passed
    on: those that systemd gave this program, then `wanted` more. Raises `InvalidArgument` for one that is not open.
    """
    listening = _listening()
    for fd in range(_FIRST_LISTENING, _FIRST_LISTENING + listening + wanted):
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError as error:
            raise InvalidArgument(f"--preserve-fds: descriptor {fd} is not open") from error
    if listening:
        process = {**process, "env": [*(process.get("env") or ()), f"LISTEN_FDS={listening}", "LISTEN_PID=1"]}
    return process, listening + wanted


def _listening() -> int:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    number = os.environ.get("LISTEN_FDS", "0")
    return int(number) if number.isdigit() else 0
