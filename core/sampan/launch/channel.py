"""A connection from the daemon to a process of ours, on the running asyncio loop: requests go out, answers find them.

A call that is cancelled leaves nothing behind; its answer is dropped when it comes. Descriptors given to a call stay the
caller's: close them once it has returned.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.api.errors import Unavailable, from_wire
from sampan.linux import messages
from sampan.linux.files import open_directory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Unsent:
    """A message that is still to be sent, and who waits for its answer, or for its sending where there is none."""

    future: asyncio.Future[Any]
    payload: bytes
    fds: tuple[int, ...]
    is_answered: bool = True


class Channel:
    """A connection on which answers find their requests. `closed` is set when the other side is gone."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        """Take over a connected SEQPACKET socket. `peer` names the other side in errors."""
        sock.setblocking(False)
        self.peer = peer
        self.closed = asyncio.Event()
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._answers: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._unsent: deque[_Unsent] = deque()
        self._loop.add_reader(sock.fileno(), self._receive)

    @classmethod
    def connect(cls, directory: Path, name: str, peer: str) -> Channel:
        """Connect to the socket `name` in a directory, whose path may be long. Raises `Unavailable` if no one answers."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            fd = open_directory(directory)
            try:
                sock.connect(f"/proc/self/fd/{fd}/{name}")
            finally:
                os.close(fd)
        except OSError as error:
            sock.close()
            raise Unavailable(f"connect to {directory / name}: {error.strerror}", remedy=f"{peer} is gone") from error
        return cls(sock, peer)

    @property
    def peer_pid(self) -> int:
        """The process that listened where `connect` found it."""
        return int.from_bytes(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)

    async def request(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Any:
        """Ask, and wait for the answer. Raises what the other side raised; `Unavailable` if it goes away."""
        return await self.begin(op, fds, **fields)

    def begin(self, op: str, fds: Sequence[int] = (), **fields: Any) -> asyncio.Future[Any]:
        """Ask at once, in the order of calls, and give what waits for the answer as `request` does. Raises `Unavailable`."""
        if self.closed.is_set():
            raise self._gone(op)
        number = next(self._ids)
        answer: asyncio.Future[Any] = self._loop.create_future()
        answer.add_done_callback(lambda done: self._forget(number, done))
        self._answers[number] = (op, answer)
        self._put(_Unsent(answer, messages.encode({"id": number, "op": op, **fields}), tuple(fds)))
        return answer

    async def tell(self, fds: Sequence[int]) -> None:
        """Send descriptors and no word; there is no answer to that. Raises `Unavailable`."""
        if self.closed.is_set():
            raise self._gone("tell")
        sent: asyncio.Future[Any] = self._loop.create_future()
        self._put(_Unsent(sent, b"!", tuple(fds), is_answered=False))
        await sent

    def _put(self, message: _Unsent) -> None:
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._send()

    def _forget(self, number: int, answer: asyncio.Future[Any]) -> None:
        self._answers.pop(number, None)
        if not answer.cancelled():
            answer.exception()  # nobody may be left who waits for it

    def close(self) -> None:
        """Drop the connection; whoever waits for an answer gets `Unavailable`. Idempotent."""
        if self.closed.is_set():
            return
        self.closed.set()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for message in self._unsent:
            if not message.is_answered and not message.future.done():
                message.future.set_exception(self._gone("tell"))
        self._unsent.clear()
        for op, answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._gone(op))

    def _gone(self, op: str) -> Unavailable:
        return Unavailable(f"{op}: {self.peer} is gone")

    def _send(self) -> None:
        try:
            while self._unsent:
                message = self._unsent[0]
                if not message.future.done():  # else it was cancelled, and its descriptors may be closed
                    messages.send(self._sock, message.payload, message.fds)
                    if not message.is_answered:
                        message.future.set_result(None)
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._send)
            return
        except OSError:
            self.close()
            return
        self._loop.remove_writer(self._sock.fileno())

    def _receive(self) -> None:
        try:
            received = messages.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            logger.warning("receive from %s: %s", self.peer, error)
            received = None
        if received is None:
            self.close()
            return
        reply, fds = received
        for fd in fds:
            os.close(fd)
        _, answer = self._answers.get(reply["id"], ("", None))
        if answer is None or answer.done():
            return
        if "error" in reply:
            answer.set_exception(from_wire(reply["error"]))
        else:
            answer.set_result(reply.get("result"))
