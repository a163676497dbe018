from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.api.errors import Unsupported
from sampan.api.storage import Mount, SnapshotOptions, StorageContext
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.trees import HandMadeLayer, in_mounts
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import MAX_LAYERS, OverlayfsDriver


class TestOverlayfs(StorageDriverSuite):
    driver_class = OverlayfsDriver


class TestVolatile(StorageDriverSuite):
    driver_class = OverlayfsDriver
    driver_settings = {"volatile": True}


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
