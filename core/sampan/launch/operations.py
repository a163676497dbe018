"""Runtime operations, each in a forked child: driver code never runs in the shim's loop, and may hang or
crash there.

The child gets the driver freshly built, and no descriptors but those it is given. It takes its steps one after
the other, answers each with a line of JSON over a pipe and exits. The answer to its last step counts once it is
reaped, for only then have its own children become the shim's; the others count at once, and so does the last where
the process that it has made is the shim's child already (`CLONE_PARENT`): the end of the child takes the kernel a while.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sampan.api.errors import SampanError, System, Unavailable, from_wire, to_wire
from sampan.launch.loop import IN, Loop, Timer
from sampan.linux import messages
from sampan.linux.syscalls import PR_SET_PDEATHSIG, prctl

logger = logging.getLogger(__name__)

Work = Callable[[], Any]
"""What runs in the child; its result, plain data, is the answer."""

Done = Callable[[Any, SampanError | None], None]
"""What is called in the shim with the answer, or with the error."""


_given_limit: tuple[int, int] | None = None
"""The limit of descriptors that operations have, if it isn't the shim's."""


def raise_descriptor_limit() -> None:
    """Have as many descriptors as may be, in this process: each attached stream and each exec takes some. Operations, and with
    them the container, keep the limit that there was.
    """
    global _given_limit
    _given_limit = _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing for a child to do, whatever became of the steps before. `name` is for errors; it has `timeout_s`
    if that is less than what all operations have, and all the time in the world if that is None. `made` finds in the
    result the process that the step has made, if it makes one.
    """

    name: str
    work: Work
    done: Done
    timeout_s: float | None = float("inf")
    made: Callable[[Any], int] | None = None


class Operation:
    """A child and what it has still to do."""

    __slots__ = ("answers", "gate", "makes_process", "pid", "pipe", "steps", "timed_out", "timer")

    def __init__(self, pid: int, gate: int, pipe: int, makes_process: bool, steps: Sequence[Step]) -> None:
        """The child begins when `gate` is written to; `pipe` is where the answers come from. Both are ours now."""
        self.pid = pid
        self.gate = gate
        self.pipe = pipe
        self.makes_process = makes_process
        self.steps = list(steps)
        self.answers = b""
        self.timed_out = False
        self.timer: Timer | None = None


