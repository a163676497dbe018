"""A process that the shim watches: the container's first one, or one started by exec."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from sampan.api.errors import InvalidArgument, NotFound, System
from sampan.launch.loop import Loop, Timer
from sampan.launch.streams import Streams

GRACE_S = 2.0
"""How long after a process's end its output may stay open in other hands, before its exit is told. Docker
waits as long.
"""


class Process:
    """One process and its streams. It has ended when it is reaped and its output is read, or `GRACE_S`
    later.
    """

    def __init__(self, loop: Loop, streams: Streams, on_ended: Callable[[Process], None]) -> None:
        """Not started yet. `on_ended` is called once."""
        self._loop = loop
        self._on_ended = on_ended
        self._pidfd = -1
        self._timer: Timer | None = None
        self._told = False
        self.streams = streams
        self.pid = 0
        self.exit_code: int | None = None
        self.finished_at_ns = 0

    @property
    def alive(self) -> bool:
        """Whether it was started and has not been reaped."""
        return self._pidfd >= 0

    def started(self, pid: int) -> None:
        """The driver says that this is it. Raises `System` if it is no child of ours, so that nobody could
        wait for it.
        """
        self.streams.handed_over()
        try:
            self._pidfd = os.pidfd_open(pid)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError as error:
            self.release()
            raise System(
                f"watch process {pid}: {error.strerror}",
                remedy="the runtime driver must leave the process as a child of the shim",
            ) from error
        self.pid = pid

    def signal(self, signum: int) -> None:
        """Send a signal. Raises `NotFound` if it has ended, `InvalidArgument` if there is no such signal."""
        if not 1 <= signum <= 64:
            raise InvalidArgument(f"send signal {signum}: there is no such signal", remedy="1 to 64 are valid")
        if not self.alive:
            raise NotFound(f"send signal {signum}: the process is not running")
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError as error:
            raise NotFound(f"send signal {signum} to process {self.pid}: it has ended") from error

    def recovered(self, pid: int) -> None:
        """It was started by a shim that is gone, and is no child of ours. Raises `System` if it is not there."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise System(f"watch process {pid}: {error.strerror}") from error
        self.pid = pid

    def reaped(self, status: int) -> None:
        """It has been reaped, with the status of wait(2)."""
        code = os.waitstatus_to_exitcode(status)
        self.exited(128 - code if code < 0 else code)

    def exited(self, code: int) -> None:
        """It has ended, with an exit code of 0 to 255."""
        self.exit_code = code
        self.finished_at_ns = time.time_ns()
        self.release()
        self.streams.input.abandon()
        if self.streams.ended:
            self._tell()
        else:
            self._timer = self._loop.call_later(GRACE_S, self._tell)

    def output_ended(self) -> None:
        """Its streams have ended. Idempotent."""
        if self.exit_code is not None:
            self._tell()

    def release(self) -> None:
        """Let go of the pidfd. Idempotent."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _tell(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._told:
            self._told = True
            self._on_ended(self)
