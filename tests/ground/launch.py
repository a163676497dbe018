"""What tests of the launch processes share: a zygote and containers run by the host runtime."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from sampan.api.logs import LogContext, LogQuery
from sampan.launch.client import Shim, Zygote
from sampan.launch.protocol import ClassRef, ShimConfig
from sampan_log_json_file.driver import JsonFile

RUNTIME = ClassRef("ground.host_runtime", "HostRuntime")
LOG = ClassRef("sampan_log_json_file.driver", "JsonFile")


class Harness:
    """A zygote, and shims that are deleted at the end."""

    def __init__(self, directory: Path, zygote: Zygote) -> None:
        self.directory = directory
        self.zygote = zygote
        self.shims: list[Shim] = []

    def config(self, *args: str, name: str = "c", **changes: Any) -> ShimConfig:
        bundle = self.directory / name
        (bundle / "state").mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps({"process": {"args": args}}))
        base = str(bundle)
        config = ShimConfig(name, base, base, f"{base}/state", RUNTIME, log=LOG, log_directory=base)
        return replace(config, **changes)

    async def spawn(self, *args: str, **changes: Any) -> Shim:
        shim = await self.zygote.spawn(self.config(*args, **changes))
        self.shims.append(shim)
        return shim

    async def logged(self, name: str = "c") -> bytes:
        records = JsonFile.read(LogContext(name, f"{self.directory}/{name}", {}), LogQuery())
        return b"".join([record.data async for record in records])


@contextlib.asynccontextmanager
async def harness(directory: Path) -> AsyncIterator[Harness]:
    zygote = await Zygote.start(["ground.host_runtime", LOG.module], LOG)
    running = Harness(directory, zygote)
    try:
        yield running
    finally:
        while Attached.opened:
            Attached.opened.pop().close()
        for shim in running.shims:
            if not shim.closed.is_set():
                await shim.delete()
        await zygote.close()


Run = Callable[[Callable[[Harness], Awaitable[None]]], None]
"""Runs a test's coroutine with a harness, for so long at most."""


def runner(directory: Path) -> Run:
    """Give what runs a test with a harness in a directory."""

    def run(test: Callable[[Harness], Awaitable[None]]) -> None:
        async def within() -> None:
            async with asyncio.timeout(60), harness(directory) as running:
                await test(running)

        asyncio.run(within())

    return run


class Attached:
    """Our ends of an attached process's streams; the harness closes what a failing test leaves open."""

    opened: ClassVar[list[Attached]] = []

    def __init__(self) -> None:
        self.opened.append(self)
        self.ours: dict[str, socket.socket] = {}
        self._theirs: dict[str, socket.socket] = {}
        for name in ("stdin", "stdout", "stderr"):
            self.ours[name], self._theirs[name] = socket.socketpair()
            self.ours[name].setblocking(False)

    def fds(self, *names: str) -> dict[str, int]:
        return {name: self._theirs[name].fileno() for name in names or self._theirs}

    def handed_over(self) -> None:
        for sock in self._theirs.values():
            sock.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.ours["stdin"], data)

    def end_input(self) -> None:
        self.ours["stdin"].shutdown(socket.SHUT_WR)

    async def read(self, name: str = "stdout", until: bytes | None = None) -> bytes:
        data = b""
        while part := await asyncio.get_running_loop().sock_recv(self.ours[name], 1 << 16):
            data += part
            if until is not None and until in data:
                break
        return data

    def close(self) -> None:
        for sock in (*self.ours.values(), *self._theirs.values()):
            sock.close()


async def attach(shim: Shim, *names: str, stdin_eof_closes: bool = False) -> Attached:
    streams = Attached()
    await shim.attach(**streams.fds(*names), stdin_eof_closes=stdin_eof_closes)
    streams.handed_over()
    return streams


def open_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
