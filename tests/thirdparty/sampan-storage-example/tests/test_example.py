from __future__ import annotations

from sampan_storage_example.driver import ExampleDriver

from sampan.testing.storage import StorageDriverSuite


class TestExample(StorageDriverSuite):
    driver_class = ExampleDriver
