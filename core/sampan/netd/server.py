"""The loop of sampan-netd: daemons connect, requests go to the services, and the end comes when nobody is left to serve."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sampan.api.errors import SampanError, System, Unsupported, to_wire
from sampan.linux import messages
from sampan.linux.messages import Message
from sampan.netd.protocol import VERSION
from sampan.netd.service import Operation, Service

logger = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds until it is looked again for a connection that could not be taken."""


class Server:
    """Takes requests of daemons to the services. `done` is set when the process may end."""

    def __init__(self, services: Sequence[Service]) -> None:
        """Serve these. To be made on the running loop."""
        self.done = asyncio.Event()
        self._services = services
        self._operations: dict[str, Operation] = {"hello": lambda message, fds: {"version": VERSION}}
        for service in services:
            self._operations |= service.operations()
        self._connections: set[Connection] = set()

    def listen(self, sock: socket.socket) -> None:
        """Take connections from a listening SEQPACKET socket."""
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock)

    def welcome(self, sock: socket.socket) -> None:
        """Serve a connected daemon."""
        self._connections.add(Connection(sock, self._carry_out, self._closed))

    def close(self) -> None:
        """Drop every connection and close the services."""
        for connection in tuple(self._connections):
            connection.close()
        for service in self._services:
            service.close()

    def _accept(self, sock: socket.socket) -> None:
        try:
            connected, _ = sock.accept()
        except OSError as error:  # it went away again, or there are too many descriptors: a little later there may be one
            logger.warning("accept a daemon: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(sock.fileno())
            loop.call_later(PAUSE, self.listen, sock)
            return
        self.welcome(connected)

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and not any(service.serving for service in self._services):
            self.done.set()

    def _carry_out(self, message: Message, fds: list[int]) -> Message:
        try:
            operation = self._operations.get(str(message.get("op")))
            if operation is None:
                raise Unsupported(f"{message.get('op')}: sampan-netd {VERSION[0]}.{VERSION[1]} does not know this request")
            return {"result": operation(message, fds)}
        except SampanError as error:
            return {"error": to_wire(error)}
        except Exception as error:
            logger.exception("%s failed", message.get("op"))
            return {"error": to_wire(System(f"{message.get('op')}: {error!r}", remedy="see sampan-netd's log"))}
        finally:
            for fd in fds:
                os.close(fd)


class Connection:
    """A daemon's connection. No request is read while an answer waits to be taken."""

    def __init__(
        self,
        sock: socket.socket,
        carry_out: Callable[[Message, list[int]], Message],
        on_close: Callable[[Connection], None],
    ) -> None:
        """Serve a connected socket, ours from now on."""
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._carry_out = carry_out
        self._on_close = on_close
        self._unsent: deque[bytes] = deque()
        self._loop.add_reader(sock.fileno(), self._receive)

    def close(self) -> None:
        """Drop it. Idempotent."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._on_close(self)

    def _receive(self) -> None:
        try:
            received = messages.receive(self._sock)
        except BlockingIOError:
            return
        except ConnectionResetError:  # the daemon ended with answers unread; what it asked last is still to be read
            return
        except (OSError, ValueError) as error:
            logger.warning("receive from a daemon: %s", error)
            received = None
        if received is None:
            self.close()
            return
        message, fds = received
        self._answer({"id": message.get("id"), **self._carry_out(message, fds)})

    def _answer(self, answer: dict[str, Any]) -> None:
        self._unsent.append(messages.encode(answer))
        if len(self._unsent) == 1:
            self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                messages.send(self._sock, self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.add_writer(self._sock.fileno(), self._resume)
        except OSError:  # nobody hears the answer; what was asked before the end is still to be done
            self._unsent.clear()

    def _resume(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        self._loop.add_reader(self._sock.fileno(), self._receive)
        self._send()
