"""The writing side: in the shim, appending with one system call for many lines."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sampan.api.logs import LogContext, LogRecord, LogWriter
from sampan_log_json_file.encoding import Encoder
from sampan_log_json_file.files import current, rotated
from sampan_log_json_file.options import parse

_BLOCK = 64 * 1024


class JsonFileWriter(LogWriter):
    """Appends to the current file and rotates it when it is full."""

    def __init__(self, context: LogContext) -> None:
        """Open, after a crash too: a torn last line is cut off, for it was never readable. Raises
        `OSError`.
        """
        self._rotation = parse(context.options)
        self._encoder = Encoder(context.attributes)
        self._path = current(context)
        self._fd = _open_made(self._path)
        self._size = _cut_torn_line(self._fd)

    def write(self, records: list[LogRecord]) -> None:
        """Append the records. What a full disk has torn is cut off again before the error is raised."""
        batch: list[bytes] = []
        pending = 0
        for record in records:
            if self._rotation.max_size and self._size + pending >= self._rotation.max_size:
                self._append(batch)
                batch, pending = [], 0
                self._rotate()
            lines = self._encoder.encode(record)
            batch.append(lines)
            pending += len(lines)
        self._append(batch)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, batch: list[bytes]) -> None:
        if not batch:
            return
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        """Shift the files by one. Each step is a rename, so that a crash leaves at most a gap in the
        numbers.
        """
        for number in range(self._rotation.max_file - 1, 0, -1):
            source = rotated(self._path, number - 1)
            with contextlib.suppress(FileNotFoundError):
                os.rename(source, rotated(self._path, number))
        if self._rotation.max_file == 1:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        fd = _open(self._path)
        os.close(self._fd)
        self._fd = fd
        self._size = 0


def _open_made(path: str) -> int:
    """Open the file, in a directory that is made if it is not there."""
    try:
        return _open(path)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _open(path)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _cut_torn_line(fd: int) -> int:
    """Cut the file after its last newline and give its size."""
    size = end = os.fstat(fd).st_size
    keep = 0
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        end = start
    if keep < size:
        os.ftruncate(fd, keep)
    return keep
