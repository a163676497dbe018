"""Service discovery: who answers to which name in which network, and what each sandbox may ask.

The truth is here, rebuilt from the store at every start; `sampan-netd` answers from a copy of it. The sockets of a
sandbox's name server are made here and held by both processes: while sampan-netd is away, queries wait in them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from sampan.api.errors import NotFound
from sampan.engine.netd import Ask, Netd
from sampan.netd.door import Door, open_door
from sampan.netd.names import NAMESERVER, Member, Sandbox, Upstream

__all__ = ["NAMESERVER", "Discovery", "Member", "Sandbox", "Upstream"]


class Discovery:
    """Names of the running containers."""

    def __init__(self, netd: Netd) -> None:
        self._netd = netd
        self._members: dict[str, dict[str, Member]] = {}
        self._served: dict[str, _Served] = {}
        self._settled = False
        self._left: dict[str, int] = {}
        """What sampan-netd serves since an earlier daemon, until `settle`: container id → inode of the namespace."""
        netd.add(self)

    async def serve(self, sandbox: Sandbox, netns: int) -> None:
        """Answer names in a sandbox from now on, or change what is answered there. Before its container starts.

        All names that were told before are known then. Does not wait for sampan-netd to start: until then queries wait
        in the sockets. Raises `System` where the kernel cannot lead a sandbox's queries.
        """
        served = self._served.get(sandbox.container_id)
        is_new = served is None or served.inode != os.fstat(netns).st_ino
        if served is None or is_new:
            served = await self._begin(sandbox, netns)
        served.sandbox = sandbox
        told = self._netd.tell("serve", served.descriptors(), inode=served.inode, sandbox=sandbox.to_data())
        if not is_new:  # else what is asked meanwhile waits
            await told
        self._netd.start()

    async def _begin(self, sandbox: Sandbox, netns: int) -> _Served:
        await self.forget(sandbox.container_id)
        if not self._settled:
            await self._netd.find()
        if self._left.get(sandbox.container_id) == os.fstat(netns).st_ino:
            door = await self._borrow(sandbox.container_id, netns)
        else:
            door = await asyncio.to_thread(open_door, netns)
        self._served[sandbox.container_id] = served = _Served(sandbox, os.dup(netns), door)
        return served

    async def _borrow(self, container_id: str, netns: int) -> Door:
        """Get copies of the sockets that sampan-netd has from an earlier daemon; make others if it died just now."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            try:
                await self._netd.request("lend", [theirs.fileno()], container=container_id)
            except NotFound:
                return await asyncio.to_thread(open_door, netns)
            _, (udp, tcp), _, _ = socket.recv_fds(ours, 1, 2, socket.MSG_CMSG_CLOEXEC)
        return Door(socket.socket(fileno=udp), socket.socket(fileno=tcp))

    async def forget(self, container_id: str) -> None:
        """Answer nothing more in a container's sandbox. Idempotent."""
        served = self._served.pop(container_id, None)
        if served is not None:
            served.close()
            self._netd.tell("forget", container=container_id)

    async def join(self, network_id: str, member: Member) -> None:
        """Have a container found in a network; once more with other names replaces them."""
        self._members.setdefault(network_id, {})[member.container_id] = member
        self._netd.tell("join", network=network_id, member=member.to_data())

    async def leave(self, network_id: str, container_id: str) -> None:
        """Have a container found there no more. Idempotent."""
        members = self._members.get(network_id, {})
        if members.pop(container_id, None) is not None:
            self._netd.tell("leave", network=network_id, container=container_id)
        if not members:
            self._members.pop(network_id, None)

    async def settle(self) -> None:
        """All that runs has been told again since the daemon began: what is left of an earlier one is forgotten."""
        self._settled = True
        self._left.clear()
        if await self._netd.find():
            await self._netd.tell("replace", **self._everything())

    def close(self) -> None:
        """Let go of the sandboxes; sampan-netd goes on."""
        for served in self._served.values():
            served.close()
        self._served.clear()

    # ------------------------------------------------------------------ what a new process is told

    @property
    def in_use(self) -> bool:
        """Whether any sandbox is served."""
        return bool(self._served)

    async def restore(self, ask: Ask) -> None:
        """Tell all names and sandboxes. Before `settle` nothing is taken back of what the process knows already."""
        if self._settled:
            self._netd.tell("replace", **self._everything())
        else:
            self._left = await ask("served")
            for network_id, members in self._members.items():
                for member in members.values():
                    self._netd.tell("join", network=network_id, member=member.to_data())
        for served in self._served.values():
            self._netd.tell("serve", served.descriptors(), inode=served.inode, sandbox=served.sandbox.to_data())

    def _everything(self) -> dict[str, Any]:
        members = {key: [member.to_data() for member in some.values()] for key, some in self._members.items()}
        return {"members": members, "containers": list(self._served)}


class _Served:
    """A sandbox whose names are answered: our own descriptors of its namespace and of its name server's sockets."""

    def __init__(self, sandbox: Sandbox, netns: int, door: Door) -> None:
        self.sandbox = sandbox
        self.netns = netns
        self.inode = os.fstat(netns).st_ino
        self.door = door

    def descriptors(self) -> tuple[int, ...]:
        return (self.netns, self.door.udp.fileno(), self.door.tcp.fileno())

    def close(self) -> None:
        os.close(self.netns)
        self.door.close()
