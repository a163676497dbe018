"""The overlayfs driver's mounts as data: nothing is mounted here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from sampan.api.errors import InvalidArgument, System, Unsupported
from sampan.api.storage import Mount, SnapshotOptions, StorageContext, Whiteouts
from sampan.linux.mounts import locked, open_root
from sampan.testing.trees import HandMadeLayer
from sampan_storage_overlayfs import driver as module
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import BASE_OPTIONS, OverlayfsDriver
from sampan_storage_overlayfs.probing import try_overlay

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
    assert driver.mounts("active") == (Mount("bind", f"{tmp_path}/snapshots/1/fs", ("bind", "rw"), lock=f"{tmp_path}/snapshots/1/work"),)
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
    assert driver.mounts("active") == (
        Mount("overlay", "overlay", (*lower, *upper, *BASE_OPTIONS), lock=f"{snapshots}/3/work"),
    )
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


def test_a_layer_is_not_written_into_a_mounted_snapshot(driver: OverlayfsDriver) -> None:
    top = add_layers(driver, 2)
    driver.prepare("active", top, PLAIN)
    with locked(driver.mounts("active")), pytest.raises(System, match="mounted by another container or process"):
        driver.apply("active", HandMadeLayer(["file"]))
    driver.apply("active", HandMadeLayer(["file"]))
    with locked(driver.mounts("active")), open_root(driver.look("active")) as root:
        assert os.listdir(root) == ["file"]


def test_redirects_and_metacopy_are_asked_for(tmp_path: Path) -> None:
    on = OverlayfsConfig(redirect_dir=True, metacopy=True)
    driver = OverlayfsDriver(StorageContext(tmp_path, "unit"), on)
    driver.open()
    top = add_layers(driver, 2)
    driver.prepare("active", top, PLAIN)
    for mounts in (driver.mounts("active"), driver.look("active")):
        assert mounts[0].options[-3:] == ("index=off", "metacopy=on", "redirect_dir=on")
    driver.close()
    for off in (OverlayfsConfig(), OverlayfsConfig(redirect_dir=True)):
        with pytest.raises(InvalidArgument, match="there are layers made with metacopy, and it is off"):
            OverlayfsDriver(StorageContext(tmp_path, "unit"), off).open()
    driver.open()
    for key in ("active", "layer1", "layer0"):
        driver.remove(key)
    driver.close()
    without = OverlayfsDriver(StorageContext(tmp_path, "unit"), OverlayfsConfig())
    without.open()
    without.close()


def test_metacopy_needs_redirects() -> None:
    with pytest.raises(ValidationError, match="metacopy needs redirect_dir"):
        OverlayfsConfig(metacopy=True)


def test_a_root_with_a_long_path_and_marks_of_overlays_own(tmp_path: Path) -> None:
    root = tmp_path / ("x" * 200) / ("y" * 200) / "a:b,c\\d"
    root.mkdir(parents=True)
    assert try_overlay(root, BASE_OPTIONS).reason == ""
    assert os.listdir(root) == []
