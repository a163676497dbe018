from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sampan.linux import files
from sampan.linux.files import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "etc").mkdir()
    (tmp_path / "inside" / "etc" / "passwd").write_text("inside")
    (tmp_path / "inside" / "out").symlink_to("/etc/passwd")
    (tmp_path / "inside" / "up").symlink_to("../../../../etc/passwd")
    return tmp_path / "inside"


@pytest.mark.parametrize("name", ["out", "up", "/etc/passwd", "../../etc/passwd"])
def test_in_root_leads_nowhere_else(root: Path, name: str) -> None:
    directory = files.open_directory(root)
    try:
        fd = openat2(directory, name, os.O_RDONLY, resolve=RESOLVE_IN_ROOT)
        assert os.read(fd, 10) == b"inside"
        os.close(fd)
        with pytest.raises(OSError, match="Invalid cross-device link") as caught:
            openat2(directory, name, os.O_RDONLY, resolve=RESOLVE_BENEATH)
        assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, name)
    finally:
        os.close(directory)


def test_magic_links_are_refused() -> None:
    with pytest.raises(OSError, match="Too many levels"):
        openat2(-100, "/proc/self/exe", os.O_RDONLY, resolve=RESOLVE_NO_MAGICLINKS)


@pytest.mark.parametrize("durable", [True, False])
def test_atomic_write_replaces_and_leaves_nothing(tmp_path: Path, durable: bool) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    files.write_atomic(target, b"new", durable=durable, mode=0o640)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_failed_atomic_write_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write_atomic(target, b"new", durable=False)
    assert [each.name for each in tmp_path.iterdir()] == ["directory"]


def test_type_of_proc() -> None:
    fd = os.open("/proc", os.O_PATH)
    try:
        assert files.filesystem_type(fd) == files.PROC_SUPER_MAGIC
    finally:
        os.close(fd)
