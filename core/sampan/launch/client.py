"""The daemon's side: start the zygote, spawn shims, talk to them. All on the running asyncio loop, without
threads.

A call that is cancelled leaves nothing behind; its answer is dropped when it comes. Descriptors given to a
call stay the
caller's: close them once it has returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sampan.api.errors import System, Unsupported
from sampan.api.runtime import Stats
from sampan.launch import protocol
from sampan.launch.channel import Channel
from sampan.launch.protocol import SOCKET, ClassRef, ExecConfig, ExitRecord, Launched, Namespaces, ShimConfig, ShimState
from sampan.linux.readonly_file import open_readonly_file

logger = logging.getLogger(__name__)

_DESCRIPTORS, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
"""What this process began with, and containers get unless they ask for more; the daemon raises its own limit later."""

NO_NAMESPACES = Namespaces()
"""What a shim is given whose container makes all of its own."""

PATIENCE_S = 10.0
"""How long a daemon that has come back waits for the answer of a shim before it tells it to go on; it has six times that from then on,
for a disk that hangs may hold it, and its container runs."""

_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from sampan.launch.boot import boot; boot()"


class Shim:
    """A container's shim. Every operation raises the errors of the runtime driver, and `Unavailable` if the
    shim is gone.
    """

    def __init__(self, channel: Channel, container_id: str, pid: int) -> None:
        """Use `Zygote.spawn` or `Shim.connect`."""
        self.container_id = container_id
        self.pid = pid
        """The shim's own process."""
        self._channel = channel
        self._exits: dict[str, asyncio.Task[Any]] = {}

    @classmethod
    async def connect(cls, state_dir: Path) -> Shim:
        """Connect to a shim that lives already. Raises `Unavailable` if no one answers, `Unsupported` for
        another protocol. One that says nothing is told to go on, for it may have been stopped, and then killed.
        """
        channel = Channel.connect(state_dir, SOCKET, f"the shim in {state_dir}")
        pid, greeting = channel.peer_pid, asyncio.ensure_future(_greet(channel))
        try:
            for signum, seconds in ((signal.SIGCONT, PATIENCE_S), (signal.SIGKILL, 6 * PATIENCE_S)):
                if not (await asyncio.wait({greeting}, timeout=seconds))[0]:
                    logger.warning("the shim in %s does not answer: %s to process %d", state_dir, signum.name, pid)
                    with contextlib.suppress(ProcessLookupError):  # it has just ended
                        os.kill(pid, signum)
            return await greeting
        except BaseException:
            greeting.cancel()
            raise

    @property
    def closed(self) -> asyncio.Event:
        """Set when the connection is gone: after `delete` or `close`, or because the shim died."""
        return self._channel.closed

    async def launch(self) -> Launched:
        """Create and start the container. After an error only `delete` is left to do."""
        return Launched.from_data(await self._channel.request("launch"))

    async def recover(self, *, started_at_ns: int, paused: bool) -> bool:
        """Take up the container of a shim that died, in place of a launch; False if the driver can't go on with it.

        Raises `NotFound` if it was never created, `Unsupported` for a handle that the driver can't read. When it did not
        come to that, `close` lets the shim end.
        """
        recovered: bool = await self._channel.request("recover", started_at_ns=started_at_ns, paused=paused)
        return recovered

    async def attach(
        self, *, stdin: int = -1, stdout: int = -1, stderr: int = -1, stdin_eof_closes: bool = False
    ) -> None:
        """Connect streams, before or after the launch. With a terminal `stdout` carries all output.

        The shim gets copies of the descriptors (sockets, pipes), and closes its copies when the stream has
        ended and all was sent.
        The end of `stdin` closes the container's input, after the last byte, if `stdin_eof_closes`; else
        nothing.
        A stream that is read slowly holds the container back; one that breaks is dropped.
        """
        names, fds = _named(stdin, stdout, stderr)
        await self._channel.request("attach", fds, names=names, stdin_eof_closes=stdin_eof_closes)

    async def wait(self) -> ExitRecord:
        """Wait for the end of the container. Raises the launch's error if it fails; any number may wait."""
        return ExitRecord.from_data(await self._exit("", "wait"))

    async def wait_oom(self, seen: int) -> int:
        """Wait until memory has run out more often than `seen` times, and give how often it has. `Unsupported` by old shims."""
        count: int = await self._channel.request("wait_oom", seen=seen)
        return count

    async def signal(self, signum: int, everyone: bool = False) -> None:
        """Send a signal to the first process or to all. `Conflict` if the container isn't running."""
        await self._channel.request("signal", signum=signum, everyone=everyone)

    async def resize(self, height: int, width: int, exec_id: str = "") -> None:
        """Give a terminal its size in characters. No effect without a terminal."""
        await self._channel.request("resize", height=height, width=width, exec_id=exec_id)

    async def close_stdin(self, exec_id: str = "") -> None:
        """Let the process see the end of its input, after what was typed. No effect on a terminal."""
        await self._channel.request("close_stdin", exec_id=exec_id)

    async def exec(self, config: ExecConfig, *, stdin: int = -1, stdout: int = -1, stderr: int = -1) -> int:
        """Start one more process and give its pid. Streams as in `attach`; the end of `stdin` closes the
        process's input.
        """
        names, fds = _named(stdin, stdout, stderr)
        result: int = await self._channel.request("exec", fds, names=names, config=config.to_data())
        return result

    async def wait_exec(self, exec_id: str) -> ExitRecord:
        """Wait for the end of a process started by `exec`. `NotFound` if there is none, or it ended long
        ago.
        """
        return ExitRecord.from_data(await self._exit(exec_id, "wait_exec", exec_id=exec_id))

    async def state(self) -> ShimState:
        """Say what the shim knows."""
        return ShimState.from_data(await self._channel.request("state"))

    async def pause(self) -> None:
        """Freeze every process."""
        await self._channel.request("pause")

    async def resume(self) -> None:
        """Thaw every process."""
        await self._channel.request("resume")

    async def update(self, resources: Mapping[str, Any]) -> None:
        """Change limits: an OCI `linux.resources` object with what changes."""
        await self._channel.request("update", resources=dict(resources))

    async def stats(self) -> Stats:
        """Read the container's use."""
        return Stats.of_data(await self._channel.request("stats"))

    async def checkpoint(self, directory: Path, *, leave_running: bool) -> None:
        """Write the container's processes to files in an empty directory; afterwards it ends, unless it is to go on."""
        await self._channel.request("checkpoint", directory=str(directory), leave_running=leave_running)

    async def processes(self) -> tuple[int, ...]:
        """Give the pids of all processes of the container, in the shim's pid namespace."""
        return tuple(await self._channel.request("processes"))

    async def delete(self) -> None:
        """Remove what the runtime made, killing what still runs, and let the shim end. After an error it
        can be asked again.
        """
        await self._channel.request("delete")
        await self._channel.closed.wait()
        await self.close()

    async def discard(self) -> None:
        """End a shim that can't delete its container; what runs of that goes on, and is the caller's to end."""
        if not self.closed.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        await self.close()

    async def close(self) -> None:
        """Drop the connection; the shim and the container go on."""
        self._channel.close()
        await asyncio.gather(*self._exits.values(), return_exceptions=True)

    async def _exit(self, key: str, op: str, **fields: Any) -> Any:
        """Let all who wait for one process share one request, so that a cancelled wait leaves nothing in
        the shim.
        """
        task = self._exits.get(key)
        if task is None:
            task = asyncio.ensure_future(self._channel.request(op, **fields))
            task.add_done_callback(lambda done: self._forget(key, done))
            self._exits[key] = task
        return await asyncio.shield(task)

    def _forget(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._exits[key]
        if not task.cancelled():
            task.exception()  # nobody may be left who waits for it


class Zygote:
    """The process that forks shims. `died` is set when it is gone: start another; the shims go on."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        """Use `start`."""
        self.died = asyncio.Event()
        self._process = process
        self._channel = channel
        self._pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @classmethod
    async def start(cls, preload: Sequence[str], log: ClassRef | None = None, scratch: Path | None = None) -> Zygote:
        """Start the zygote and let it import `preload`, and rehearse with the log driver that most containers have. A module that
        fails to import is logged; its shims will say why. It runs from a read-only view of the interpreter, so that no container
        can write to that through the process that becomes its own (ADR 13). What it rehearses with lies below `scratch`, or where
        the system has such files, and stays there if the caller is killed meanwhile.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = [entry for entry in sys.path if entry]
        executable = -1
        try:
            executable = open_readonly_file(os.path.realpath(sys.executable))
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, str(theirs.fileno()), str(executable), *path],
                executable=f"/proc/self/fd/{executable}",
                pass_fds=(theirs.fileno(), executable),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            ours.close()
            raise System(f"start the zygote {sys.executable}: {error.strerror}") from error
        finally:
            theirs.close()
            if executable >= 0:
                os.close(executable)
        zygote = cls(process, Channel(ours, "the zygote"))
        with tempfile.TemporaryDirectory(prefix="sampan-zygote-", dir=scratch) as rehearsal:
            try:
                failures = await zygote._channel.request(
                    "preload", modules=list(preload), log=[log.module, log.name] if log else None,
                    scratch=rehearsal, descriptors=_DESCRIPTORS,
                )
            except BaseException:
                await zygote.close()
                raise
        for module, reason in failures.items():
            logger.warning("preload %s: %s", module, reason)
        return zygote

    @property
    def pid(self) -> int:
        """The zygote's process."""
        return self._process.pid

    async def spawn(self, config: ShimConfig, namespaces: Namespaces = NO_NAMESPACES) -> Shim:
        """Fork a shim for a container that is to be launched in `namespaces`, which stay the caller's.

        Raises `SampanError` if it can't be set up (log, driver). A shim whose daemon goes away before the launch ends by itself.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = Channel(ours, f"the shim of container {config.id}")
        names, fds = namespaces.named
        # The configuration waits in the shim's own socket, and its answer is the zygote's too: see `zygote`.
        greeting = asyncio.ensure_future(_greet(channel, fds, namespaces=names, config=config.to_data()))
        try:
            await self._channel.tell([theirs.fileno()])
        except BaseException:
            greeting.cancel()
            channel.close()
            raise
        finally:
            theirs.close()  # so that the end of the shim can be seen
        return await greeting

    async def close(self) -> None:
        """Let the zygote end and wait for it. Its shims go on."""
        self._channel.close()
        await self.died.wait()

    def _reap(self) -> None:
        if self._process.poll() is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._channel.close()
        self.died.set()


async def _greet(channel: Channel, fds: Sequence[int] = (), **fields: Any) -> Shim:
    """Say hello: learn who is there, and refuse another major version of the protocol."""
    try:
        hello = await channel.request("hello", fds, version=protocol.VERSION, **fields)
        major, minor = hello["version"]
        if major != protocol.VERSION[0]:
            raise Unsupported(
                f"talk to {channel.peer}: it speaks version {major}.{minor} of the protocol, not {protocol.VERSION[0]}",
                remedy="stop the container with the Sampan that started it",
            )
    except BaseException:
        channel.close()
        raise
    return Shim(channel, hello["container"], hello["pid"])


def _named(stdin: int, stdout: int, stderr: int) -> tuple[list[str], list[int]]:
    given = {name: fd for name, fd in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)) if fd >= 0}
    return list(given), list(given.values())
