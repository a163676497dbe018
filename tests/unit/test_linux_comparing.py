"""Trees compared: every rule by hand, hostile trees, and trees that change under our feet."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from sampan.linux.comparing import Change, ChangeKind, compare, same, same_but_mtime
from sampan.linux.cursor import Cursor
from sampan.linux.files import opened_directory

ADDED, MODIFIED, DELETED, LINKED = ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED, ChangeKind.LINKED
STEADY_NS = 10**17
LEVELS = 10_000


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    return old, new


def fill(old: Path, new: Path) -> None:
    """Make a tree and its copy, equal in all but inode numbers."""
    (old / "d/e").mkdir(parents=True)
    (old / "d/f").write_bytes(b"contents")
    (old / "d/e/g").write_bytes(b"")
    os.symlink("target", old / "l")
    os.mkfifo(old / "p")
    os.mknod(old / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    shutil.copytree(old, new, symlinks=True, ignore=lambda *_: ["p", "c"])
    os.mkfifo(new / "p")
    os.mknod(new / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    steady(old)
    steady(new)


def steady(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(0, STEADY_NS), follow_symlinks=False)


def changes(old: Path | None, new: Path) -> list[tuple[bytes, ChangeKind]]:
    with opened_directory(new) as after:
        if old is None:
            return [(change.path, change.kind) for change in compare(None, after)]
        with opened_directory(old) as before:
            return [(change.path, change.kind) for change in compare(before, after)]


def test_equal_trees(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    assert changes(*pair) == []


def test_without_an_old_one(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    assert changes(None, pair[1]) == [(path, ADDED) for path in (b"c", b"d", b"d/e", b"d/e/g", b"d/f", b"l", b"p")]


def test_the_order_is_that_of_a_walk(pair: tuple[Path, Path]) -> None:
    old, new = pair
    new.mkdir()
    for name in ("b", "b.d", "B"):
        (new / name / "x").mkdir(parents=True)
    (new / "b-").touch()
    os.mkdir(os.fsencode(new) + b"/\xff\n")
    os.mkdir(new / "é")
    os.mkdir(new / "\U0001f600")
    os.mkdir(os.fsencode(new) + b"/\xe9")  # sorts after \xc3\xa9 as bytes, before it as a surrogate escape
    names = [path for path, _ in changes(None, new)]
    assert names == [b"B", b"B/x", b"b", b"b/x", b"b-", b"b.d", b"b.d/x", "é".encode(), b"\xe9", "\U0001f600".encode(), b"\xff\n"]


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "mode": (lambda root: (root / "d/f").chmod(0o4711), "d/f"),
    "owner": (lambda root: os.chown(root / "l", 5, -1, follow_symlinks=False), "l"),
    "group": (lambda root: os.chown(root / "p", -1, 6), "p"),
    "a nanosecond": (lambda root: os.utime(root / "d/f", ns=(0, STEADY_NS + 1)), "d/f"),
    "time of a symlink": (lambda root: os.utime(root / "l", ns=(0, 5), follow_symlinks=False), "l"),
    "contents of the same size": (lambda root: (root / "d/f").write_bytes(b"contentz"), "d/f"),
    "size": (lambda root: (root / "d/f").write_bytes(b"content"), "d/f"),
    "attribute of a file": (lambda root: os.setxattr(root / "d/f", "user.a", b"1"), "d/f"),
    "attribute of a directory": (lambda root: os.setxattr(root / "d", "user.a", b"1"), "d"),
    "attribute of a symlink": (lambda root: os.setxattr(root / "l", "trusted.a", b"1", follow_symlinks=False), "l"),
    "attribute of a device": (lambda root: os.setxattr(root / "c", "trusted.a", b"1"), "c"),
    "attribute of the root": (lambda root: os.setxattr(root, "user.a", b"1"), ""),
    "mode of the root": (lambda root: root.chmod(0o700), ""),
    "target": (lambda root: again(root / "l", lambda path: path.symlink_to("tarfet")), "l"),
    "device": (lambda root: again(root / "c", lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))), "c"),
    "type": (lambda root: again(root / "p", Path.touch), "p"),
}


def again(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)
    steady(path.parent)


@pytest.mark.parametrize("what", CHANGES)
def test_a_change(pair: tuple[Path, Path], what: str) -> None:
    fill(*pair)
    change, name = CHANGES[what]
    before = (pair[1] / name).lstat().st_mtime_ns
    change(pair[1])
    if "time" not in what and "nanosecond" not in what:
        os.utime(pair[1] / name, ns=(0, before), follow_symlinks=False)
    assert changes(*pair) == [(name.encode(), MODIFIED)]
    assert [kind for _, kind in changes(pair[1], pair[0])] == [MODIFIED]


def test_an_attribute_with_another_value_or_without_one(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    os.setxattr(pair[0] / "d/f", "user.a", b"")
    assert changes(*pair) == [(b"d/f", MODIFIED)]
    os.setxattr(pair[1] / "d/f", "user.a", b"x")
    assert changes(*pair) == [(b"d/f", MODIFIED)]
    os.setxattr(pair[1] / "d/f", "user.a", b"")
    assert changes(*pair) == []


def test_overlays_own_attributes_do_not_count(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    for path in (pair[1], pair[1] / "d", pair[1] / "d/f"):
        os.setxattr(path, "trusted.overlay.origin", b"x")
    assert changes(*pair) == []


def test_a_directory_for_a_file_and_back(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    old, new = pair
    again(new / "l", lambda path: (path / "below").mkdir(parents=True))
    shutil.rmtree(new / "d")
    (new / "d").touch()
    steady(new)
    assert changes(old, new) == [(b"d", MODIFIED), (b"l", MODIFIED), (b"l/below", ADDED)]


def test_a_deleted_directory_is_told_alone(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    shutil.rmtree(pair[1] / "d")
    steady(pair[1])
    assert changes(*pair) == [(b"d", DELETED)]


def linked_tree(root: Path, *groups: str) -> None:
    root.mkdir(exist_ok=True)
    for group in groups:
        first, *others = group
        (root / first).write_text("same")
        for other in others:
            os.link(root / first, root / other)
    steady(root)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (["ab"], ["ab"], []),
        (["a"], ["ac"], [(b"a", LINKED), (b"c", ADDED)]),
        (["b"], ["ab"], [(b"a", ADDED), (b"b", LINKED)]),
        (["a", "b"], ["ab"], [(b"a", LINKED), (b"b", LINKED)]),
        (["ab"], ["a"], [(b"b", DELETED)]),
        (["ab"], ["ac"], [(b"a", LINKED), (b"b", DELETED), (b"c", ADDED)]),
        (["ab"], ["a", "b"], []),
        (["ab", "cd"], ["ac", "bd"], [(b"a", LINKED), (b"b", LINKED), (b"c", LINKED), (b"d", LINKED)]),
        (["a", "bc"], ["a", "bcd"], [(b"b", LINKED), (b"c", LINKED), (b"d", ADDED)]),
    ],
)
def test_hard_links(pair: tuple[Path, Path], before: list[str], after: list[str], told: list[tuple[bytes, ChangeKind]]) -> None:
    linked_tree(pair[0], *before)
    linked_tree(pair[1], *after)
    assert changes(*pair) == told


def test_contents_of_linked_files(pair: tuple[Path, Path]) -> None:
    linked_tree(pair[0], "ab")
    linked_tree(pair[1], "abc")
    (pair[1] / "a").write_text("diff")
    steady(pair[1])
    assert changes(*pair) == [(b"a", MODIFIED), (b"b", MODIFIED), (b"c", ADDED)]


def test_sparse_giants_are_compared_by_their_data(pair: tuple[Path, Path]) -> None:
    old, new = pair
    new.mkdir()
    for root in pair:
        with (root / "giant").open("wb") as file:
            file.truncate(8 << 40)
            os.pwrite(file.fileno(), b"in the middle", 4 << 40)
        steady(root)
    began = time.process_time()
    assert changes(old, new) == []
    with (new / "giant").open("r+b") as file:
        os.pwrite(file.fileno(), b"late", (8 << 40) - 4)
    steady(new)
    assert changes(old, new) == [(b"giant", MODIFIED)]
    assert time.process_time() - began < 5  # 16 TB can't be read in it


def test_a_hole_is_the_same_as_zeros(pair: tuple[Path, Path]) -> None:
    old, new = pair
    new.mkdir()
    (old / "f").write_bytes(bytes(1 << 20))
    with (new / "f").open("wb") as file:
        file.truncate(1 << 20)
    steady(old)
    steady(new)
    assert changes(old, new) == []


def test_the_same_file_is_not_read(pair: tuple[Path, Path]) -> None:
    """A giant without holes, told to be the same by inode number and ctime alone."""
    (pair[0] / "f").write_bytes(b"x")
    with opened_directory(pair[0]) as directory:
        os.chmod(pair[0], 0)
        assert same(directory, b"f", directory, b"f")
    with opened_directory(pair[0].parent) as directory:
        assert same(directory, b"old", directory, b"old")
    pair[0].chmod(0o700)


def test_fifos_and_devices_are_not_opened(pair: tuple[Path, Path]) -> None:
    """Opening this device fails with ENXIO; opening this fifo would let the writer go."""
    fill(*pair)
    for root in pair:
        os.mknod(root / "nothing", stat.S_IFBLK | 0o600, os.makedev(240, 77))
        steady(root)
    writer = os.fork()
    if writer == 0:
        os.open(pair[1] / "p", os.O_WRONLY)
        os._exit(0)
    try:
        assert changes(*pair) == []
        assert os.waitpid(writer, os.WNOHANG) == (0, 0)
    finally:
        os.kill(writer, 9)
        os.waitpid(writer, 0)


def deep(top: Path, levels: int) -> None:
    """Make a chain of directories, too deep for any path."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.fixture
