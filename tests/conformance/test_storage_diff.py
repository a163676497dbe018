from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.api.storage import Change, ChangeKind, SnapshotOptions, StorageCapability, StorageContext, StorageDriver
from sampan.testing.diffs import Told, check_changes, check_diff, told
from sampan.testing.steps import Step, steps, taken
from sampan.testing.trees import HandMadeLayer, base, in_mounts, random_changes, rework
from sampan_storage_overlayfs.driver import OverlayfsDriver
from sampan_storage_vfs.driver import VfsDriver

PLAIN = SnapshotOptions()


class Comparing(OverlayfsDriver):
    """overlayfs with the contract's own diff, which compares whole trees."""

    diff = StorageDriver.diff


DRIVERS = (OverlayfsDriver, Comparing, VfsDriver)


def opened(cls: type[StorageDriver], root: Path) -> StorageDriver:
    root.mkdir()
    driver = cls(StorageContext(root, "diffs"), cls.config_model()())
    driver.open()
    return driver


@pytest.fixture(params=DRIVERS, ids=lambda cls: cls.__name__)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageDriver]:
    driver = opened(request.param, tmp_path / "root")
    yield driver
    driver.close()


def layer(driver: StorageDriver, name: str, parent: str | None, change: Callable[[Path], object]) -> None:
    driver.prepare("k", parent, PLAIN)
    in_mounts(driver.mounts("k"), change)
    driver.commit(name, "k")


def paths(told: Told, kind: ChangeKind) -> list[bytes]:
    return [path for path, each in told if each is kind]


def test_overlayfs_claims_it() -> None:
    assert StorageCapability.NATIVE_DIFF in OverlayfsDriver.probe(Path("/tmp")).capabilities


def test_every_kind_of_change(driver: StorageDriver) -> None:
    first, second = check_changes(driver, [base, rework])
    assert set(kind for _, kind in first) == {ChangeKind.ADDED}
    assert set(kind for _, kind in second) == {ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED}
    assert (b"", ChangeKind.MODIFIED) in second
    assert (b"keep/deep/er", ChangeKind.DELETED) in second  # hidden by an opaque directory
    assert (b"keep/deep/er/a", ChangeKind.DELETED) not in second
    assert (b"etc/sticky", ChangeKind.MODIFIED) in second
    assert (b"null/file", ChangeKind.ADDED) in second


@pytest.mark.parametrize("seed", range(6))
def test_random_changes(driver: StorageDriver, seed: int) -> None:
    check_changes(driver, [random_changes(seed * 10 + number) for number in range(4)])


def without_links(layers: list[list[Step]]) -> list[list[Step]]:
    """Copying up takes a file's links apart, so with them the trees of the drivers differ, and rightly what is told of them."""
    return [[step for step in layer if step.verb != "link"] for layer in layers]


@settings(
    max_examples=8, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(layers=st.lists(steps(), min_size=2, max_size=3))
def test_made_up_changes(tmp_path: Path, layers: list[list[Step]]) -> None:
    """The same from overlayfs, from overlayfs by comparing, and from vfs; each is right for its own trees anyway."""
    answers: dict[type[StorageDriver], list[Told]] = {}
    for cls in DRIVERS:
        driver = opened(cls, tmp_path / cls.__name__)
        try:
            made = layers if cls is not VfsDriver else without_links(layers)
            answers[cls] = check_changes(driver, [taken(layer) for layer in made])
        finally:
            driver.close()
            shutil.rmtree(tmp_path / cls.__name__)
    assert answers[OverlayfsDriver] == answers[Comparing]
