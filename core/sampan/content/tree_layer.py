"""A layer that is nowhere kept: what changed in one tree, on its way into another."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sampan.api.errors import System, host_errors
from sampan.api.storage import Change, Whiteouts
from sampan.content.layer_writer import WrittenLayer, write_layer
from sampan.content.layers import DEFAULT_LIMITS, Limits, unpack_stream
from sampan.linux.trees import syncfs

_PIPE_BYTES = 1 << 20
_SPARSE_MIN = 1 << 16
"""Bytes of a file whose holes are kept: only we read this tar."""


class TreeLayer:
    """The changes of the tree below the directory `root`, a descriptor, as `sampan.api.storage.Layer`.

    One confined child writes the tar, another unpacks it, with a pipe between them. `changes` are taken in a thread of their
    own, sorted as `StorageDriver.diff` gives them. `written` is set when all is over.
    """

    def __init__(self, root: int, changes: Iterable[Change], limits: Limits = DEFAULT_LIMITS) -> None:
        self._root = root
        self._changes = changes
        self._limits = limits
        self._open = ExitStack()
        self._tar: tuple[io.FileIO, Future[WrittenLayer]] | None = None
        self.written: WrittenLayer | None = None

    def unpack(self, directory: int, whiteouts: Whiteouts) -> None:
        """Write the files into `directory` and have the disk hold them: no commit follows that would.

        Raises what `write_layer` and `StoredLayer.unpack` raise.
        """
        with self._writing() as (tar, writing), host_errors("copy a layer"):
            try:
                found = unpack_stream(tar.fileno(), directory, whiteouts, self._limits)
            except Exception:
                if writing.done():
                    writing.result()  # raises what came first: a tar that was cut short is not the unpacker's fault
                raise
            self._finish(writing.result(), found)
            syncfs(Path(f"/proc/self/fd/{directory}"))

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes of the tar. Raises what `write_layer` raises."""
        if self._tar is None:
            self._tar = self._open.enter_context(self._writing())
        tar, writing = self._tar
        data = tar.read(size)
        if not data and size:
            written = writing.result()
            self._open.close()
            self._finish(written, written.diff_id)
        return data

    def close(self) -> None:
        """End the writer if it still writes, because nobody read the tar to its end."""
        self._open.close()

    def _finish(self, written: WrittenLayer, found: str) -> None:
        if written.diff_id != found:
            raise System(f"copy a layer: {written.diff_id} was written, {found} arrived")
        self.written = written

    @contextmanager
    def _writing(self) -> Iterator[tuple[io.FileIO, Future[WrittenLayer]]]:
        """Have the tar written; give the end of the pipe where it comes out, and what tells of the writer."""
        reading, writing = os.pipe()
        with ThreadPoolExecutor(1, thread_name_prefix="layer-writer") as pool, io.FileIO(reading) as tar:
            with suppress(OSError):  # a user's pipes have a limit together; a small one does too
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            yield tar, pool.submit(self._write, writing)

    def _write(self, out: int) -> WrittenLayer:
        try:
            return write_layer(self._root, self._changes, out, limits=self._limits, sparse_min=_SPARSE_MIN)
        finally:
            os.close(out)