def deep_pair() -> Iterator[tuple[Path, Path]]:
    """Two directories in memory: ext4 takes minutes to make and delete such trees."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm"))
    (base / "old").mkdir()
    (base / "new").mkdir()
    yield base / "old", base / "new"
    subprocess.run(["rm", "-rf", base], check=True)


def test_a_tree_deeper_than_any_stack(deep_pair: tuple[Path, Path]) -> None:
    old, new = deep_pair
    deep(new, LEVELS)
    open_before = len(os.listdir("/proc/self/fd"))
    with opened_directory(old) as before, opened_directory(new) as after:
        last = b""
        for number, change in enumerate(compare(before, after)):
            last = change.path
            if number == LEVELS - 9:
                assert len(os.listdir("/proc/self/fd")) <= open_before + 6
    assert last == b"d/" * LEVELS + b"end"
    deep(old, LEVELS)
    assert {kind for _, kind in changes(old, new)} <= {MODIFIED}


def test_a_name_that_vanishes(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    old, new = pair
    with opened_directory(old) as before, opened_directory(new) as after:
        walk = compare(before, after)
        os.setxattr(new / "c", "trusted.a", b"")
        assert next(walk) == Change(b"c", MODIFIED)
        (new / "l").unlink()
        shutil.rmtree(new / "d")
        assert list(walk) == [Change(b"d", DELETED), Change(b"l", DELETED)]


def test_a_directory_that_becomes_a_symlink(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Told as it was found; what the symlink leads to is not looked at."""
    old, new = pair
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    (new / "d/e").mkdir(parents=True)
    (new / "d/f").touch()
    steady(old)
    steady(new)
    with opened_directory(old) as before, opened_directory(new) as after:
        walk = compare(before, after)
        assert next(walk) == Change(b"d", ADDED)
        shutil.rmtree(new / "d")
        (new / "d").symlink_to(outside)
        assert list(walk) == []


