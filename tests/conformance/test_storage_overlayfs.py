from __future__ import annotations

from sampan.testing.storage import StorageDriverSuite
from sampan_storage_overlayfs.driver import OverlayfsDriver


class TestOverlayfs(StorageDriverSuite):
    driver_class = OverlayfsDriver


class TestVolatile(StorageDriverSuite):
    driver_class = OverlayfsDriver
    driver_settings = {"volatile": True}
