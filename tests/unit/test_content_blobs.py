from __future__ import annotations

import hashlib
import os

import pytest

from sampan.api.errors import InvalidArgument, NotFound, System
from sampan.content.blobs import BlobStore


@pytest.fixture
def blobs(tmp_path):
    store = BlobStore(tmp_path / "content")
    store.open()
    yield store
    assert os.listdir(tmp_path / "content" / "ingest") == []


def test_a_blob_appears_whole_under_its_digest(blobs):
    digest = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    with blobs.writer() as writer:
        writer.write(b"hel")
        writer.write(memoryview(b"lo"))
        assert list(blobs.walk()) == []
        described = writer.commit(digest, 5, "text/plain")
    assert (described.digest, described.size, described.media_type) == (digest, 5, "text/plain")
    assert blobs.has(digest) and blobs.size(digest) == 5 and list(blobs.walk()) == [(digest, 5)]
    with blobs.open_blob(digest) as file:
        assert file.read() == b"hello"
    assert blobs.path(digest).stat().st_mode & 0o777 == 0o600
    assert blobs.put(b"hello", "x/y").digest == digest
    blobs.delete(digest)
    blobs.delete(digest)
    for look in (blobs.open_blob, blobs.size, lambda digest: blobs.read(digest, 9)):
        with pytest.raises(NotFound):
            look(digest)


@pytest.mark.parametrize(("digest", "size"), [("sha256:" + "0" * 64, None), (None, 4)])
def test_what_is_not_as_promised_is_not_kept(blobs, digest, size):
    with pytest.raises(InvalidArgument, match="as promised"), blobs.writer() as writer:
        writer.write(b"hello")
        writer.commit(digest, size)
    assert list(blobs.walk()) == []


def test_leaving_early_keeps_nothing(blobs):
    with pytest.raises(ZeroDivisionError), blobs.writer() as writer:
        writer.write(b"hello")
        raise ZeroDivisionError
    assert list(blobs.walk()) == []


def test_open_sweeps_what_a_crash_left(blobs):
    writer = blobs.writer()
    writer.write(b"half")
    writer.seal()
    BlobStore(blobs.root).open()
    assert not writer.path.exists()


def test_limits_and_malformed_digests(blobs):
    digest = blobs.put(b"12345", "x").digest
    with pytest.raises(InvalidArgument, match="larger than 4 bytes"):
        blobs.read(digest, 4)
    for bad in ("sha256:../../etc/passwd", "md5:1", "", digest.upper(), digest + "\n"):
        with pytest.raises(InvalidArgument):
            blobs.path(bad)


def test_an_unusable_root_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(System, match="open the blobs"):
        BlobStore(tmp_path / "file").open()
