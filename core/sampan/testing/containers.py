"""Stands where the shim stands: calls a runtime driver in forked children, waits for the processes.

The process must be single-threaded while a call runs, and a child subreaper (`subreaper`) all the time.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from sampan.api.errors import SampanError, from_wire, to_wire
from sampan.api.runtime import (
    CreateRequest,
    ExecRequest,
    Handle,
    Mount,
    Recovered,
    RuntimeContext,
    RuntimeDriver,
    Spec,
    Stats,
    Stdio,
)
from sampan.linux.processes import fork
from sampan.linux.syscalls import PR_SET_CHILD_SUBREAPER, prctl

__all__ = ["Container", "Output", "Process", "call_in_child", "subreaper"]

TIMEOUT = 20.0
"""Seconds that any one thing may take before the test fails."""


LOST = 255
"""What `Process.wait` gives for a process that somebody else collects."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a process left: its exit code, 128 + n for a signal as Docker counts, and its bytes."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output without white space at its ends."""
        return self.stdout.decode().strip()

    @property
    def lines(self) -> list[str]:
        """Standard output by lines."""
        return self.stdout.decode().splitlines()


@contextmanager
def subreaper() -> Iterator[None]:
    """Adopt orphans, as a shim does; at the end collect those that have ended. One that still runs leaks."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)
        _collect_strays()


def call_in_child(operation: Callable[[], Any]) -> Any:
    """Run `operation` in a forked child and give its result, which must be JSON; raise its `SampanError`.

    Children that end meanwhile are collected: the first process of a pid namespace is not gone before the
    others in it are, zombies too.

    Raises `AssertionError` with the traceback for any other error, for a child that dies and for one that
    is late.
    """
    _collect_strays()  # not after the call: its result may name a process that has ended already
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = fork()  # as a shim's children: no handler of Python's runs in them
        if pid == 0:
            _answer(operation, theirs)
        theirs.close()
        if _is_ready_before_the_deadline(ours):
            answer = json.loads(ours.recv(1 << 18) or "null")
        else:
            os.kill(pid, signal.SIGKILL)
            answer = {"traceback": f"no answer within {TIMEOUT:.0f} s"}
        _, status = os.waitpid(pid, 0)
    if answer is None:
        raise AssertionError(
            f"the driver's process ended with {os.waitstatus_to_exitcode(status)} and no answer"
        )
    return _result(answer)


def _is_ready_before_the_deadline(answer: socket.socket) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while True:
        running = {process.fileno(): process for process in _awaited.values()}
        left = max(0, deadline - time.monotonic())
        ready, _, _ = select.select([answer.fileno(), *running], [], [], left)
        if not ready or answer.fileno() in ready:
            return bool(ready)
        for pidfd in ready:
            running[pidfd].wait()


def _answer(operation: Callable[[], Any], to: socket.socket) -> None:
    """The child's part. It never returns, and runs nothing of what the parent would run at its end."""
    try:
        to.send(json.dumps(_attempt(operation)).encode())
    finally:
        os._exit(0)


def _attempt(operation: Callable[[], Any]) -> dict[str, Any]:
    """Run it, and give its result or what it raised as data."""
    try:
        return {"result": operation()}
    except SampanError as error:
        return {"error": to_wire(error)}
    except BaseException:
        return {"traceback": traceback.format_exc()}


def _result(answer: dict[str, Any]) -> Any:
    """Give the result, or raise what was raised."""
    if "traceback" in answer:
        raise AssertionError(f"the driver broke its contract:\n{answer['traceback']}")
    if "error" in answer:
        raise from_wire(answer["error"])
    return answer["result"]


