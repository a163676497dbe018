"""Layers of any order and nonsense mean the same, whether deletions are carried out or put as marks in an overlay's upper."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument
from sampan.content.deletions import DeleteBelow, Deletions, OverlayMarks
from sampan.content.tarstream import Blocks, TarReader
from sampan.content.unpacker import Unpacker
from sampan.linux.files import opened_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="marks are devices")

PATH = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
LOWER = st.lists(st.tuples(st.sampled_from(["file", "directory"]), PATH), max_size=8)
LAYER = st.lists(
    st.tuples(st.sampled_from(["file", "directory", "symlink", "link", "whiteout", "opaque"]), PATH), min_size=1, max_size=8
)
GHOST = ("ghost",)
"""What overlayfs lists and does not find: a mark for what was never there, in a directory that is in one layer only."""


def tar_of(entries: list[tuple[str, str]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, (kind, path) in enumerate(entries):
            above, _, name = path.rpartition("/")
            member = tarfile.TarInfo(path)
            data = b""
            if kind == "file":
                data = f"{number}".encode()
            elif kind == "directory":
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            elif kind == "symlink":
                member.type, member.linkname = tarfile.SYMTYPE, "nowhere"
            elif kind == "link":
                member.type, member.linkname = tarfile.LNKTYPE, entries[0][1]
            elif kind == "whiteout":
                member.name = f"{above}/.wh.{name}"
            else:
                member.name = f"{path}/.wh..wh..opq"
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unpack(data: bytes, target: Path, deletions: Deletions) -> None:
    stream = io.BytesIO(data)
    with opened_directory(target) as directory:
        Unpacker(TarReader(Blocks(lambda: stream.read(1 << 16)), 1000), directory, deletions).run()


def tree(root: Path) -> dict[str, tuple[str, ...]]:
    found = {}
    for base, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(base, name)
            what: tuple[str, ...] = GHOST
            if path.is_symlink():
                what = ("symlink", os.readlink(path))
            elif path.is_dir():
                what = ("directory",)
            elif path.exists():
                what = ("file", path.read_text())
            found[str(path.relative_to(root))] = what
    return found


@pytest.fixture(scope="module")
def mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(lower=LOWER, layer=LAYER)
def test_marks_hide_what_deletions_delete(mask: None, tmp_path_factory: pytest.TempPathFactory, lower: list, layer: list) -> None:
    place = tmp_path_factory.mktemp("layers")
    whole, below, upper, work, merged = (place / name for name in ("whole", "below", "upper", "work", "merged"))
    for directory in (whole, below, upper, work, merged):
        directory.mkdir()
    data = tar_of(layer)
    try:
        for target in (whole, below):
            unpack(tar_of(lower), target, DeleteBelow())
        unpack(data, whole, DeleteBelow())
        unpack(data, upper, OverlayMarks())
    except InvalidArgument:
        assume(False)
    options = f"lowerdir={below},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        seen = {path: what for path, what in tree(merged).items() if what != GHOST}
    finally:
        subprocess.run(["umount", merged], check=True)
    assert seen == tree(whole)
    subprocess.run(["rm", "-rf", place], check=True)
