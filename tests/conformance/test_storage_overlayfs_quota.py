"""The overlayfs driver with limits: the whole suite with loop files, and what is special about them."""

from __future__ import annotations

from sampan.api.storage import StorageCapability, StorageContext, StorageDriver
from sampan.testing.storage import StorageDriverSuite
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import OverlayfsDriver


class TestLoopFiles(StorageDriverSuite):
    driver_class = OverlayfsDriver
    driver_settings = {"quota": "loop"}

    def test_the_capability_is_claimed(self, driver: StorageDriver) -> None:
        assert StorageCapability.QUOTA in driver.capabilities()
