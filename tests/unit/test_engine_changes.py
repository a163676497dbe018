"""What docker diff shows of what a driver tells."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.api.errors import System
from sampan.api.storage import Change, ChangeKind, SnapshotOptions, StorageContext
from sampan.engine import changes
from sampan.testing.trees import in_mounts
from sampan_storage_vfs.driver import VfsDriver

ADDED, MODIFIED, DELETED = ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[VfsDriver]:
    driver = VfsDriver(StorageContext(tmp_path, "changes"), VfsDriver.config_model()())
    driver.open()
    yield driver
    driver.close()


def shown(driver: VfsDriver, image: Callable[[Path], object], container: Callable[[Path], object]) -> list[tuple[bytes, ChangeKind]]:
    driver.prepare("k", None, SnapshotOptions())
    in_mounts(driver.mounts("k"), image)
    driver.commit("image", "k")
    driver.prepare("container", "image", SnapshotOptions())
    in_mounts(driver.mounts("container"), container)
    return [(change.path, change.kind) for change in changes.without_places(driver, "container") if change.path]


def etc(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/old").touch()
    os.utime(root / "etc", ns=(0, 10**17))


def places(root: Path) -> None:
    for name in ("etc", "proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).touch()


def test_places_alone_are_not_shown(driver: VfsDriver) -> None:
    assert shown(driver, etc, places) == []


def test_a_root_without_etc(driver: VfsDriver) -> None:
    assert shown(driver, lambda root: (root / "app").touch(), places) == []


def test_places_and_another_file(driver: VfsDriver) -> None:
    def change(root: Path) -> None:
        places(root)
        (root / "etc/new").touch()

    assert shown(driver, etc, change) == [(b"etc", MODIFIED), (b"etc/new", ADDED)]


@pytest.mark.parametrize("change", [lambda path: path.chmod(0o700), lambda path: os.setxattr(path, "user.a", b"1")])
def test_places_and_another_mode_or_attribute(driver: VfsDriver, change: Callable[[Path], object]) -> None:
    assert shown(driver, etc, lambda root: (places(root), change(root / "etc"))) == [(b"etc", MODIFIED)]


def test_a_place_of_the_image_that_is_deleted(driver: VfsDriver) -> None:
    def image(root: Path) -> None:
        etc(root)
        (root / "etc/hosts").touch()

    assert shown(driver, image, lambda root: (root / "etc/hosts").unlink()) == [(b"etc", MODIFIED), (b"etc/hosts", DELETED)]


def test_ancestors() -> None:
    told = [Change(b"a/b/c", ADDED), Change(b"a/b/c/d", ADDED), Change(b"a/e", DELETED), Change(b"f", MODIFIED), Change(b"f/g/h", ADDED)]
    with_ancestors = [change.path for change in changes.with_ancestors(told)]
    assert with_ancestors == [b"a", b"a/b", b"a/b/c", b"a/b/c/d", b"a/e", b"f", b"f/g", b"f/g/h"]
    assert list(changes.with_ancestors(told))[0].kind is MODIFIED


def test_too_much_to_tell(driver: VfsDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_MAX_BYTES", 1000)
    with pytest.raises(System, match="their paths take more than"):
        changes._list(_Chatty(driver.context, driver.config), "key")


class _Chatty(VfsDriver):
    def diff(self, key: str) -> Iterator[Change]:
        for number in range(1000):
            yield Change(b"%d" % number, ADDED)
