"""Headers of tars: what is written is read again, by our reader and by Python's, and is as small as it can be."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument
from sampan.content import tarwriter
from sampan.content.tarstream import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Blocks,
    Member,
    TarReader,
)

FIELDS = ("name", "kind", "link", "size", "mode", "uid", "gid", "mtime", "major", "minor", "xattrs", "extents")


def read_again(member: Member, data: bytes = b"") -> Member:
    pieces = iter([tarwriter.header(member) + data + tarwriter.padding(len(data)) + tarwriter.END, b""])
    (found,) = TarReader(Blocks(lambda: next(pieces)), 10)
    return found


def assert_same(found: Member, member: Member) -> None:
    for field in FIELDS:
        assert getattr(found, field) == getattr(member, field), field


names = st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"_").rstrip(b"/") or b"x")
ids = st.integers(0, (1 << 32) - 2)
times = st.integers(-(10**18), 8 * 10**18)
attributes = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="=\0"), min_size=1, max_size=20).map("user.{}".format),
    st.binary(max_size=600),
    max_size=4,
)


@given(names, names, st.sampled_from([HARD_LINK, SYMLINK, CHARACTER, FIFO]), ids, ids, st.integers(0, 0o7777), times, attributes)
def test_every_member_is_read_again(name, link, kind, uid, gid, mode, mtime, xattrs) -> None:
    linked = link if kind in (HARD_LINK, SYMLINK) else b""
    device = (0xFFF, 0xFFFFF) if kind == CHARACTER else (0, 0)
    member = tarwriter.member(name, kind, link=linked, uid=uid, gid=gid, mode=mode, mtime=mtime, device=device, xattrs=xattrs)
    assert_same(read_again(member), member)
    assert tarwriter.header(member) == tarwriter.header(read_again(member))


@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), max_size=40), st.integers(0, 9000), names)
def test_sparse_files_are_read_again(steps, tail, name) -> None:
    extents, at = [], 0
    for hole, length in steps:
        extents.append((at + hole, length))
        at += hole + length
    member = tarwriter.member(name, REGULAR, size=at + tail, extents=extents)
    data = b"d" * sum(length for _, length in extents)
    assert_same(read_again(member, data), member)


def test_pythons_reader_agrees() -> None:
    member = tarwriter.member(
        "dé/".encode() + b"n" * 120, SYMLINK, link=b"t" * 130, uid=3_000_000, gid=7, mode=0o777,
        mtime=1_700_000_000_500_000_000, xattrs={"user.k": b"v\n\0"},
    )  # fmt: skip
    sparse = tarwriter.member(b"sparse", REGULAR, size=10_000, extents=[(4096, 3)])
    out = tarwriter.header(member) + tarwriter.header(sparse) + b"abc" + tarwriter.padding(3) + tarwriter.END
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        first, second = tar.getmembers()
        assert (first.name, first.linkname, first.uid, first.mtime) == ("dé/" + "n" * 120, "t" * 130, 3_000_000, 1_700_000_000.5)
        assert first.pax_headers["SCHILY.xattr.user.k"] == "v\n\0"
        assert (second.name, second.size) == ("sparse", 10_000)
        assert tar.extractfile(second).read() == bytes(4096) + b"abc" + bytes(10_000 - 4099)


def test_plain_members_take_one_block_and_tell_nothing_of_the_host() -> None:
    header = tarwriter.header(tarwriter.member(b"d/", DIRECTORY, mode=0o755, mtime=1_700_000_000 * 10**9))
    assert len(header) == BLOCK
    info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (info.uname, info.gname, info.mtime, info.mode) == ("", "", 1_700_000_000, 0o755)


def test_a_length_that_counts_its_own_digits() -> None:
    for size in range(80, 120):
        member = tarwriter.member(b"x", REGULAR, xattrs={"user.a": b"v" * size})
        assert read_again(member).xattrs == member.xattrs


def test_what_no_reader_takes_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="attributes"):
        tarwriter.header(tarwriter.member(b"x", REGULAR, xattrs={f"user.{i}": bytes(60_000) for i in range(20)}))
    with pytest.raises(InvalidArgument, match="extents"):
        tarwriter.header(tarwriter.member(b"x", REGULAR, size=1 << 40, extents=[(i << 20, 1) for i in range(100_000)]))