def test_a_directory_that_is_moved_while_we_are_in_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """`..` leads elsewhere then: the walk goes on where it came from, and leaves the tree at no time."""
    old, new = pair
    outside = tmp_path / "outside"
    (outside / "secret").mkdir(parents=True)
    for name in ("a/b/c", "a/z", "q"):
        (new / name).mkdir(parents=True)
    steady(old)
    steady(new)
    with opened_directory(old) as before, opened_directory(new) as after:
        walk = compare(before, after)
        found = [next(walk) for _ in range(3)]
        assert found[-1] == Change(b"a/b/c", ADDED)
        (new / "a/b").rename(outside / "b")
        assert list(walk) == [Change(b"a/z", ADDED), Change(b"q", ADDED)]
    with opened_directory(new) as after, Cursor(after) as cursor:
        for name in (b"a", b"z"):
            cursor.down(name)
        (new / "a/z").rename(outside / "z")
        (new / "a").rename(outside / "a")
        cursor.up()
        assert not cursor.is_somewhere
        cursor.down(b"anything")
        cursor.up()
        cursor.up()
        assert cursor.names() == [b"q"]


class NamesOf(Cursor):
    """A record: what is not in a tree at the same path does not differ."""

    def differing(self, _old: Cursor, _new: Cursor) -> list[bytes] | None:
        return self.names()


class Whole(NamesOf):
    """One that can't tell of what is below the top."""

    def differing(self, _old: Cursor, _new: Cursor) -> list[bytes] | None:
        return self.names() if b"l" in self.names() else None


def test_a_record_narrows_what_is_looked_at(pair: tuple[Path, Path], tmp_path: Path) -> None:
    fill(*pair)
    old, new = pair
    record = tmp_path / "record"
    (record / "d").mkdir(parents=True)
    (record / "l").touch()
    (new / "l").unlink()
    (new / "p").unlink()
    (new / "d/f").unlink()
    steady(new)
    with opened_directory(old) as before, opened_directory(new) as after, opened_directory(record) as top:
        assert list(compare(before, after, partial(NamesOf, top))) == [Change(b"l", DELETED)]
        assert list(compare(before, after, partial(Whole, top))) == [Change(b"d/f", DELETED), Change(b"l", DELETED)]


def test_the_same_but_for_the_time(pair: tuple[Path, Path]) -> None:
    fill(*pair)
    old, new = pair
    (new / "d/x").touch()
    with opened_directory(old) as before, opened_directory(new) as after:
        assert not same(before, b"d", after, b"d")
        assert same_but_mtime(before, after, b"d")
        os.setxattr(new / "d", "user.a", b"")
        assert not same_but_mtime(before, after, b"d")
