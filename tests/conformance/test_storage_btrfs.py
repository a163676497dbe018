from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.testing.storage import StorageDriverSuite
from sampan_storage_btrfs.driver import BtrfsDriver


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs of 512 MB in a sparse file of the tests' own."""
    place = tmp_path_factory.mktemp("btrfs")
    image, mounted = place / "image", place / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)
    run("mkfs.btrfs", "--quiet", str(image))
    device = run("losetup", "--find", "--show", str(image))
    try:
        run("mount", device, str(mounted))
        try:
            yield mounted
        finally:
            run("umount", str(mounted))
    finally:
        run("losetup", "--detach", device)
        image.unlink()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class TestBtrfs(StorageDriverSuite):
    driver_class = BtrfsDriver

    @pytest.fixture
    def driver_root(self, btrfs: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
        root = btrfs / "root"
        root.mkdir(mode=0o700)
        yield root
        run("rm", "-rf", str(root))
