from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from sampan.api.errors import Unsupported
from sampan.api.storage import Change, ChangeKind, Mount, SnapshotOptions, StorageCapability, StorageContext
from sampan.linux import overlay
from sampan.testing.idmap import check_shifted_owners
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.storage_ground import claimed
from sampan.testing.trees import HandMadeLayer, in_mounts
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import MAX_LAYERS, OverlayfsDriver


class TestOverlayfs(StorageDriverSuite):
    driver_class = OverlayfsDriver


class TestVolatile(StorageDriverSuite):
    driver_class = OverlayfsDriver
    driver_settings = {"volatile": True}
    test_kill_between_any_two_steps = None  # as without the setting


class TestRedirects(StorageDriverSuite):
    driver_class = OverlayfsDriver
    driver_settings = {"redirect_dir": True, "metacopy": True}
    test_kill_between_any_two_steps = None  # as without the settings


Open = Callable[..., OverlayfsDriver]


@pytest.fixture
def open_driver(tmp_path: Path) -> Iterator[Open]:
    """Give a function that opens a driver with settings."""
    opened: list[OverlayfsDriver] = []

    def open_one(**settings: object) -> OverlayfsDriver:
        opened.append(OverlayfsDriver(StorageContext(tmp_path, "own"), OverlayfsConfig(**settings)))
        opened[-1].open()
        return opened[-1]

    yield open_one
    for driver in opened:
        driver.close()


def below_root(changes: Iterable[Change]) -> list[Change]:
    """Leave out the root, whose time changes with its names."""
    return [change for change in changes if change.path]


def add_tree(driver: OverlayfsDriver) -> None:
    """Commit "one", with directories to rename and a large file."""
    driver.prepare("k", None, SnapshotOptions())
    driver.apply("k", HandMadeLayer(["dir/sub/file", "other/file"], contents={"large": "x" * (1 << 20)}))
    driver.commit("one", "k")
    driver.prepare("k", "one", SnapshotOptions())


class TestOlderKernel:
    """The same without `lowerdir+`, as before Linux 6.8."""

    @pytest.fixture(autouse=True)
    def _without_lowerdir_plus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overlay, "takes_each_layer", lambda: False)

    def test_probe(self, tmp_path: Path) -> None:
        probe = OverlayfsDriver.probe(tmp_path)
        assert probe.supported
        assert StorageCapability.IDMAP in probe.capabilities

    def test_two_hundred_layers(self, open_driver: Open) -> None:
        driver = open_driver()
        parent = None
        for number in range(200):
            driver.prepare("making", parent, SnapshotOptions())
            driver.apply("making", HandMadeLayer(files=[str(number)], deleted=[str(number - 1)] if number % 2 else []))
            parent = f"layer{number}"
            driver.commit(parent, "making")
        driver.prepare("k", parent, SnapshotOptions())
        assert len(in_mounts(driver.mounts("k"), os.listdir)) == 100
        in_mounts(driver.mounts("k"), lambda root: (root / "199").unlink())
        assert below_root(driver.diff("k")) == [Change(b"199", ChangeKind.DELETED)]

    def test_shifted_owners(self, open_driver: Open) -> None:
        check_shifted_owners(open_driver())


