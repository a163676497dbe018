from __future__ import annotations

from sampan.testing.storage import StorageDriverSuite
from sampan_storage_vfs.driver import VfsDriver


class TestVfs(StorageDriverSuite):
    driver_class = VfsDriver
