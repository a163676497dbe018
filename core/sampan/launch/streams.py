"""The standard streams of one process: pipes or a terminal on one side, log and attached streams on the
other.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Mapping

from sampan.api.errors import InvalidArgument
from sampan.api.logs import LogWriter
from sampan.api.runtime import Stdio
from sampan.launch.input import Input
from sampan.launch.loop import IN, Loop
from sampan.launch.output import Output, StreamLog

MAX_SIZE = 0xFFFF
"""The most rows or columns that a terminal can have: `struct winsize` has 16 bits for each (ioctl_tty(2))."""


def check_size(height: int, width: int) -> None:
    """Refuse a size that no terminal has. Raises `InvalidArgument`."""
    if not (0 <= height <= MAX_SIZE and 0 <= width <= MAX_SIZE):
        raise InvalidArgument(f"set a terminal to {height} rows and {width} columns: each is 0 to {MAX_SIZE}")


class Streams:
    """Made before the process, so that a stream attached early gets the first byte."""

    def __init__(
        self, loop: Loop, *, tty: bool, open_stdin: bool, log: LogWriter | None, on_end: Callable[[], None]
    ) -> None:
        """`on_end` is called when the last output has ended, and maybe again until all are `flushed`. Without
        `open_stdin` the process reads an empty input.
        """
        self._loop = loop
        self._on_end = on_end
        self._console: socket.socket | None = None
        self._size: tuple[int, int] | None = None
        self._logs: list[StreamLog] = []
        self.input = Input(loop, terminal=tty)
        self.outputs: dict[str, Output] = {
            name: Output(loop, self._stream_log(log, name), self._output_ended)
            for name in (("stdout",) if tty else ("stdout", "stderr"))
        }
        self.stdio = self._terminal() if tty else self._pipes(open_stdin)

    @property
    def ended(self) -> bool:
        """Whether no more output will come."""
        return all(output.ended for output in self.outputs.values())

    @property
    def flushed(self) -> bool:
        """Whether moreover the attached streams have got all of it."""
        return all(output.flushed for output in self.outputs.values())

    @property
    def log_error(self) -> str:
        """What became of log lines that could not be written, or nothing."""
        return next((log.error for log in self._logs if log.error), "")

    def attach(self, fds: Mapping[str, int], *, stdin_eof_closes: bool) -> None:
        """Take over the descriptors named `stdin`, `stdout`, `stderr`. On a terminal `stdout` carries all
        output.
        """
        for name, fd in fds.items():
            if name == "stdin":
                self.input.attach(fd, eof_closes=stdin_eof_closes)
            elif name in self.outputs:
                self.outputs[name].attach(fd)
            else:
                os.close(fd)

    def resize(self, height: int, width: int) -> None:
        """Give the terminal a size in characters, now or as soon as there is one. No effect on pipes, as in
        Docker. Raises as `check_size`.
        """
        check_size(height, width)
        self._size = (height, width)
        output = self.outputs["stdout"]
        if len(self.outputs) == 1 and output.fd >= 0:
            fcntl.ioctl(output.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def handed_over(self) -> None:
        """The process has its ends, or there will be no process: close ours of them."""
        if self._console is not None:
            self._take_terminal()
        self._close_theirs()
        if self._console is not None:  # no terminal came, so none will
            self._close_console()
            self.drain()

    def take_over(self, kept: Mapping[str, int]) -> None:
        """Go on with the ends that the runtime driver has kept of a process's streams, ours from now on, in place of those that
        were made: `stdin`, `stdout`, `stderr` or `console`, a terminal's master. What was not kept has ended.
        """
        self._close_theirs()
        if self._console is not None:
            self._close_console()
        if "console" in kept:
            kept = {"stdin": os.dup(kept["console"]), "stdout": kept["console"]}
        self.input.take_over(kept.get("stdin", -1))
        for name, output in self.outputs.items():
            output.take_over(kept.get(name, -1))

    def give_up(self) -> None:
        """There will be no process, though a half-made one may hold its ends until the driver removes it."""
        self.handed_over()
        self.drain()
        self.input.abandon()

    def drain(self) -> None:
        """Take what the outputs have and end them, whoever else holds them open."""
        for output in self.outputs.values():
            output.drain()

    def _close_theirs(self) -> None:
        for fd in self.stdio.descriptors.values():
            os.close(fd)
        self.stdio = Stdio()

    def _stream_log(self, writer: LogWriter | None, name: str) -> StreamLog | None:
        if writer is None:
            return None
        log = StreamLog(writer, name)
        self._logs.append(log)
        return log

    def _output_ended(self) -> None:
        if self.ended:
            self._on_end()

    def _pipes(self, open_stdin: bool) -> Stdio:
        made: list[int] = []
        try:
            for _ in self.outputs:
                made += os.pipe2(os.O_CLOEXEC)
            made += os.pipe2(os.O_CLOEXEC) if open_stdin else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),)
        except OSError:  # there are too many
            for fd in made:
                os.close(fd)
            raise
        from_stdout, stdout, from_stderr, stderr, stdin, *to_stdin = made
        if to_stdin:
            self.input.open(to_stdin[0])
        else:
            self.input.abandon()
        self.outputs["stdout"].open(from_stdout)
        self.outputs["stderr"].open(from_stderr)
        return Stdio(stdin, stdout, stderr)

    def _terminal(self) -> Stdio:
        self._console, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._console.setblocking(False)
        self._loop.watch(self._console.fileno(), IN, self._take_terminal)
        return Stdio(console=theirs.detach())

    def _take_terminal(self) -> None:
        """Receive the master of the terminal that the driver has made."""
        if self._console is None:
            return
        try:
            _, fds, _, _ = socket.recv_fds(self._console, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        if not fds:
            return
        self._close_console()
        self.input.open(os.dup(fds[0]))
        self.outputs["stdout"].open(fds[0])
        if self._size is not None:
            self.resize(*self._size)

    def _close_console(self) -> None:
        if self._console is not None:
            self._loop.unwatch(self._console.fileno())
            self._console.close()
            self._console = None