class TestRenames:
    """`mv` of a lower layer's directory: a copy as with Docker, or a rename where that is set."""

    def test_a_rename_is_refused_and_mv_copies(self, open_driver: Open) -> None:
        driver = open_driver()
        add_tree(driver)

        def move(root: Path) -> int:
            try:
                (root / "dir").rename(root / "moved")
            except OSError as error:
                subprocess.run(["mv", root / "dir", root / "moved"], check=True)
                return error.errno or 0
            return 0

        assert in_mounts(driver.mounts("k"), move) == errno.EXDEV
        upper = driver.directory(2) / "fs"
        assert (upper / "moved/sub/file").read_text() == "dir/sub/file"
        assert "trusted.overlay.redirect" not in os.listxattr(upper / "moved")

    def test_a_rename_that_stays_one(self, open_driver: Open) -> None:
        driver = open_driver(redirect_dir=True, metacopy=True)
        add_tree(driver)

        def change(root: Path) -> None:
            (root / "dir").rename(root / "moved")
            (root / "moved/sub").rename(root / "sub")
            (root / "large").chmod(0o600)

        in_mounts(driver.mounts("k"), change)
        upper = driver.directory(2) / "fs"
        assert os.getxattr(upper / "sub", "trusted.overlay.redirect") == b"/dir/sub"
        assert os.listdir(upper / "sub") == []
        assert (upper / "large").stat().st_blocks * 512 < 1 << 20
        expected = [
            Change(b"dir", ChangeKind.DELETED), Change(b"large", ChangeKind.MODIFIED), Change(b"moved", ChangeKind.ADDED),
            Change(b"sub", ChangeKind.ADDED), Change(b"sub/file", ChangeKind.ADDED),
        ]  # fmt: skip

        def read(root: Path) -> tuple[str, int]:
            return (root / "sub/file").read_text(), len((root / "large").read_bytes())

        assert below_root(driver.diff("k")) == expected
        assert in_mounts(driver.look("k"), read) == ("dir/sub/file", 1 << 20)
        driver.commit("two", "k")
        driver.prepare("k", "two", SnapshotOptions())
        assert below_root(driver.diff("two")) == expected
        assert in_mounts(driver.mounts("k"), read) == ("dir/sub/file", 1 << 20)
        assert in_mounts(driver.look("two"), read) == ("dir/sub/file", 1 << 20)


class TestHost:
    """What is overlay's own."""

    def test_the_kernels_tallest_stack(self, tmp_path: Path) -> None:
        driver = OverlayfsDriver(StorageContext(tmp_path, "tall"), OverlayfsConfig())
        driver.open()
        try:
            parent = None
            for number in range(MAX_LAYERS + 1):
                driver.prepare("making", parent, SnapshotOptions())
                driver.apply("making", HandMadeLayer(files=[str(number)]))
                if number == MAX_LAYERS:
                    assert len(in_mounts(driver.mounts("making"), os.listdir)) == MAX_LAYERS + 1
                parent = f"layer{number}"
                driver.commit(parent, "making")
            with pytest.raises(Unsupported, match="501 layers"):
                driver.prepare("too much", parent, SnapshotOptions())
        finally:
            driver.close()

    def test_shifted_owners(self, open_driver: Open) -> None:
        driver = open_driver()
        assert StorageCapability.IDMAP in claimed(driver)
        check_shifted_owners(driver)

    def test_probe_refuses_a_root_on_overlay(self, tmp_path: Path) -> None:
        for name in ("lower", "upper", "work"):
            (tmp_path / name).mkdir()
        options = [f"lowerdir+={tmp_path}/lower", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"]
        probe = in_mounts([Mount("overlay", "overlay", tuple(options))], OverlayfsDriver.probe)
        assert not probe.supported
        assert "not on overlay" in probe.reason
        assert os.listdir(tmp_path / "upper") == []

    def test_probe_refuses_a_read_only_root(self, tmp_path: Path) -> None:
        probe = in_mounts([Mount("bind", str(tmp_path), ("bind", "ro"))], OverlayfsDriver.probe)
        assert not probe.supported
        assert "Read-only file system" in probe.reason

    def test_redirects_in_an_image_are_not_followed(self, tmp_path: Path) -> None:
        """An attribute in a layer must not make another directory show in its place."""
        driver = OverlayfsDriver(StorageContext(tmp_path, "redirect"), OverlayfsConfig())
        driver.open()
        try:
            driver.prepare("k", None, SnapshotOptions())
            target = driver.directory(1) / "fs"
            (target / "secret").mkdir()
            (target / "secret/file").touch()
            driver.commit("one", "k")
            driver.prepare("k", "one", SnapshotOptions())
            ((driver.directory(2) / "fs") / "public").mkdir()
            os.setxattr((driver.directory(2) / "fs") / "public", "trusted.overlay.redirect", b"secret")

            def look(root: Path) -> list[str] | str:
                try:
                    return os.listdir(root / "public")
                except OSError as error:
                    return error.strerror or ""

            assert in_mounts(driver.mounts("k"), look) in ([], "Operation not permitted")
        finally:
            driver.close()
