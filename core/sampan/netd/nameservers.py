"""The service of names: the table, and a name server for each sandbox."""

from __future__ import annotations

import resource
import socket
from collections.abc import Mapping

from sampan.api.errors import NotFound
from sampan.linux.messages import Message
from sampan.netd.names import Member, Names, Sandbox
from sampan.netd.nameserver import NameServer, Room
from sampan.netd.outside import Outside
from sampan.netd.service import Operation, Service

MOST_OUTSIDE = 16384
"""Sockets that may ask the world at once; fewer where a quarter of the descriptors is less."""


class NameServers(Service):
    """All sandboxes of the engine. Its requests say what `sampan.engine.discovery` knows."""

    def __init__(self) -> None:
        """Nothing is known and served yet."""
        self._names = Names()
        self._servers: dict[str, NameServer] = {}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._outside = Outside(min(descriptors // 4, MOST_OUTSIDE))
        self._room = Room(descriptors // 16)

    def operations(self) -> Mapping[str, Operation]:
        """Give the requests: `serve`, `lend`, `forget`, `join`, `leave`, `replace`, `served`."""
        return {
            "serve": self._serve,
            "lend": self._lend,
            "forget": self._forget,
            "join": self._join,
            "leave": self._leave,
            "replace": self._replace,
            "served": self._served,
        }

    @property
    def serving(self) -> bool:
        """Whether there is a sandbox."""
        return bool(self._servers)

    def close(self) -> None:
        """Close every name server."""
        for container_id in list(self._servers):
            self._servers.pop(container_id).close()
        self._outside.close()

    def _serve(self, message: Message, fds: list[int]) -> None:
        """Serve a sandbox, or by other rules. Descriptors are needed for one that is not served yet, and harmless else."""
        sandbox = Sandbox.from_data(message["sandbox"])
        known = self._servers.get(sandbox.container_id)
        if known is not None and known.inode == message["inode"]:
            known.change(sandbox)
            return
        if len(fds) != 3:
            raise NotFound(f"serve names in container {sandbox.container_id[:12]}: it is not served yet")
        if known is not None:
            self._servers.pop(sandbox.container_id).close()
        given = [fds.pop(0) for _ in range(3)]
        self._servers[sandbox.container_id] = NameServer(sandbox, self._names, given, self._outside, self._room)

    def _lend(self, message: Message, fds: list[int]) -> None:
        """Send copies of a sandbox's sockets on the socket given: a later daemon holds them too."""
        server = self._servers.get(message["container"])
        if server is None:
            raise NotFound(f"lend the sockets of container {message['container'][:12]}: it is not served")
        with socket.socket(fileno=fds.pop()) as out:
            socket.send_fds(out, [b"\0"], server.sockets)

    def _forget(self, message: Message, fds: list[int]) -> None:
        server = self._servers.pop(message["container"], None)
        if server is not None:
            server.close()

    def _join(self, message: Message, fds: list[int]) -> None:
        self._names.join(message["network"], Member.from_data(message["member"]))

    def _leave(self, message: Message, fds: list[int]) -> None:
        self._names.leave(message["network"], message["container"])

    def _replace(self, message: Message, fds: list[int]) -> None:
        """Know these members and no others, and serve nobody but these containers."""
        self._names.replace({key: [Member.from_data(one) for one in some] for key, some in message["members"].items()})
        for container_id in set(self._servers) - set(message["containers"]):
            self._servers.pop(container_id).close()

    def _served(self, message: Message, fds: list[int]) -> dict[str, int]:
        return {container_id: server.inode for container_id, server in self._servers.items()}