class Operations:
    """All operations that run now."""

    def __init__(self, loop: Loop, container_id: str, timeout_s: float) -> None:
        """`timeout_s` ends each step by SIGKILL of the child."""
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

    def run(self, *steps: Step, fds: Sequence[int] = (), makes_process: bool = False) -> None:
        """Take the steps in a child that keeps only `fds`, and call each one's `done`; at once, with an error, if there is no room
        for a child. Nothing is raised: whoever runs this may be the loop, which would end with all that the shim knows.
        """
        try:
            operation = self.prepare(*steps, fds=fds, makes_process=makes_process)
        except OSError as error:
            for step in steps:
                step.done(None, System(f"{step.name} container {self._container_id}: {error.strerror}"))
            return
        self.begin(operation)

    def prepare(self, *steps: Step, fds: Sequence[int] = (), makes_process: bool = False) -> Operation:
        """Fork the child ahead of time: it takes its steps once it is told to `begin`. Raises `OSError`."""
        hold, gate = os.pipe2(os.O_CLOEXEC)
        reader = writer = -1
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
        except OSError:
            for fd in (hold, gate, reader, writer):
                if fd >= 0:
                    os.close(fd)
            raise
        if pid == 0:
            _child(self._container_id, steps, hold, writer, fds)
        os.close(hold)
        os.close(writer)
        os.set_blocking(reader, False)
        operation = Operation(pid, gate, reader, makes_process, steps)
        self._running[pid] = operation
        self._loop.watch(reader, IN, lambda: self._take(operation))
        return operation

    def begin(self, operation: Operation) -> None:
        """Let a prepared child go. Its death before that is told by `done` as well."""
        try:
            os.write(operation.gate, b"!")
        except BrokenPipeError:
            pass
        os.close(operation.gate)
        operation.gate = -1
        self._set_timer(operation)

    def abandon(self, operation: Operation) -> None:
        """End a prepared child that is not to begin. Nothing is told."""
        os.kill(operation.pid, signal.SIGKILL)
        os.waitpid(operation.pid, 0)
        del self._running[operation.pid]
        self._close(operation)

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the shim has been reaped; finish its operation. False if it was none of ours."""
        operation = self._running.get(pid)
        if operation is None:
            return False
        while self._read(operation):
            pass
        del self._running[pid]
        self._close(operation)
        answers = operation.answers.split(b"\n")
        for number, step in enumerate(operation.steps):
            answer = answers[number] if number < len(answers) else b""
            step.done(*self._outcome(operation, step, answer, status))
        return True

    def _close(self, operation: Operation) -> None:
        """Let go of pipe, gate and timer. Idempotent."""
        if operation.pipe >= 0:
            self._loop.unwatch(operation.pipe)
            os.close(operation.pipe)
            operation.pipe = -1
        if operation.gate >= 0:
            os.close(operation.gate)
            operation.gate = -1
        if operation.timer is not None:
            operation.timer.cancel()

    def _take(self, operation: Operation) -> None:
        self._read(operation)
        while len(operation.steps) > 1 and b"\n" in operation.answers:
            answer, _, operation.answers = operation.answers.partition(b"\n")
            step = operation.steps.pop(0)
            self._set_timer(operation)
            step.done(*_parse(answer))
        if len(operation.steps) == 1 and operation.steps[0].made is not None and b"\n" in operation.answers:
            self._take_made(operation, operation.steps[0].made)

    def _take_made(self, operation: Operation, made: Callable[[Any], int]) -> None:
        """Take the answer of a child that still runs, if the process that it has made is ours without its end."""
        result, error = _parse(operation.answers)
        if error is not None or not _is_our_child(made(result)):
            return
        step = operation.steps.pop()
        operation.makes_process = False
        self._close(operation)
        step.done(result, None)

    def _read(self, operation: Operation) -> bool:
        if operation.pipe < 0:
            return False
        try:
            data = os.read(operation.pipe, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._loop.unwatch(operation.pipe)
        operation.answers += data
        return bool(data)

    def _set_timer(self, operation: Operation) -> None:
        if operation.timer is not None:
            operation.timer.cancel()
            operation.timer = None
        own = operation.steps[0].timeout_s
        if own is None:
            return
        limit = min(self._timeout_s, own)
        operation.timer = self._loop.call_later(limit, lambda: self._expire(operation))

    def _expire(self, operation: Operation) -> None:
        operation.timed_out = True
        try:
            os.killpg(operation.pid, signal.SIGKILL)
        except ProcessLookupError:  # it never came to make a group of its own
            os.kill(operation.pid, signal.SIGKILL)

    def _outcome(
        self, operation: Operation, step: Step, answer: bytes, status: int
    ) -> tuple[Any, SampanError | None]:
        """Give the result or error of a step whose child has ended, with an `answer` or without."""
        try:
            return _parse(answer)
        except ValueError:
            what = f"{step.name} container {self._container_id}"
            if operation.timed_out:
                return None, Unavailable(
                    f"{what}: the runtime driver did not answer in time and was killed",
                    remedy="try again, or remove the container with force",
                )
            code = os.waitstatus_to_exitcode(status)
            return None, System(f"{what}: the runtime driver ended without an answer (status {code})")


def _is_our_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _parse(answer: bytes) -> tuple[Any, SampanError | None]:
    """Raises `ValueError` for an answer that is cut off."""
    parsed = messages.decode(answer)
    return (None, from_wire(parsed["error"])) if "error" in parsed else (parsed["result"], None)


def _child(container_id: str, steps: Sequence[Step], hold: int, writer: int, fds: Sequence[int]) -> NoReturn:
    """Wait for the gate, take the steps and leave, whatever happens."""
    code = 1
    try:
        _isolate([0, 1, 2, hold, writer, *fds])
        told = os.read(hold, 1)  # nothing, if the shim has ended before it came to that
        os.close(hold)
        for step in steps if told else ():
            rest = memoryview(_answer(f"{step.name} container {container_id}", step.work) + b"\n")
            while rest:
                rest = rest[os.write(writer, rest) :]
        code = 0
    finally:
        os._exit(code)


def _answer(what: str, work: Work) -> bytes:
    try:
        return json.dumps({"result": work()}).encode()
    except SampanError as error:
        return json.dumps({"error": to_wire(error)}).encode()
    except BaseException as error:
        logger.exception("%s: the runtime driver raised what it should not", what)
        text = f"{what}: the runtime driver failed: {type(error).__name__}: {error}"
        return json.dumps({"error": to_wire(System(text, remedy="see shim.log of the container"))}).encode()


def _isolate(keep: Sequence[int]) -> None:
    """Put back what Python and the shim changed, close what is the shim's, and die with it."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if _given_limit is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _given_limit)
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