class Process:
    """A process of a container and our ends of its stdio: three pipes, or the terminal's master."""

    def __init__(self, *, tty: bool = False) -> None:
        """Make the pipes, or the socket over which the terminal comes."""
        self.pid = -1
        self._pidfd = -1
        self._code: int | None = None
        self._console: socket.socket | None = None
        self._theirs: list[int] = []
        self.stdin = self.stdout = self.stderr = -1
        if tty:
            self._console, program_end = socket.socketpair()
            self._theirs = [program_end.detach()]
            self.stdio = Stdio(console=self._theirs[0])
        else:
            stdin, self.stdin = os.pipe()
            self.stdout, stdout = os.pipe()
            self.stderr, stderr = os.pipe()
            self._theirs = [stdin, stdout, stderr]
            self.stdio = Stdio(stdin, stdout, stderr)

    def started(self, pid: int) -> None:
        """Take note of the pid and let go of the process's own ends; with a terminal, take its master."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        _awaited[pid] = self
        self._drop_theirs()
        if self._console is not None:
            self._console.settimeout(TIMEOUT)
            _, (master, *_), _, _ = socket.recv_fds(self._console, 1, 1)
            self.stdin = self.stdout = master

    def lose_streams(self) -> None:
        """Let go of our ends, as a shim does that dies."""
        for fd in {self.stdin, self.stdout, self.stderr} - {-1}:
            os.close(fd)
        self.stdin = self.stdout = self.stderr = -1

    def disown(self, kept: Mapping[str, int]) -> None:
        """Leave it to whoever adopts it, and own the ends of its streams that a driver has kept, by their names in `Stdio`."""
        _awaited.pop(self.pid, None)
        self._code = LOST
        master = kept.get("console", -1)
        self.stdin = kept.get("stdin", master)
        self.stdout = kept.get("stdout", master)
        self.stderr = kept.get("stderr", -1)

    def fileno(self) -> int:
        """Give the pidfd, which becomes readable at the exit."""
        return self._pidfd

    def write(self, data: bytes) -> None:
        """Write all of `data` to stdin or the terminal."""
        while data:
            data = data[os.write(self.stdin, data) :]

    def resize(self, height: int, width: int) -> None:
        """Change the terminal's size, in characters."""
        fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read_until(self, wanted: bytes) -> bytes:
        """Read stdout up to `wanted`; `AssertionError` with what came if it doesn't come."""
        seen = b""
        deadline = time.monotonic() + TIMEOUT
        while wanted not in seen:
            ready, _, _ = select.select([self.stdout], [], [], max(0, deadline - time.monotonic()))
            data = _read(self.stdout) if ready else b""
            if not data:
                raise AssertionError(f"waited for {wanted!r} on stdout and got {seen!r}")
            seen += data
        return seen

    def read_to_end(self) -> bytes:
        """Read stdout until nobody holds its other end."""
        data = b""
        while select.select([self.stdout], [], [], TIMEOUT)[0] and (more := _read(self.stdout)):
            data += more
        return data

    def is_silent(self, seconds: float) -> bool:
        """Say whether nothing can be read from stdout for so long."""
        return not select.select([self.stdout], [], [], seconds)[0]

    def finish(self, stdin: bytes = b"") -> Output:
        """Write `stdin`, close it, read both outputs to their end and wait for the exit."""
        streams = {self.stdout: b"", **({self.stderr: b""} if self.stderr >= 0 else {})}
        open_streams = set(streams)
        deadline = time.monotonic() + TIMEOUT
        if self._console is None:
            os.set_blocking(self.stdin, False)
            if not stdin:
                self._close_stdin()
        while open_streams:
            writers = [self.stdin] if stdin else []
            readable, writable, _ = select.select(
                open_streams, writers, [], max(0, deadline - time.monotonic())
            )
            if not readable and not writable:
                raise AssertionError(
                    f"process {self.pid} is not done after {TIMEOUT:.0f} s: {list(streams.values())}"
                )
            for fd in readable:
                data = _read(fd)
                streams[fd] += data
                if not data:
                    open_streams.remove(fd)
            if writable:
                try:
                    stdin = stdin[os.write(self.stdin, stdin) :]
                except BrokenPipeError:
                    stdin = b""
                if not stdin and self._console is None:
                    self._close_stdin()
        code = self.wait()
        return Output(code, streams[self.stdout], streams.get(self.stderr, b""))

    def wait(self) -> int:
        """Wait for the exit by pidfd, collect it, and give the code."""
        if self._code is None:
            self._await_end()
            del _awaited[self.pid]
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self._code = code if code >= 0 else 128 - code
        return self._code

    def _await_end(self) -> None:
        """Wait until it has ended. Others that end meanwhile are collected: the first process of a pid namespace does not go
        before them.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            running = {process.fileno(): process for process in _awaited.values()}
            ready, _, _ = select.select(running, [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"process {self.pid} still runs after {TIMEOUT:.0f} s")
            if self._pidfd in ready:
                return
            for pidfd in ready:
                running[pidfd].wait()

    def close(self) -> None:
        """Let go of all descriptors, and of the process if it was not waited for."""
        _awaited.pop(self.pid, None)
        self._drop_theirs()
        for fd in {self.stdin, self.stdout, self.stderr, self._pidfd} - {-1}:
            os.close(fd)
        self.stdin = self.stdout = self.stderr = self._pidfd = -1
        if self._console is not None:
            self._console.close()

    def _close_stdin(self) -> None:
        os.close(self.stdin)
        self.stdin = -1

    def _drop_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs = []


class Recovery:
    """A child that recovers a container, says so, and goes on to wait for its end."""

    def __init__(self, recover: Callable[[], Recovered | None]) -> None:
        """Fork it. `recover` is the driver's."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = fork()
        if pid == 0:
            self._socket.close()
            self._work(recover, theirs)
        theirs.close()
        self._pidfd = os.pidfd_open(pid)
        self._socket.settimeout(TIMEOUT)

    def begin(self) -> dict[str, int] | None:
        """Give the streams that the driver has kept, now ours, by their names in `Stdio`; None if it can't go on."""
        answer, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, 3, socket.MSG_CMSG_CLOEXEC)
        names = _result(json.loads(answer))
        return None if names is None else dict(zip(names, fds, strict=True))

    def wait(self) -> int:
        """Give the exit code that the driver found."""
        return int(_result(json.loads(self._socket.recv(1 << 16))))

    def close(self) -> None:
        """End the child, as the death of its shim would. Idempotent."""
        if self._pidfd < 0:
            return
        with suppress(ProcessLookupError, ChildProcessError):  # it may have ended, and been collected as a stray
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        self._socket.close()

    def _work(self, recover: Callable[[], Recovered | None], to: socket.socket) -> NoReturn:
        found: Recovered | None = None

        def begin() -> list[str] | None:
            nonlocal found
            found = recover()
            return None if found is None else list(found.streams.descriptors)

        try:
            answer = _attempt(begin)
            fds = list(found.streams.descriptors.values()) if found is not None else []
            socket.send_fds(to, [json.dumps(answer).encode()], fds)
            for fd in fds:
                os.close(fd)
            if found is not None:
                to.send(json.dumps(_attempt(found.wait)).encode())
        finally:
            os._exit(0)


