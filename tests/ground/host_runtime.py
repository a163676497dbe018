"""A real runtime driver for tests of the launch processes: it runs programs of the host, in a session of
their own, uncontained.

The shim and its children load it by name. Settings: `hang` or `fail` name an operation that does so; with `recover` a
container goes on without its shim, and its streams with it as long as it writes nothing meanwhile.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from sampan.api.driver import Probe
from sampan.api.errors import Conflict, NotFound, Unsupported
from sampan.api.runtime import (
    CreateRequest,
    ExecRequest,
    Handle,
    MemoryStats,
    PidsStats,
    Recovered,
    RuntimeDriver,
    Stats,
    Stdio,
)
from sampan.linux.exits import exit_code


class HostRuntime(RuntimeDriver):
    name = "host"
    preload = True

    @classmethod
    def probe(cls, root: Path) -> Probe:
        return Probe(True)

    def create(self, request: CreateRequest) -> Handle:
        self._misbehave("create")
        gate = self.context.state / "gate"
        os.mkfifo(gate)
        pid = _spawn(request.spec["process"], request.stdio, gate)
        return Handle(pid, data={"gate": str(gate)})

    def start(self, handle: Handle) -> None:
        self._misbehave("start")
        with Path(handle.data["gate"]).open("wb") as gate:
            gate.write(b"!")

    def signal(self, handle: Handle, signum: int, *, everyone: bool = False) -> None:
        os.killpg(handle.pid, signum) if everyone else os.kill(handle.pid, signum)

    def delete(self, handle: Handle) -> None:
        self._misbehave("delete")
        try:
            os.killpg(handle.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        Path(handle.data["gate"]).unlink(missing_ok=True)

    def exec(self, handle: Handle, request: ExecRequest) -> int:
        self._misbehave("exec")
        return _spawn(request.process, request.stdio, None)

    def pause(self, handle: Handle) -> None:
        self._misbehave("pause")
        os.killpg(handle.pid, signal.SIGSTOP)

    def resume(self, handle: Handle) -> None:
        os.killpg(handle.pid, signal.SIGCONT)

    def update(self, handle: Handle, resources: Mapping[str, Any]) -> None:
        raise Conflict("update: limits of the host's own processes are not ours")

    def stats(self, handle: Handle) -> Stats:
        return Stats(1, memory=MemoryStats(usage=2, limit=3), pids=PidsStats(4))

    def processes(self, handle: Handle) -> tuple[int, ...]:
        return (handle.pid,)

    def oom_killed(self, handle: Handle) -> bool:
        self._misbehave("oom_killed")
        return False

    def recover(self, handle: Handle) -> Recovered | None:
        self._misbehave("recover")
        if handle.version != 1:
            raise Unsupported(f"recover: handle version {handle.version} is of another release")
        if not self.config.get("recover"):
            return None
        pidfd = os.pidfd_open(handle.pid)

        def wait() -> int:
            self._misbehave("wait")
            return exit_code(handle.pid, pidfd)

        return Recovered(wait, Stdio(stdout=_reopen(handle.pid, 1), stderr=_reopen(handle.pid, 2)))

    def _misbehave(self, operation: str) -> None:
        if self.config.get("fail") == operation:
            raise RuntimeError("a bug of the driver")
        if self.config.get("hang") == operation:
            time.sleep(3600)


def _reopen(pid: int, number: int) -> int:
    return os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)


def _spawn(process: Mapping[str, Any], stdio: Stdio, gate: Path | None) -> int:
    """Fork twice, so that the process becomes the shim's; an exec that fails is told over a pipe that
    closes on exec.
    """
    number, to_number = os.pipe2(os.O_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        pid = os.fork()
        if pid == 0:
            os.close(to_number)
            os.close(reader)
            _become(process, stdio, gate, writer)
        os.write(to_number, b"%d" % pid)
        os._exit(0)
    os.close(to_number)
    os.close(writer)
    os.waitpid(middle, 0)
    with os.fdopen(number, "rb") as numbers, os.fdopen(reader, "rb") as answer:
        pid = int(numbers.read(16))
        failure = answer.read() if gate is None else b""
    if failure:
        raise NotFound(f"exec {process['args'][0]}: {failure.decode()}")
    return pid


def _become(process: Mapping[str, Any], stdio: Stdio, gate: Path | None, writer: int) -> NoReturn:
    try:
        os.setsid()
        if stdio.console >= 0:
            master, slave = os.openpty()
            with socket.socket(fileno=stdio.console) as console:
                socket.send_fds(console, [b"m"], [master])
            os.close(master)
            fds = [slave, slave, slave]
        else:
            fds = [stdio.stdin, stdio.stdout, stdio.stderr]
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        if stdio.console >= 0:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if gate is not None:
            os.close(writer)
            writer = -1
            _pass(gate)
        os.closerange(3, writer if writer > 0 else 1 << 20)
        if writer > 0:
            os.closerange(writer + 1, 1 << 20)
        os.execvpe(process["args"][0], process["args"], {"PATH": os.defpath, "HOME": "/"})
    except OSError as error:
        if writer > 0:
            os.write(writer, os.strerror(error.errno or 0).encode())
    os._exit(127)


def _pass(gate: Path) -> None:
    with gate.open("rb") as opened:
        opened.read(1)
