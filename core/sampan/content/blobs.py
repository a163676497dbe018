"""Blobs on disk, `blobs/sha256/HEX`; with what `layout` writes beside them, an OCI image layout for other tools.

A blob appears by rename, whole, with its digest and size checked, and flushed to disk. What a crash leaves
half-written lies in `ingest/` and is swept by `open`. Source: image-spec, image-layout.md.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sampan.api.errors import InvalidArgument, NotFound, System
from sampan.content.manifests import Descriptor
from sampan.content.references import check_digest
from sampan.content.space import Space
from sampan.linux.files import fsync_directory, start_writeback

_HEX64 = re.compile(r"[0-9a-f]{64}")
_WRITEBACK = 16 << 20
"""Bytes after which the disk is set to work, while more come in."""


class BlobStore:
    """The blobs under one directory. Safe for many threads; a blob's content never changes."""

    def __init__(self, root: Path) -> None:
        """Keep `root`; `open` makes it ready."""
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"

    def open(self) -> None:
        """Make the directories where missing and delete what a crash left half-written; idempotent. `System`
        if that fails."""
        try:
            for directory in (self.root, self._blobs, self._ingest):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for half in self._ingest.iterdir():
                half.unlink()
        except OSError as error:
            raise System(f"open the blobs in {self.root}: {error.strerror}") from error

    def writer(self) -> BlobWriter:
        """Begin a new blob. `System` if the disk refuses."""
        return BlobWriter(self._blobs, self._ingest)

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Store a small blob."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit(media_type=media_type)

    def path(self, digest: str) -> Path:
        """Give where the blob lies, there or not. Raises `InvalidArgument` for a malformed digest."""
        return self._blobs / check_digest(digest).removeprefix("sha256:")

    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob for reading. Raises `NotFound`."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound(f"blob {digest} not found in {self.root}") from None

    def read(self, digest: str, limit: int) -> bytes:
        """Read a small blob. Raises `NotFound`, and `InvalidArgument` when it has more than `limit` bytes."""
        with self.open_blob(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidArgument(f"blob {digest} is larger than {limit} bytes")
        return data

    def has(self, digest: str, size: int | None = None) -> bool:
        """Tell whether the blob is there, and has that size."""
        found = _size(self.path(digest))
        return found >= 0 and size in (None, found)

    def size(self, digest: str) -> int:
        """Give a blob's size in bytes. Raises `NotFound`."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"blob {digest} not found in {self.root}") from None

    def delete(self, digest: str) -> None:
        """Delete a blob; one that is not there is no error."""
        self.path(digest).unlink(missing_ok=True)

    def walk(self) -> Iterator[tuple[str, int]]:
        """Give digest and size in bytes of every blob, in no order."""
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                if _HEX64.fullmatch(entry.name):
                    yield f"sha256:{entry.name}", entry.stat(follow_symlinks=False).st_size


class BlobWriter:
    """A blob being written: `write` it, then `commit` or `abort`; leaving the context aborts what was not
    committed.

    `seal` ends the writing early and frees the descriptor; digest and size are then known and the blob can
    still be committed or aborted.
    """

    def __init__(self, blobs: Path, ingest: Path) -> None:
        """Use `BlobStore.writer`."""
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self._filled = ""
        self._fd = -1
        self.size = 0
        try:
            self._fd, name = tempfile.mkstemp(dir=ingest)
        except OSError as error:
            raise System(f"begin a blob in {ingest}: {error.strerror}", remedy="free some space") from error
        self.path = Path(name)
        self._space = Space(self._fd, "take in a blob")
        self._begun = 0

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return self._filled or f"sha256:{self._hash.hexdigest()}"

    def fileno(self) -> int:
        """Give the descriptor, for one who writes the whole blob through it and then tells `filled`."""
        return self._fd

    def filled(self, digest: str, size: int) -> None:
        """Take over the digest and size of what was written through the descriptor."""
        self._filled, self.size = check_digest(digest), size

    def write(self, data: bytes | memoryview) -> int:
        """Add bytes. `System` if the disk refuses, or would have little more than its reserve left (`content.space`)."""
        view = memoryview(data)
        self._hash.update(view)
        self.size += len(view)
        try:
            self._space.take(len(view))
            done = 0
            while done < len(view):
                done += os.write(self._fd, view[done:])
            if self.size - self._begun >= _WRITEBACK:
                start_writeback(self._fd, self._begun, self.size - self._begun)
                self._begun = self.size
        except OSError as error:
            raise System(f"write blob {self.path}: {error.strerror}", remedy="free some space") from error
        return len(view)

    def seal(self) -> None:
        """End the writing; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def commit(
        self, expected: str | None = None, size: int | None = None, media_type: str = "application/octet-stream"
    ) -> Descriptor:
        """Let the blob appear under its digest, on disk for good when this returns.

        Raises `InvalidArgument`, and keeps nothing, when digest or size are not the expected ones.
        """
        digest = self.digest
        if (expected is not None and expected != digest) or (size is not None and size != self.size):
            self.abort()
            wanted = ", ".join(str(part) for part in (expected, size) if part is not None)
            raise InvalidArgument(f"blob is {digest} of {self.size} bytes, not {wanted} as promised")
        target = self._blobs / digest.removeprefix("sha256:")
        try:
            self.seal()
            if _size(target) == self.size:
                self.path.unlink()
            else:
                _flush(self.path)
                self.path.chmod(0o600)
                self.path.rename(target)
                fsync_directory(self._blobs)
        except OSError as error:
            self.abort()
            raise System(f"keep blob {digest}: {error.strerror}", remedy="free some space") from error
        return Descriptor(media_type=media_type, digest=digest, size=self.size)

    def abort(self) -> None:
        """Drop what was written; idempotent, and without effect on a committed blob."""
        self.seal()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> BlobWriter:
        """Give the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Abort unless committed."""
        self.abort()


def _size(path: Path) -> int:
    """Give a file's size, -1 where it is not there. What has the wrong size is a torn blob, and is replaced."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
