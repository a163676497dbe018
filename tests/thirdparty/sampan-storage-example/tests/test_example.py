from __future__ import annotations

from sampan.testing.storage import StorageDriverSuite
from sampan_storage_example.driver import ExampleDriver


class TestExample(StorageDriverSuite):
    driver_class = ExampleDriver
