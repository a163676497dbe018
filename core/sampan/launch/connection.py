"""A daemon's connection to a shim, on the shim's side."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from sampan.api.errors import SampanError, System, to_wire
from sampan.launch.loop import IN, OUT, Loop
from sampan.linux import messages

logger = logging.getLogger(__name__)


class Request:
    """One request. It is answered once, by `reply` or `fail`, maybe later; an answer to a closed connection
    is dropped.
    """

    __slots__ = ("_connection", "_id", "fds", "message", "op")

    def __init__(self, connection: Connection, message: messages.Message, fds: list[int]) -> None:
        """`fds` belong to the request until `take_fds`."""
        self._connection = connection
        self._id = message.get("id")
        self.op = str(message.get("op"))
        self.message = message
        self.fds = fds

    @property
    def is_wanted(self) -> bool:
        """Whether who asked is still there."""
        return not self._connection.closed

    def take_fds(self) -> dict[str, int]:
        """Give the descriptors by the names that the message gives them; the caller owns them now. Raises `System` if the
        kernel has kept some back, because this process has too many (unix(7), MSG_CTRUNC).
        """
        names = self.message.get("names", ())
        if len(names) > len(self.fds):
            raise System(f"{self.op}: too many open files in the shim", remedy="raise the limit (LimitNOFILE)")
        named = dict(zip(names, self.fds, strict=False))
        self.fds = self.fds[len(named) :]
        return named

    def reply(self, result: Any = None) -> None:
        """Answer it."""
        self._connection.send({"id": self._id, "result": result})

    def fail(self, error: SampanError) -> None:
        """Answer it with an error."""
        self._connection.send({"id": self._id, "error": to_wire(error)})

    def discard_fds(self) -> None:
        """Close the descriptors that nobody took."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class Waiters:
    """Requests that wait for the same answer. Those that nobody wants any more are forgotten when another one comes."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        """Nobody waits."""
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        """One more waits."""
        self._requests = [*(waiting for waiting in self._requests if waiting.is_wanted), request]

    def reply(self, result: Any = None) -> None:
        """Answer them all; nobody waits any more."""
        requests, self._requests = self._requests, []
        for request in requests:
            request.reply(result)

    def fail(self, error: SampanError) -> None:
        """Answer them all with an error."""
        requests, self._requests = self._requests, []
        for request in requests:
            request.fail(error)


class Connection:
    """One connection. Answers that the daemon does not take at once wait here."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_request: Callable[[Request], None],
        on_close: Callable[[Connection], None],
    ) -> None:
        """Serve a connected SEQPACKET socket, ours from now on."""
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._on_request = on_request
        self._on_close = on_close
        self._unsent: deque[bytes] = deque()
        self.closed = False
        """Whether it is gone."""
        loop.watch(sock.fileno(), IN, self._receive)

    def send(self, message: messages.Message) -> None:
        """Send, or keep until it can be sent."""
        if self.closed:
            return
        self._unsent.append(messages.encode(message))
        if len(self._unsent) == 1:
            self._flush()

    def close(self) -> None:
        """Drop the connection. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        self._on_close(self)

    def _flush(self) -> None:
        try:
            while self._unsent:
                messages.send(self._sock, self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            # No request is read while answers wait, so what waits is bounded by what was asked.
            self._loop.watch(self._sock.fileno(), OUT, self._resume)
        except OSError:
            self.close()

    def _resume(self) -> None:
        self._flush()
        if not self.closed and not self._unsent:
            self._loop.watch(self._sock.fileno(), IN, self._receive)

    def _receive(self) -> None:
        try:
            received = messages.receive(self._sock)
        except BlockingIOError:
            return
        except ValueError as error:
            logger.warning("%s", error)
            self.close()
            return
        except OSError:
            received = None
        if received is None:
            self.close()
            return
        self._on_request(Request(self, *received))
