"""The way out: from a process's pipe or terminal to the log, which comes first, and to the attached
streams.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable

from sampan.api.logs import LogRecord, LogWriter
from sampan.launch.lines import LineFramer
from sampan.launch.loop import IN, OUT, Loop

CHUNK = 64 * 1024
"""How much is read at once, in bytes: what a pipe holds."""

BOUND = 256 * 1024
"""How much may wait for one attached stream before the process is held back, in bytes."""


LAST_CHUNKS = 16
"""How often `Output.drain` reads: a full pipe of 1 MiB, and no more from a process that goes on writing."""


class Sink:
    """One attached stream. What it does not take at once waits in a buffer; when it breaks it is dropped,
    and nothing else.
    """

    def __init__(self, loop: Loop, fd: int, on_room: Callable[[], None], on_gone: Callable[[Sink], None]) -> None:
        """Take over `fd`. `on_room` is called when the buffer has run empty, `on_gone` once, after the
        close.
        """
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._on_room = on_room
        self._on_gone = on_gone
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._finishing = False
        self._blocked = False
        loop.watch(fd, 0, self._hung_up)

    @property
    def full(self) -> bool:
        """Whether the process has to be held back for this stream."""
        return self._size >= BOUND

    def offer(self, data: bytes) -> None:
        """Send `data`, after what waits already."""
        if self._fd < 0:
            return
        self._waiting.append(memoryview(data))
        self._size += len(data)
        if len(self._waiting) == 1:
            self._flush()

    def finish(self) -> None:
        """No more will come: close when all is sent."""
        self._finishing = True
        if not self._waiting:
            self._close()

    def _flush(self) -> None:
        try:
            while self._waiting:
                data = self._waiting[0]
                written = os.write(self._fd, data)
                self._size -= written
                if written < len(data):
                    self._waiting[0] = data[written:]
                else:
                    self._waiting.popleft()
        except BlockingIOError:
            self._blocked = True
            self._loop.watch(self._fd, OUT, self._flush)
            return
        except OSError:  # the other end is gone
            self._close()
            return
        if self._finishing:
            self._close()
            return
        if self._blocked:
            self._blocked = False
            self._loop.watch(self._fd, 0, self._hung_up)
            self._on_room()

    def _hung_up(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._waiting.clear()
        self._size = 0
        self._on_gone(self)
        self._on_room()


class StreamLog:
    """One stream's part of the container's log. A log that can't be written stops nothing: `error` says
    what was lost.
    """

    def __init__(self, writer: LogWriter, stream: str) -> None:
        """Write what comes from `stream` to a writer that several streams share."""
        self._writer = writer
        self._framer = LineFramer(stream)
        self.error = ""

    def feed(self, data: bytes) -> None:
        """Log what was read."""
        self._write(self._framer.feed(data, time.time_ns()))

    def finish(self) -> None:
        """Log the last line, if it had no newline."""
        self._write(self._framer.finish(time.time_ns()))

    def _write(self, records: list[LogRecord]) -> None:
        if not records:
            return
        try:
            self._writer.write(records)
        except OSError as error:
            self.error = f"write the log: {error}"


class Output:
    """One output stream of a process. Reads no faster than the slowest attached stream takes it; drops no
    byte.
    """

    def __init__(self, loop: Loop, log: StreamLog | None, on_end: Callable[[], None]) -> None:
        """Wait for `open`. `on_end` is called when the stream has ended and all of it is logged, and once
        more when
        the last attached stream has got all of it later.
        """
        self._loop = loop
        self._log = log
        self._on_end = on_end
        self.fd = -1
        self._reading = False
        self._sinks: set[Sink] = set()
        self.ended = False

    def open(self, fd: int) -> None:
        """Start to read from `fd`, which is ours from now on."""
        os.set_blocking(fd, False)
        self.fd = fd
        self._hold_or_read()

    def take_over(self, fd: int) -> None:
        """Read from `fd` instead of what was opened; with -1 the stream has ended."""
        self._let_go()
        if fd >= 0:
            self.open(fd)
        else:
            self._end()

    def attach(self, fd: int) -> None:
        """Send what comes from now on to `fd` as well, which is ours from now on, and close it at the end."""
        sink = Sink(self._loop, fd, self._hold_or_read, self._sink_gone)
        if self.ended:
            sink.finish()
        else:
            self._sinks.add(sink)

    def drain(self) -> None:
        """End the stream now, though other processes may hold it open: take what it has, however slow the
        attached are.
        """
        for _ in range(LAST_CHUNKS):
            if self.ended or not self._read():
                break
        self._end()

    def _sink_gone(self, sink: Sink) -> None:
        self._sinks.discard(sink)
        if self.flushed:
            self._on_end()

    def _hold_or_read(self) -> None:
        """Read if every attached stream has room. A held stream is not watched: a hang-up would wake us
        again and again.
        """
        wanted = self.fd >= 0 and not any(sink.full for sink in self._sinks)
        if wanted and not self._reading:
            self._loop.watch(self.fd, IN, self._readable)
        elif self._reading and not wanted:
            self._loop.unwatch(self.fd)
        self._reading = wanted

    def _readable(self) -> None:
        if self._read():
            self._hold_or_read()

    def _read(self) -> bool:
        """Read once and hand on; False if there was nothing to read."""
        if self.fd < 0:
            return False
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: no process holds the terminal any more
                raise
            data = b""
        if not data:
            self._end()
            return False
        if self._log is not None:
            self._log.feed(data)
        for sink in tuple(self._sinks):
            sink.offer(data)
        return True

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._let_go()
        if self._log is not None:
            self._log.finish()
        for sink in tuple(self._sinks):
            sink.finish()
        self._on_end()

    def _let_go(self) -> None:
        if self.fd >= 0:
            self._loop.unwatch(self.fd)
            os.close(self.fd)
            self.fd = -1
        self._reading = False

    @property
    def flushed(self) -> bool:
        """Whether the stream has ended and no attached stream still waits for a part of it."""
        return self.ended and not self._sinks
