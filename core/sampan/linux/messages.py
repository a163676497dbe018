"""Messages between our processes: JSON datagrams over SEQPACKET sockets, descriptors by `SCM_RIGHTS`.

A message too long for a datagram travels in a memfd, sent as the last descriptor.

Loaded into every shim: no pydantic, no asyncio. Sources: unix(7), cmsg(3), memfd_create(2).
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

DATAGRAM = 32 * 1024
"""Longest message, in bytes, that is sent as a datagram; a longer one goes by memfd."""

MAX_FDS = 8
"""Most descriptors in one message."""

Message = dict[str, Any]


_FD_SIZE = array.array("i").itemsize
_FDS_SPACE = socket.CMSG_SPACE((MAX_FDS + 1) * _FD_SIZE)

# Made once, and the parts in C called directly: each Python function that is called in a shim costs it some 12 kB.
_encoder = json.JSONEncoder(separators=(",", ":"))
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def encode(message: Message) -> bytes:
    """Give a message as it travels."""
    return _encoder.encode(message).encode()


def decode(payload: bytes) -> Any:
    """Give back what `encode` made. Raises `ValueError`."""
    text = payload.decode()
    try:
        message, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("this is no JSON") from None
    if text[end:].strip():
        raise ValueError("there is more than one JSON text")
    return message


def send(sock: socket.socket, payload: bytes, fds: Sequence[int] = ()) -> None:
    """Send an encoded message whole with its descriptors, which stay the caller's. Raises `OSError`,
    `BlockingIOError`.
    """
    if len(payload) <= DATAGRAM:
        _send(sock, payload, fds)
        return
    memfd = os.memfd_create("sampan-message", os.MFD_CLOEXEC)
    try:
        rest = memoryview(payload)
        while rest:
            rest = rest[os.write(memfd, rest) :]
        _send(sock, b"@%d" % len(payload), [*fds, memfd])
    finally:
        os.close(memfd)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one message and the descriptors that came with it, now the caller's; None at the end of the
    connection.

    Raises `OSError`, `BlockingIOError` when there is none yet, `ValueError` for what is no message of ours.
    """
    payload, ancillary, _, _ = sock.recvmsg(DATAGRAM, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for _, _, data in ancillary:  # there is no other kind on a socket that did not ask for one
        fds.extend(memoryview(data)[: len(data) - len(data) % _FD_SIZE].cast("i"))
    if not payload:
        return None
    try:
        if payload[:1] == b"@":
            memfd = fds.pop()
            try:
                payload = _read_whole(memfd, int(payload[1:]))
            finally:
                os.close(memfd)
        message = decode(payload)
        if not isinstance(message, dict):
            raise ValueError("receive from a peer: the message is no JSON object")
    except (ValueError, IndexError) as error:
        for fd in fds:
            os.close(fd)
        raise ValueError(f"receive from a peer: {error}") from error
    return message, fds


def _send(sock: socket.socket, payload: bytes, fds: Sequence[int]) -> None:
    if fds:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sock.sendmsg([payload], control, socket.MSG_NOSIGNAL)
    else:
        sock.send(payload, socket.MSG_NOSIGNAL)


def _read_whole(fd: int, size: int) -> bytes:
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            raise ValueError(f"a message of {size} bytes ends after {offset}")
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
