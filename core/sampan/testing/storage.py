"""The conformance suite for storage drivers. Subclass it, name your class, and run pytest as root:

    from sampan.testing.storage import StorageDriverSuite
    from sampan_storage_zfs.driver import ZfsDriver

    class TestZfs(StorageDriverSuite):
        driver_class = ZfsDriver

Override the fixture `driver_root` if the driver needs a file system of a certain kind. After every test the
suite removes all snapshots and compares the files under the root with those of an empty driver: what no
snapshot owns is a leak.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.storage import StorageContext, StorageDriver
from sampan.testing.leaks import Leaks
from sampan.testing.storage_contents import ContentCases
from sampan.testing.storage_crashes import CrashCases
from sampan.testing.storage_ground import Start, files_under
from sampan.testing.storage_rules import RuleCases


class StorageDriverSuite(RuleCases, ContentCases, CrashCases):
    """Every rule of `sampan.api.storage`."""

    driver_class: ClassVar[type[StorageDriver]]
    driver_settings: ClassVar[dict[str, Any]] = {}
    """What stands in `[storage.NAME]`."""
    require_supported: ClassVar[bool] = True
    """Fail where the probe says no; False skips with its reason."""
    layers: ClassVar[int] = 128
    """A height of stack that must work."""

    @pytest.fixture
    def driver_root(self, tmp_path: Path) -> Path:
        """Give the directory that will be `StorageContext.root`; it must be there, and empty."""
        root = tmp_path / "root"
        root.mkdir(mode=0o700)
        return root

    @pytest.fixture
    def start(self, driver_root: Path) -> Iterator[Start]:
        """Give a function that opens a new driver on the same root, as a daemon does that starts again.

        It closes the one before.
        """
        started: list[StorageDriver] = []

        def start() -> StorageDriver:
            for earlier in started:
                earlier.close()
            config = self.driver_class.config_model().model_validate(self.driver_settings)
            driver = self.driver_class(StorageContext(driver_root, "conformance"), config)
            started.append(driver)
            driver.open()
            return driver

        yield start
        for driver in started:
            driver.close()

    @pytest.fixture
    def driver(self, driver_root: Path, start: Start) -> Iterator[StorageDriver]:
        """Give an opened driver; afterwards nothing may be left of the test's snapshots."""
        probe = self.driver_class.probe(driver_root)
        if not probe.supported:
            (pytest.fail if self.require_supported else pytest.skip)(probe.reason)
        leaks = Leaks.before(mark=str(driver_root))
        empty = start()
        empty.close()
        files = files_under(driver_root)
        driver = start()
        yield driver
        driver.close()
        cleaner = start()
        for info in reversed(list(cleaner.walk())):
            cleaner.remove(info.key)
        assert list(cleaner.walk()) == []
        cleaner.close()
        assert files_under(driver_root) == files
        leaks.check()
