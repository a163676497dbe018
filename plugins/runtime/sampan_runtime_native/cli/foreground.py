"""Staying with a process to its end: signals go on to it, its terminal is ours, its orphans are collected."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from sampan.linux.syscalls import PR_SET_CHILD_SUBREAPER, prctl

_OURS: Final = frozenset(
    {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE, signal.SIGURG, signal.SIGTTIN, signal.SIGTTOU,
     signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT}
)  # fmt: skip
"""Not passed on: about this process itself, or its terminal."""

_CHUNK: Final = 4096  # a pipe that polls as writable takes so much without blocking


class Foreground:
    """Entered before the process is made, so that no signal to this program is lost on the way."""

    def __init__(self, *, subreaper: bool = False) -> None:
        """With `subreaper`, orphaned processes of a container without a pid namespace of its own come to us."""
        self._subreaper = subreaper
        self._stack = contextlib.ExitStack()
        self._arrived, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._console: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Foreground:
        """Take the signals."""
        if self._subreaper:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        for number in signal.valid_signals() - (_OURS - {signal.SIGCHLD, signal.SIGWINCH}):
            with contextlib.suppress(OSError):  # the C library keeps two for itself
                signal.signal(number, _noted)
        signal.set_wakeup_fd(self._writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the caller's terminal back."""
        self._stack.close()
        for end in self._console or ():
            end.close()

    def console(self) -> int:
        """Give the socket to which the terminal of the process is to be sent."""
        self._console = socket.socketpair(socket.AF_UNIX)
        return self._console[1].fileno()

    def stay_with(self, pid: int) -> int:
        """Go on until the child `pid` has ended; give its exit status, 128 + n for signal n."""
        pidfd = os.pidfd_open(pid)
        self._stack.callback(os.close, pidfd)
        terminal = self._stack.enter_context(_terminal_of(self._console[0])) if self._console else None
        while True:
            poll = select.poll()
            poll.register(self._arrived, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            for fd, events in terminal.waits() if terminal else ():
                poll.register(fd, events)
            ready = dict(poll.poll())
            if self._arrived in ready:
                self._pass_on(pidfd, terminal)
            if terminal:
                terminal.copy(ready)
            if pidfd in ready:
                if terminal:
                    terminal.drain()
                _, status = os.waitpid(pid, 0)
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code

    def _pass_on(self, pidfd: int, terminal: _Terminal | None) -> None:
        for number in os.read(self._arrived, _CHUNK):
            if number == signal.SIGWINCH and terminal:
                terminal.resize()
            elif number == signal.SIGCHLD:
                self._collect_orphans(pidfd)
            elif number not in _OURS:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)

    def _collect_orphans(self, pidfd: int) -> None:
        """Collect children that have ended, but for the process itself, whose status is still to be asked for."""
        mine = _pid_of(pidfd)
        while self._subreaper:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid == mine:
                return
            os.waitpid(ended.si_pid, 0)


def _noted(_number: int, _frame: Any) -> None:
    """A handler, so that the number is written to the wakeup descriptor."""


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as info:  # noqa: PTH123
        return next(int(line.split()[1]) for line in info if line.startswith("Pid:"))


class _Terminal:
    """The process's terminal, shown on ours: two buffers, each of which holds back its source while it is full."""

    def __init__(self, master: int) -> None:
        self._master = master
        os.set_blocking(master, False)
        self._to_program = b""
        self._to_us = b""
        self._input_open = True
        self._output_open = True

    def waits(self) -> Iterator[tuple[int, int]]:
        """Give what is to be polled for."""
        if self._input_open and not self._to_program:
            yield 0, select.POLLIN
        events = (select.POLLIN if self._output_open and not self._to_us else 0) | (
            select.POLLOUT if self._to_program else 0
        )
        if events:
            yield self._master, events
        if self._to_us:
            yield 1, select.POLLOUT

    def copy(self, ready: dict[int, int]) -> None:
        """Move what can be moved without waiting."""
        if 0 in ready:
            self._to_program = _read(0)
            self._input_open = bool(self._to_program)
        at_master = ready.get(self._master, 0)
        if at_master & select.POLLOUT and self._to_program:
            self._to_program = self._to_program[_write(self._master, self._to_program) :]
        if at_master & (select.POLLIN | select.POLLHUP) and not self._to_us:
            self._to_us = _read(self._master)
            self._output_open = bool(self._to_us)
        if 1 in ready:
            self._to_us = self._to_us[os.write(1, self._to_us) :]

    def drain(self) -> None:
        """Show what the process has still written."""
        rest = self._to_us
        while rest or (rest := _read(self._master)):
            rest = rest[os.write(1, rest) :]

    def resize(self) -> None:
        """Take the size of our terminal."""
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)


def _write(fd: int, data: bytes) -> int:
    """Give how much of `data` is done with: all of it where the program has closed its terminal (EIO)."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno == errno.EIO:
            return len(data)
        raise


def _read(fd: int) -> bytes:
    """Read some bytes; none at the end, which a terminal tells by EIO, and none when there are none yet."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return b""
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise


@contextlib.contextmanager
def _terminal_of(console: socket.socket) -> Iterator[_Terminal]:
    """Receive the terminal, and have ours pass every key on for so long."""
    _, (master, *_), _, _ = socket.recv_fds(console, 16, 1)
    terminal = _Terminal(master)
    terminal.resize()
    before = termios.tcgetattr(0) if os.isatty(0) else None
    try:
        if before:
            tty.setraw(0)
        yield terminal
    finally:
        if before:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
        os.close(master)
