"""sampan-netd as the engine sees it: started when first needed, found again after a restart, replaced when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from sampan.api.errors import SampanError, System, Unavailable
from sampan.launch.channel import Channel
from sampan.netd.protocol import SOCKET, VERSION

log = logging.getLogger(__name__)

DEADLINE = 10.0
"""Seconds that an answer may take: each is due at once, and a process that hangs is replaced."""

RETRY = 1.0
"""Seconds between attempts to replace a process that died, when the last one failed."""

FIRST = 3
"""The descriptor of its first connection."""

# Without `ssl` asyncio takes 4 MB of 19 less. The name is for those who look at `ps`.
_BOOT = "import sys; sys.modules['ssl'] = None; sys.path[:] = sys.argv[4:]; from sampan.netd.main import main; main()"

Ask = Callable[..., Awaitable[Any]]
"""`Channel.request`: operation, descriptors, fields."""


class Tenant(Protocol):
    """A part of the engine that has something in sampan-netd."""

    @property
    def in_use(self) -> bool:
        """Whether a process that died is to be replaced at once."""

    async def restore(self, ask: Ask) -> None:
        """Tell all that a process should know. It may know some already: it served an earlier daemon.

        Changes made meanwhile go by `Netd.tell`: what is told together must not be cut in two by waiting.
        """


class Netd:
    """The process. Requests are made as if it never died: before one goes to another process, all tenants have told it all."""

    def __init__(self, state: Path) -> None:
        """Nothing is started yet. `state`: the engine's state directory."""
        self._state = state
        self._tenants: list[Tenant] = []
        self._connecting = asyncio.Lock()
        self._channel: Channel | None = None
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, tenant: Tenant) -> None:
        """Have a tenant asked to tell all whenever the engine is connected to a process."""
        self._tenants.append(tenant)

    @property
    def connected(self) -> bool:
        """Whether there is a process that is told of changes."""
        return self._channel is not None and not self._channel.closed.is_set()

    async def request(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Any:
        """Ask, with the process started if there is none. Raises its errors, `System`, `Unavailable`."""
        channel = await self._ensure()
        try:
            return await self._ask(channel, op, fds, **fields)
        except Unavailable:  # it died: the next one is told all, and this once more
            return await self._ask(await self._ensure(), op, fds, **fields)

    def tell(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Awaitable[None]:
        """Tell of a change at once, in the order of calls; what it gives can be awaited until the change is made.

        Where there is no process, nothing is told: tenants tell it one that is started later.
        """
        if self._channel is not None and self.connected:
            with contextlib.suppress(Unavailable):
                return self._spawn(self._told(op, self._channel, self._channel.begin(op, fds, **fields)))
        nothing = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def start(self) -> None:
        """Have a process soon, if there is none, and don't wait."""
        if not self.connected and (self._keeping is None or self._keeping.done()):
            self._keeping = self._spawn(self._keep())

    async def find(self) -> bool:
        """Connect to the process of an earlier daemon, if there is one."""
        async with self._connecting:
            return self.connected or await self._connect_to_living()

    async def close(self) -> None:
        """Let go of the process; it ends by itself when it serves nobody."""
        for task in self._tasks:
            task.cancel()
        async with self._connecting:
            if self._channel is not None:
                self._channel.close()
            if self._process is not None:
                self._process.release()

    # ------------------------------------------------------------------ connecting

    async def _ensure(self) -> Channel:
        async with self._connecting:
            if not self.connected and not await self._connect_to_living():
                await self._start()
            assert self._channel is not None
            return self._channel

    async def _connect_to_living(self) -> bool:
        try:
            channel = Channel.connect(self._state, SOCKET, "sampan-netd")
        except Unavailable:
            return False
        self._process = Process(channel.peer_pid)
        try:
            hello = await self._ask(channel, "hello", version=VERSION)
        except Unavailable:
            channel.close()
            return False
        except asyncio.CancelledError:
            channel.close()
            raise
        if tuple(hello["version"])[0] != VERSION[0] or tuple(hello["version"]) < VERSION:
            log.info("sampan-netd is of another version: it is replaced, and names pause for a moment")
            self._process.kill()
            await channel.closed.wait()
            return False
        await self._take(channel)
        return True

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = [entry for entry in sys.path if entry]
        arguments = [sys.executable, "-I", "-S", "-c", _BOOT, "sampan-netd", str(FIRST), str(self._state), *path]
        try:
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), FIRST),
                ],
                setsid=True,
            )
        except OSError as error:
            ours.close()
            raise System(f"start sampan-netd by {sys.executable}: {error.strerror}") from error
        finally:
            theirs.close()
        self._process = Process(pid)
        channel = Channel(ours, "sampan-netd")
        try:
            await self._ask(channel, "hello", version=VERSION)
        except asyncio.CancelledError:
            channel.close()
            raise
        except Unavailable as error:
            raise System("start sampan-netd: it ended at once", remedy="its last words are in the daemon's log") from error
        await self._take(channel)

    async def _take(self, channel: Channel) -> None:
        """Go on with this process once it knows all."""

        async def ask(op: str, fds: Sequence[int] = (), **fields: Any) -> Any:
            return await self._ask(channel, op, fds, **fields)

        self._channel = channel
        try:
            for tenant in self._tenants:
                await tenant.restore(ask)
        except BaseException:
            channel.close()
            raise
        self._spawn(self._replace_when_dead(channel))

    async def _replace_when_dead(self, channel: Channel) -> None:
        await channel.closed.wait()
        log.warning("sampan-netd is gone; another one is told what it served")
        self.start()

    async def _keep(self) -> None:
        while any(tenant.in_use for tenant in self._tenants):
            try:
                await self._ensure()
                return
            except (SampanError, OSError) as error:  # the latter where not even a socket is to be had
                log.error("names and proxied ports have to wait: %s", error)
                await asyncio.sleep(RETRY)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _told(self, op: str, channel: Channel, answer: asyncio.Future[Any]) -> None:
        try:
            await self._in_time(op, channel, answer)
        except Unavailable:  # it died: another one is told all
            return
        except SampanError as error:
            log.error("%s: %s", op, error)

    async def _ask(self, channel: Channel, op: str, fds: Sequence[int] = (), **fields: Any) -> Any:
        return await self._in_time(op, channel, channel.begin(op, fds, **fields))

    async def _in_time(self, op: str, channel: Channel, answer: asyncio.Future[Any]) -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                return await answer
        except TimeoutError as error:
            if self._process is not None:
                self._process.kill()
            channel.close()
            raise Unavailable(f"{op}: sampan-netd did not answer within {DEADLINE:.0f} s; it is replaced") from error


class Process:
    """A process that can be killed without hitting another one, and is collected at its end if it is our child."""

    def __init__(self, pid: int) -> None:
        """Hold the process with this id. Raises nothing if it is gone."""
        self._pidfd = -1
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(pid)
            asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def kill(self) -> None:
        """Send SIGKILL, if it is there."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def release(self) -> None:
        """Let go of it; it goes on. Idempotent."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _ended(self) -> None:
        with contextlib.suppress(ChildProcessError):  # an earlier daemon's
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self.release()
