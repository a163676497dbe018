"""Runtime operations, each in a forked child: driver code never runs in the shim's loop, and may hang or
crash there.

The child gets the driver freshly built, and no descriptors but those it is given. It answers one JSON
object over a pipe and
exits; its answer counts once it is reaped, for only then have its own children become the shim's.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sampan.api.errors import SampanError, System, Unavailable, from_wire, to_wire
from sampan.launch.loop import IN, Loop, Timer
from sampan.linux.syscalls import PR_SET_PDEATHSIG, prctl

logger = logging.getLogger(__name__)

Work = Callable[[], Any]
"""What runs in the child; its result, plain data, is the answer."""

Done = Callable[[Any, SampanError | None], None]
"""What is called in the shim with the answer, or with the error."""


class Operation:
    """A running child of one operation."""

    __slots__ = ("answer", "done", "makes_process", "name", "pid", "pipe", "timed_out", "timer")

    def __init__(self, name: str, pid: int, pipe: int, makes_process: bool, done: Done) -> None:
        """`pipe` is where the answer comes from, ours from now on."""
        self.name = name
        self.pid = pid
        self.pipe = pipe
        self.makes_process = makes_process
        self.done = done
        self.answer = b""
        self.timed_out = False
        self.timer: Timer | None = None


class Operations:
    """All operations that run now."""

    def __init__(self, loop: Loop, container_id: str, timeout_s: float) -> None:
        """`timeout_s` ends each of them by SIGKILL."""
        self._loop = loop
        self._container_id = container_id
        self._timeout_s = timeout_s
        self._running: dict[int, Operation] = {}

    @property
    def pids(self) -> list[int]:
        """The children that run now."""
        return list(self._running)

    @property
    def making_process(self) -> bool:
        """Whether a child of the shim may be a process that an operation has made and not told us of yet."""
        return any(operation.makes_process for operation in self._running.values())

    def run(
        self,
        name: str,
        work: Work,
        done: Done,
        *,
        fds: Sequence[int] = (),
        makes_process: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Run `work` in a child that keeps only `fds`, and call `done` when it has been reaped."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _child(f"{name} container {self._container_id}", work, writer, fds)
        os.close(writer)
        os.set_blocking(reader, False)
        operation = Operation(name, pid, reader, makes_process, done)
        limit = self._timeout_s if timeout_s is None else timeout_s
        operation.timer = self._loop.call_later(limit, lambda: self._expire(operation))
        self._running[pid] = operation
        self._loop.watch(reader, IN, lambda: self._take(operation))

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the shim has been reaped; finish its operation. False if it was none of ours."""
        operation = self._running.pop(pid, None)
        if operation is None:
            return False
        while self._read(operation):
            pass
        self._loop.unwatch(operation.pipe)
        os.close(operation.pipe)
        if operation.timer is not None:
            operation.timer.cancel()
        result, error = self._outcome(operation, status)
        operation.done(result, error)
        return True

    def _take(self, operation: Operation) -> None:
        self._read(operation)

    def _read(self, operation: Operation) -> bool:
        try:
            data = os.read(operation.pipe, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._loop.unwatch(operation.pipe)
        operation.answer += data
        return bool(data)

    def _expire(self, operation: Operation) -> None:
        operation.timed_out = True
        os.killpg(operation.pid, signal.SIGKILL)

    def _outcome(self, operation: Operation, status: int) -> tuple[Any, SampanError | None]:
        what = f"{operation.name} container {self._container_id}"
        try:
            answer = json.loads(operation.answer)
        except ValueError:
            if operation.timed_out:
                return None, Unavailable(
                    f"{what}: the runtime driver did not answer in time and was killed",
                    remedy="try again, or remove the container with force",
                )
            code = os.waitstatus_to_exitcode(status)
            return None, System(f"{what}: the runtime driver ended without an answer (status {code})")
        if "error" in answer:
            return None, from_wire(answer["error"])
        return answer["result"], None


def _child(what: str, work: Work, writer: int, fds: Sequence[int]) -> NoReturn:
    """Do the work and leave, whatever happens."""
    code = 1
    try:
        _isolate([0, 1, 2, writer, *fds])
        answer = json.dumps({"result": work()})
        code = 0
    except SampanError as error:
        answer = json.dumps({"error": to_wire(error)})
    except BaseException as error:
        logger.exception("%s: the runtime driver raised what it should not", what)
        text = f"{what}: the runtime driver failed: {type(error).__name__}: {error}"
        answer = json.dumps({"error": to_wire(System(text, remedy="see shim.log of the container"))})
    try:
        rest = memoryview(answer.encode())
        while rest:
            rest = rest[os.write(writer, rest) :]
    finally:
        os._exit(code)


def _isolate(keep: Sequence[int]) -> None:
    """Put back what Python and the shim changed, close what is the shim's, and die with it."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)  # so that helpers of a driver that hangs are killed with it
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    low = 0
    for fd in sorted({fd for fd in keep if fd >= 0}):
        if low < fd:  # closerange(0, 0) would close all (Python 3.11)
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)


def monotonic_ns() -> int:
    """Give the clock of spans, the same in every process."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
