"""The way in: from attached streams to a process's standard input."""

from __future__ import annotations

import os
from collections.abc import Callable

from sampan.launch.loop import IN, OUT, Loop

CHUNK = 64 * 1024
"""How much is read at once, in bytes."""


class Source:
    """One attached stream that types. At its end `eof_closes` decides whether the process sees an end too."""

    __slots__ = ("eof_closes", "fd")

    def __init__(self, fd: int, eof_closes: bool) -> None:
        """Take over `fd`."""
        self.fd = fd
        self.eof_closes = eof_closes


class Input:
    """The standard input of a process. One writer at a time: a chunk is written whole before the next one
    is read.
    """

    def __init__(self, loop: Loop, *, terminal: bool) -> None:
        """Wait for `open`. A terminal has no end of its own that could be closed: there `close` only ends
        the writing.
        """
        self._loop = loop
        self._terminal = terminal
        self._fd = -1
        self._pending = memoryview(b"")
        self._sources: set[Source] = set()
        self._blocked = False
        self._closing = False
        self.closed = False

    def open(self, fd: int) -> None:
        """Start to write to `fd`, which is ours from now on."""
        os.set_blocking(fd, False)
        self._fd = fd
        if self._closing:
            self._close()
        else:
            self._watch_sources()

    def take_over(self, fd: int) -> None:
        """Write to `fd` instead of what was opened; with -1 nobody reads."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if fd >= 0:
            self.closed = self._closing = False
            self.open(fd)
        else:
            self.abandon()

    def attach(self, fd: int, *, eof_closes: bool) -> None:
        """Hand on what comes from `fd`, which is ours from now on. `eof_closes`: its end closes the
        input, after its last byte.
        """
        if self.closed:
            os.close(fd)
            return
        os.set_blocking(fd, False)
        self._sources.add(Source(fd, eof_closes))
        self._watch_sources()

    def close(self) -> None:
        """Let the process see the end, after what was read already. No effect on a terminal."""
        if self._terminal:
            return
        self._closing = True
        self._drop_sources()
        if self._fd >= 0 and not self._pending:
            self._close()

    def abandon(self) -> None:
        """The process is gone: let go of everything."""
        self._closing = True
        self._drop_sources()
        self._close()

    def _watch_sources(self) -> None:
        """Read from the sources only while nothing waits to be written."""
        ready = self._fd >= 0 and not self._pending
        for source in self._sources:
            if ready:
                self._loop.watch(source.fd, IN, self._reader(source))
            else:
                self._loop.unwatch(source.fd)

    def _reader(self, source: Source) -> Callable[[], None]:
        return lambda: self._read(source)

    def _read(self, source: Source) -> None:
        if self._pending or source not in self._sources:
            return
        try:
            data = os.read(source.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # the connection broke
            data = b""
        if not data:
            self._drop(source)
            if source.eof_closes:
                self.close()
            return
        self._pending = memoryview(data)
        self._write()

    def _write(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._fd, self._pending) :]
        except BlockingIOError:
            if not self._blocked:
                self._blocked = True
                self._loop.watch(self._fd, OUT, self._write)
                self._watch_sources()
            return
        except OSError:  # the process has closed its end
            self.abandon()
            return
        if self._blocked:
            self._blocked = False
            self._loop.unwatch(self._fd)
            self._watch_sources()
        if self._closing:
            self._close()

    def _drop(self, source: Source) -> None:
        self._sources.discard(source)
        self._loop.unwatch(source.fd)
        os.close(source.fd)

    def _drop_sources(self) -> None:
        for source in tuple(self._sources):
            self._drop(source)

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._pending = memoryview(b"")
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