_awaited: dict[int, Process] = {}
"""Processes that run, or whose exit code is still to be asked for, by pid."""


@dataclass(slots=True)
class Container:
    """One container of the driver under test. Every call makes a new driver in a new process, with the
    handle as JSON."""

    driver_class: type[RuntimeDriver]
    driver_config: Mapping[str, Any]
    id: str
    directory: Path
    spec: Spec
    rootfs: tuple[Mount, ...]
    netns: int = -1
    userns: int = -1
    handle: Handle | None = None
    main: Process = field(init=False)
    execs: list[Process] = field(init=False, default_factory=list)
    recovered: Recovery | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Make the first process's stdio."""
        self.main = Process(tty=self.spec["process"]["terminal"])

    def create(self) -> Container:
        """Write the bundle and call the driver's `create`."""
        bundle, state = self.directory / "bundle", self.directory / "state"
        bundle.mkdir(parents=True)
        state.mkdir()
        (bundle / "config.json").write_text(json.dumps(self.spec))
        request = CreateRequest(self.id, bundle, self.spec, self.rootfs, self.main.stdio, self.netns, self.userns)
        self.handle = _handle(call_in_child(lambda: asdict(self._driver().create(request))))
        self.main.started(self.handle.pid)
        return self

    def start(self) -> Container:
        """Call `start`."""
        self._call("start")
        return self

    def run(self, stdin: bytes = b"") -> Output:
        """Create, start, and go on to the end of the first process."""
        self.create().start()
        return self.main.finish(stdin)

    def start_exec(self, process: Spec, stdin: int = -1) -> Process:
        """Call `exec` and give the process that runs, with the descriptor `stdin` for its own if there is one."""
        started = Process(tty=process["terminal"])
        if stdin >= 0:
            started.stdio = replace(started.stdio, stdin=stdin)
        self.execs.append(started)
        request = ExecRequest(f"exec{len(self.execs)}", process, started.stdio)
        started.started(self._call("exec", request))
        return started

    def exec(self, process: Spec, stdin: bytes = b"") -> Output:
        """Run `process` to its end."""
        return self.start_exec(process).finish(stdin)

    def signal(self, signum: int, *, everyone: bool = False) -> None:
        """Call `signal`."""
        self._call("signal", signum, everyone=everyone)

    def pause(self) -> None:
        """Call `pause`."""
        self._call("pause")

    def resume(self) -> None:
        """Call `resume`."""
        self._call("resume")

    def update(self, resources: Spec) -> None:
        """Call `update`."""
        self._call("update", resources)

    def stats(self) -> Stats:
        """Call `stats`."""
        return Stats.of_data(call_in_child(lambda: asdict(self._driver().stats(self._handle()))))

    def processes(self) -> tuple[int, ...]:
        """Call `processes`."""
        return tuple(self._call("processes"))

    def oom_killed(self) -> bool:
        """Call `oom_killed`."""
        return bool(self._call("oom_killed"))

    def recover(self) -> bool:
        """Stand for a fresh shim after the death of the one before: its streams are lost, and `recover` may give others.

        The first process is not collected any more, for it would not be ours to collect.
        """
        self.main.lose_streams()
        if self.recovered is not None:
            self.recovered.close()
        self.recovered = Recovery(lambda: self._driver().recover(self._handle()))
        streams = self.recovered.begin()
        if streams is not None:
            self.main.disown(streams)
        return streams is not None

    def delete(self) -> None:
        """Call `delete`, then collect the first process, which must have ended."""
        self._call("delete")
        self.main.wait()

    def close(self) -> None:
        """Delete what was created, and let go of everything; to be called however a test ended."""
        try:
            if self.handle is not None:
                self.delete()
        finally:
            for process in (self.main, *self.execs):
                process.close()
            if self.recovered is not None:
                self.recovered.close()

    def _driver(self) -> RuntimeDriver:
        return self.driver_class(RuntimeContext(self.directory / "state"), self.driver_config)

    def _handle(self) -> Handle:
        """Give the handle as a later shim would find it: read from JSON."""
        assert self.handle is not None, "the container was not created"
        return _handle(json.loads(json.dumps(asdict(self.handle))))

    def _call(self, operation: str, *args: Any, **options: Any) -> Any:
        return call_in_child(lambda: getattr(self._driver(), operation)(self._handle(), *args, **options))


def _handle(data: dict[str, Any]) -> Handle:
    return Handle(data["pid"], data["version"], data["data"])


def _read(fd: int) -> bytes:
    """Read what is there. A terminal whose other side has closed answers EIO: its end of file."""
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return b""


def _collect_strays() -> None:
    """Collect zombies that nobody waits for, as a shim does with orphans that a runtime leaves to it."""
    for pid in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
        if pid not in _awaited:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
