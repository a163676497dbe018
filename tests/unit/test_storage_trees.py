"""Whole trees, without privileges: measure, remove, and vfs's copy."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.linux import copying, trees
from sampan.linux.copying import copy_tree

DEPTH = 3000


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_deep(top: Path, depth: int) -> None:
    """Make a tree that no path reaches, as a container can."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("directory", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_deep_trees_are_measured_and_removed(tmp_path: Path, few_descriptors: None) -> None:
    make_deep(tmp_path / "deep", DEPTH)
    assert trees.measure(tmp_path / "deep")[1] == 2 * DEPTH + 1
    trees.remove(tmp_path / "deep")
    assert os.listdir(tmp_path) == []


def test_remove_meets_its_own_names(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/b/c/d").mkdir(parents=True)
    (top / ".removed-1/x/y").mkdir(parents=True)
    (top / ".removed-1/file").touch()
    trees.remove(top)
    trees.remove(top)
    assert os.listdir(tmp_path) == []


def test_remove_follows_no_symlink(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to(outside)
    trees.remove(tmp_path / "top")
    assert os.listdir(outside) == ["file"]
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        trees.remove(tmp_path / "link")
    assert os.listdir(outside) == ["file"]


def test_remove_goes_on_where_a_crash_ended_it(tmp_path: Path) -> None:
    (tmp_path / "5.removed/sub").mkdir(parents=True)
    trees.remove(tmp_path / "5.removed")
    assert os.listdir(tmp_path) == []


def test_measure_counts_links_once_and_holes_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(1 << 16))
    os.link(tmp_path / "one", tmp_path / "two")
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 24)
    size, inodes = trees.measure(tmp_path)
    assert inodes == 3
    assert 1 << 16 <= size < 1 << 17


def test_measure_knows_when_a_directory_is_moved(tmp_path: Path) -> None:
    (tmp_path / "top/a/b").mkdir(parents=True)
    statuses = trees._statuses(tmp_path / "top")
    for _ in range(3):
        next(statuses)  # top, a, b: now in a, about to go into b
    (tmp_path / "top/a/b/c").mkdir()
    assert next(statuses).st_ino == (tmp_path / "top/a/b/c").stat().st_ino
    (tmp_path / "top/a/b").rename(tmp_path / "b")
    with pytest.raises(BlockingIOError, match="moved"):
        list(statuses)


def test_syncfs_names_what_is_missing(tmp_path: Path) -> None:
    trees.syncfs(tmp_path)
    with pytest.raises(FileNotFoundError):
        trees.syncfs(tmp_path / "nothing")


def test_copy_keeps_links_holes_times_and_kinds(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_bytes(b"x" * 5000)
    os.link(source / "sub/file", source / "name")
    os.setxattr(source / "name", "user.colour", b"blue")
    (source / "link").symlink_to("../nowhere")
    os.mkfifo(source / "fifo", 0o604)
    with (source / "sparse").open("wb") as file:
        file.write(b"start")
        file.seek(1 << 24)
        file.write(b"end")
        file.truncate(1 << 25)
    os.utime(source / "sub", ns=(1, 2_000_000_003))
    (source / "sub").chmod(0o2750)
    copy_tree(source, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert (copy / "sub/file").samefile(copy / "name")
    assert os.getxattr(copy / "name", "user.colour") == b"blue"
    assert os.readlink(copy / "link") == "../nowhere"
    assert (copy / "fifo").stat().st_mode == stat.S_IFIFO | 0o604
    assert (copy / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (copy / "sparse").stat().st_blocks <= (source / "sparse").stat().st_blocks
    assert (copy / "sub").stat().st_mtime_ns == 2_000_000_003
    assert (copy / "sub").stat().st_mode & 0o7777 == 0o2750


def test_copy_tries_a_reflink_first_and_only_once_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / name).write_text(name)
    tried = []

    def refuse(target: int, source: int) -> None:
        tried.append(source)
        raise OSError(errno.EOPNOTSUPP, "no reflinks")

    monkeypatch.setattr(copying, "ficlone", refuse)
    copy_tree(tmp_path / "source", tmp_path / "copy")
    assert len(tried) == 1
    assert sorted(path.read_text() for path in (tmp_path / "copy").iterdir()) == ["a", "b"]


def test_copy_fails_with_what_the_disk_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_text("a")

    def full(target: int, source: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(copying, "ficlone", full)
    with pytest.raises(OSError, match="full"):
        copy_tree(tmp_path / "source", tmp_path / "copy")


def test_trees_measured_as_one_count_shared_inodes_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(100_000))
    os.link(tmp_path / "a" / "file", tmp_path / "b" / "link")
    meter = trees.Meter()
    first, second = meter.tree(tmp_path / "a"), meter.any(tmp_path / "b")
    assert first == trees.measure(tmp_path / "a")
    assert second == meter.alone(tmp_path / "b")
    assert meter.any(tmp_path / "a" / "file") == (0, 0)
    assert meter.any(tmp_path / "nothing") == (0, 0)
    with pytest.raises(FileNotFoundError):
        trees.measure(tmp_path / "nothing")


def test_directories_that_are_moved_meanwhile_are_measured_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first walk finds itself elsewhere when it goes up; the second counts all, nothing twice."""
    (tmp_path / "top" / "in" / "deep").mkdir(parents=True)
    (tmp_path / "top" / "file").write_bytes(bytes(5000))
    whole = trees.measure(tmp_path / "top")
    real, moved = os.scandir, []

    def scan(fd: int) -> object:
        if not moved and os.readlink(f"/proc/self/fd/{fd}").endswith("deep"):
            moved.append((tmp_path / "top" / "in" / "deep").rename(tmp_path / "top" / "deep"))
        return real(fd)

    monkeypatch.setattr(os, "scandir", scan)
    assert trees.measure(tmp_path / "top") == whole
    assert moved
