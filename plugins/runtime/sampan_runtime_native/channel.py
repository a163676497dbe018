"""What a process being made and the driver tell each other: single messages over a socket that closes on
exec.

Text, not JSON: this is on the path of every start. A message is a letter, then fields parted by NUL.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sampan.api.errors import Forbidden, InvalidArgument, NotFound, SampanError, System, Unsupported

if TYPE_CHECKING:
    from sampan.linux.cgroups import Cgroup

READY: Final = b"R"
GO: Final = b"G"
LISTENER: Final = b"L"
WARNING: Final = b"W"
_ERROR: Final = b"E"
_SIZE: Final = 32768
SPEC_FAULTS: Final = (ValueError, KeyError, TypeError, AttributeError)
"""What reading a spec raises where that has something of another kind than the OCI spec says."""
_KINDS = {kind.__name__: kind for kind in (Forbidden, InvalidArgument, NotFound, System, Unsupported)}


def pair() -> tuple[socket.socket, socket.socket]:
    """Give both ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, letter: bytes, *fields: str) -> None:
    """Send one message; one that is too long is cut."""
    channel.send((letter + "\0".join(fields).encode("utf-8", "surrogateescape"))[:_SIZE])


def send_error(channel: socket.socket, error: BaseException) -> None:
    """Tell why it went no further. This is the one place where a new process's `OSError` becomes ours."""
    if not isinstance(error, SampanError):
        error = as_sampan_error(error)
    send(channel, _ERROR, type(error).__name__, error.message, error.remedy)


def receive(channel: socket.socket) -> tuple[bytes, list[str]]:
    """Wait for a message: letter and fields; b"" when the other side is gone. Raises the error that it tells
    of."""
    try:
        message = channel.recv(_SIZE + 1)
    except ConnectionResetError:
        # It ended without reading what we sent. The kernel tells that first and once; its last words come
        # after.
        message = channel.recv(_SIZE + 1)
    letter, text = message[:1], message[1:].decode("utf-8", "surrogateescape")
    fields = text.split("\0") if text else []
    if letter == _ERROR:
        kind, cause, *remedy = fields  # of a long message the end is cut
        raise _KINDS.get(kind, System)(cause, remedy="".join(remedy))
    return letter, fields


@dataclass(frozen=True, slots=True)
class Go:
    """What a new process gets once it is in its cgroups: its seccomp program, empty for none, that one's
    flags, and for a first process the listening socket at which it waits for `start`."""

    filter: bytes
    flags: int
    gate: int = -1


def send_go(channel: socket.socket, go: Go) -> None:
    """Let the new process go on."""
    message = GO + go.flags.to_bytes(4, "little") + go.filter
    if go.gate >= 0:
        socket.send_fds(channel, [message], [go.gate])
    else:
        channel.send(message)


def move_and_let_go(process: socket.socket, cgroup: Cgroup, pid: int, go: Go) -> None:
    """Move a new process into the v1 hierarchies while it builds, then let it go on. Raises what it tells, `OSError`."""
    try:
        cgroup.add(pid, unified=False)
        send_go(process, go)
    except OSError:
        receive(process)  # it died and said why, or the move failed for a reason of its own
        raise


def await_go(channel: socket.socket) -> Go:
    """Wait for `send_go`. Raises `System` if the driver gave up."""
    message, fds, _, _ = socket.recv_fds(channel, _SIZE * 2, 1, socket.MSG_CMSG_CLOEXEC)
    if message[:1] != GO:
        raise System("the driver gave up on this process")
    return Go(message[5:], int.from_bytes(message[1:5], "little"), *fds)


def offer_listener(channel: socket.socket, fd: int) -> None:
    """Have the driver take the descriptor of this process's seccomp notifications, and wait until it is in good hands.

    The filter is on already: `write` is the one call that it can't have notify. Raises `System` if the driver gave up.
    """
    os.write(channel.fileno(), LISTENER + str(fd).encode())
    if not os.read(channel.fileno(), 1):
        raise System("the driver gave up on this process")


def as_sampan_error(error: BaseException) -> SampanError:
    """Translate what the kernel or a parser says."""
    if isinstance(error, SampanError):
        return error
    if isinstance(error, OSError):
        text = error.strerror or os.strerror(error.errno or 0)
        if error.filename and os.fsdecode(error.filename) not in text:
            text = f"{text}: {os.fsdecode(error.filename)}"
        kind = Unsupported if error.errno == errno.EOPNOTSUPP else System
        return kind(f"unable to start container process: {text}")
    if isinstance(error, KeyError):
        return InvalidArgument(f"invalid container spec: {error} is missing")
    if isinstance(error, SPEC_FAULTS):
        return InvalidArgument(f"invalid container spec: {error}")
    return System(f"unable to start container process: {type(error).__name__}: {error}")
