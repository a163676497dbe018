"""The overlayfs driver's mounts as data: nothing is mounted here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.api.errors import Unsupported
from sampan.api.storage import Mount, SnapshotOptions, StorageContext, Whiteouts
from sampan.testing.trees import HandMadeLayer
from sampan_storage_overlayfs import driver as module
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import BASE_OPTIONS, OverlayfsDriver
from sampan_storage_overlayfs.probing import why_unsupported

PLAIN = SnapshotOptions()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OverlayfsDriver]:
    driver = OverlayfsDriver(StorageContext(tmp_path, "unit"), OverlayfsConfig())
    driver.open()
    yield driver
    driver.close()


def add_layers(driver: OverlayfsDriver, count: int) -> str | None:
    parent = None
    for number in range(count):
        driver.prepare("making", parent, PLAIN)
        parent = f"layer{number}"
        driver.commit(parent, "making")
    return parent


def test_one_layer_is_a_bind_mount(driver: OverlayfsDriver, tmp_path: Path) -> None:
    driver.prepare("active", None, PLAIN)
    assert driver.mounts("active") == (Mount("bind", f"{tmp_path}/snapshots/1/fs", ("bind", "rw")),)
    driver.commit("layer", "active")
    driver.view("view", "layer", PLAIN)
    assert driver.mounts("view") == (Mount("bind", f"{tmp_path}/snapshots/1/fs", ("bind", "ro")),)


def test_layers_are_stacked_topmost_first(driver: OverlayfsDriver, tmp_path: Path) -> None:
    top = add_layers(driver, 2)
    driver.prepare("active", top, PLAIN)
    driver.prepare("volatile", top, SnapshotOptions(volatile=True))
    driver.view("view", top, PLAIN)
    snapshots = tmp_path / "snapshots"
    lower = (f"lowerdir+={snapshots}/2/fs", f"lowerdir+={snapshots}/1/fs")
    upper = (f"upperdir={snapshots}/3/fs", f"workdir={snapshots}/3/work")
    assert driver.mounts("active") == (Mount("overlay", "overlay", (*lower, *upper, *BASE_OPTIONS)),)
    assert driver.mounts("volatile")[0].options[-1] == "volatile"
    assert driver.mounts("view") == (Mount("overlay", "overlay", ("ro", *lower, *BASE_OPTIONS)),)


def test_the_lowest_layer_deletes_and_others_hide(driver: OverlayfsDriver) -> None:
    told = []

    class Layer(HandMadeLayer):
        def unpack(self, directory: int, whiteouts: Whiteouts) -> None:
            told.append(whiteouts)

    driver.prepare("lowest", None, PLAIN)
    driver.apply("lowest", Layer())
    driver.commit("layer", "lowest")
    driver.prepare("next", "layer", PLAIN)
    driver.apply("next", Layer())
    assert told == [Whiteouts.DELETE, Whiteouts.OVERLAY]


def test_a_stack_that_is_too_tall_is_refused(
    driver: OverlayfsDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LAYERS", 2)
    top = add_layers(driver, 3)
    for make in (driver.prepare, driver.view):
        with pytest.raises(Unsupported, match="on 3 layers: overlay stacks at most 2"):
            make("key", top, PLAIN)
    assert [info.key for info in driver.walk()] == ["layer0", "layer1", "layer2"]
    assert len(list((driver.context.root / "snapshots").iterdir())) == 3


def test_a_root_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    assert "longer than" in why_unsupported(tmp_path / ("x" * 250), BASE_OPTIONS)
