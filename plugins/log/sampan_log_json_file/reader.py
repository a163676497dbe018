"""The reading side: in the daemon, from the oldest line or from the last N, and on as lines come, across
rotations.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from sampan.api.errors import System
from sampan.api.logs import LogContext, LogQuery, LogRecord
from sampan.linux.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, Inotify
from sampan_log_json_file.encoding import decode
from sampan_log_json_file.files import current, existing

logger = logging.getLogger(__name__)

_BLOCK = 256 * 1024


class OpenFile:
    """One file of the log, being read. It stays readable when it is renamed or removed."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`."""
        self.fd = fd
        self.inode = os.fstat(fd).st_ino
        self.offset = 0
        self._limit: int | None = None
        self._rest = b""

    @property
    def end(self) -> int:
        """Where what may be read ends: where the file ends, or ended when `stop_here` was called."""
        return os.fstat(self.fd).st_size if self._limit is None else self._limit

    @property
    def is_at_end(self) -> bool:
        """All that may be read has been."""
        return self.offset >= self.end

    def stop_here(self) -> None:
        """Read no further than the file goes now: whoever writes faster than we read would keep us for ever."""
        self._limit = self.end

    def lines(self) -> list[bytes]:
        """Give the next whole lines, at most about `_BLOCK` bytes of them; none at the end of what is
        written.
        """
        while data := os.pread(self.fd, min(_BLOCK, max(0, self.end - self.offset)), self.offset):
            self.offset += len(data)
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
            if lines:
                return lines
        return []

    def skip_to_last(self, count: int) -> int:
        """Go to where the last `count` lines begin, reading blocks from the end; give how many lines those
        are.
        """
        end = self.end
        found = 0
        torn = True  # what comes after the last newline is no line yet
        while end > 0:
            start = max(0, end - _BLOCK)
            block = os.pread(self.fd, end - start, start)
            newline = len(block)
            while (newline := block.rfind(b"\n", 0, newline)) >= 0:
                if not torn:
                    found += 1
                if found == count:
                    self.offset = start + newline + 1
                    return found
                torn = False
            end = start
        self.offset = 0
        return found if torn else found + 1

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


async def read(context: LogContext, query: LogQuery) -> AsyncIterator[LogRecord]:
    """Give the records that `query` asks for, oldest first. Raises `System`."""
    path = Path(current(context))
    files: list[OpenFile] = []
    watch = _Watch(path, query) if query.follow else None
    try:
        files = _open_all(path)
        if watch is None:
            for file in files:
                file.stop_here()
        if query.tail is not None:
            files = _last_lines(files, query.tail)
        while True:
            ended = watch is None or watch.ended
            while files:
                for line in files[0].lines():
                    record = _decode(line, path)
                    if record is None or record.time_ns < query.since_ns:
                        continue
                    if query.until_ns and record.time_ns > query.until_ns:
                        return
                    yield record
                await asyncio.sleep(0)
                if not files[0].is_at_end:
                    continue
                if len(files) == 1:
                    if watch is None:
                        return
                    newer = _newer(path, files[0].inode)
                    if not newer and files[0].is_at_end:
                        break
                    if not files[0].is_at_end:  # written to between our last look and its rotation
                        for file in newer:
                            file.close()
                        continue
                    files += newer
                files.pop(0).close()
            if not files and watch is not None:
                files = _open_all(path)
                if files:
                    continue
            if ended or watch is None:
                return
            await watch.changed()
    except OSError as error:
        raise System(f"read the log {path}: {error.strerror}") from error
    finally:
        if watch is not None:
            watch.close()
        for file in files:
            file.close()


class _Watch:
    """Wakes a reader when something is written, or when no more will be."""

    def __init__(self, path: Path, query: LogQuery) -> None:
        self._wake = asyncio.Event()
        self._query = query
        self._loop = asyncio.get_running_loop()
        self._inotify = Inotify()
        try:
            self._inotify.add(path.parent, IN_MODIFY | IN_CREATE | IN_MOVED_TO)
        except OSError as error:
            self._inotify.close()
            raise System(f"follow the log {path}: {error.strerror}") from error
        self._loop.add_reader(self._inotify.fileno(), self._wake.set)
        self._ending: asyncio.Task[object] | None = None
        if query.ended is not None:
            self._ending = asyncio.ensure_future(query.ended.wait())
            self._ending.add_done_callback(lambda _: self._wake.set())

    @property
    def ended(self) -> bool:
        """Asked before a pass over the files: what was written before the end is then read in that pass."""
        return self._query.ended is not None and self._query.ended.is_set()

    async def changed(self) -> None:
        await self._wake.wait()
        self._inotify.read()
        self._wake.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()
        if self._ending is not None:
            self._ending.cancel()


def _open_all(path: Path) -> list[OpenFile]:
    """Open all files, oldest first. A rotation while we open shows as an inode twice, and is told from it."""
    files: list[OpenFile] = []
    for candidate in existing(path):
        file = _open(candidate)
        if file is None:
            continue
        if any(file.inode == other.inode for other in files):
            file.close()
        else:
            files.append(file)
    return files[::-1]


def _newer(path: Path, inode: int) -> list[OpenFile]:
    """Open the files that are newer than the one with `inode`, oldest first."""
    files = _open_all(path)
    known = next((index for index, file in enumerate(files) if file.inode == inode), -1)
    for file in files[: known + 1]:
        file.close()
    return files[known + 1 :]


def _last_lines(files: list[OpenFile], count: int) -> list[OpenFile]:
    """Keep of the files those with the last `count` lines, each at its place."""
    kept: list[OpenFile] = []
    for file in reversed(files):
        if kept and count <= 0:
            file.close()
            continue
        if count <= 0:
            file.offset = _whole_lines_end(file)
        else:
            count -= file.skip_to_last(count)
        kept.append(file)
    return kept[::-1]


def _whole_lines_end(file: OpenFile) -> int:
    """Give where the last whole line ends: a torn one is still to be read when it is whole."""
    end = file.end
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file.fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _open(path: Path) -> OpenFile | None:
    try:
        return OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return None


def _decode(line: bytes, path: Path) -> LogRecord | None:
    try:
        return decode(line)
    except ValueError as error:
        logger.warning("read the log %s: a line is skipped: %s", path, error)
        return None
