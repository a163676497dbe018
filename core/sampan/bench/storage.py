"""Storage drivers measured through their contract: the operations that a build or a start waits for.

Each driver works on a new directory; drivers take turns, so that a noisy host is noisy for all of them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sampan import plugins
from sampan.api.errors import SampanError
from sampan.api.storage import SnapshotOptions, StorageContext, StorageDriver
from sampan.bench.layer import LARGE, MEGABYTE, SMALL, LayerSize, write_layer
from sampan.bench.report import Measurement, Report
from sampan.content.layers import StoredLayer
from sampan.content.manifests import OCI_LAYER
from sampan.linux.mounts import Mount, open_mount, open_root

UNPACK = "unpack the layer"
COMMIT = "commit the layer"
PREPARE = "prepare"
MOUNT = "prepare and mount"
WRITE_SMALL = "first write to a 1 MB file"
WRITE_LARGE = "first write to a large file ({} MB)"
CREATE = "10,000 small files"
DIFF = "diff of these"
COMMIT_CHANGES = "commit of these"
REMOVE = "remove of these"

SMALL_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: `rounds` of everything, on a layer of `size` and a file of `large` bytes."""

    rounds: int = 3
    size: LayerSize = field(default_factory=LayerSize)
    large: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """A driver's class and settings, and the directory on whose file system it is measured."""

    driver: type[StorageDriver]
    directory: Path
    settings: Mapping[str, object] = field(default_factory=dict)


def find(driver: str, directory: Path) -> Place:
    """Give the installed driver of that name, with its default settings. Raises `InvalidArgument` for an unknown one."""
    return Place(plugins.discover().driver("storage", driver, StorageDriver), directory)


def measure(places: Sequence[Place], plan: Plan, work: Path, tell: Callable[[str], None]) -> Report:
    """Measure each driver; one that does not work in its place has a note that says why. Raises what a driver raises."""
    blob = work / "layer.tar"
    tell(f"writing a layer of {plan.size.bytes // MEGABYTE} MB with {plan.size.files} files")
    diff_id = write_layer(blob, plan.size)
    found: list[Measurement] = []
    benches: list[_Bench] = []
    try:
        for place in places:
            probe = place.driver.probe(place.directory)
            if probe.supported:
                benches.append(_Bench(place, plan, blob, diff_id))
            else:
                found.append(Measurement(place.driver.name, UNPACK, (), probe.reason))
        for number in range(1, plan.rounds + 1):
            for bench in benches:
                tell(f"round {number} of {plan.rounds}: {bench.name}")
                bench.round(number)
        found += [measured for bench in benches for measured in bench.measurements()]
    finally:
        for bench in benches:
            bench.remove()
        blob.unlink()
    return Report("storage drivers, medians", tuple(found))


class _Bench:
    """One driver on its directory, and what was measured so far."""

    def __init__(self, place: Place, plan: Plan, blob: Path, diff_id: str) -> None:
        self.name = place.driver.name
        self._plan = plan
        self._blob, self._diff_id = blob, diff_id
        self._root = place.directory / f"bench-{self.name}"
        self._root.mkdir(mode=0o700)
        config = place.driver.config_model().model_validate(place.settings)
        self._driver = place.driver(StorageContext(self._root, "bench"), config)
        self._driver.open()
        self._seconds: dict[str, list[float]] = {}

    def measurements(self) -> list[Measurement]:
        """Give what the rounds took."""
        return [Measurement(self.name, case, tuple(seconds)) for case, seconds in self._seconds.items()]

    def round(self, number: int) -> None:
        """Do everything once, under names of its own.

        What was measured stays until the end: ext4 takes its time for new files where many were deleted a moment ago.
        """
        driver = self._driver
        layer, image, one, two, changed = (f"{number} {name}" for name in ("layer", "image", "one", "two", "changed"))
        driver.prepare(layer, None, SnapshotOptions())
        with self._timed(UNPACK):
            driver.apply(layer, StoredLayer(self._blob, OCI_LAYER, self._diff_id))
        with open_root(driver.mounts(layer)) as root:
            _write_large(root, self._plan.large)
        with self._timed(COMMIT):
            driver.commit(image, layer)
        with self._timed(PREPARE):
            driver.prepare(one, image, SnapshotOptions())
        with self._timed(MOUNT):
            driver.prepare(two, image, SnapshotOptions())
            mount = _mounted(driver.mounts(two))
        try:
            with self._timed(WRITE_SMALL):
                _change(mount, SMALL)
            with self._timed(WRITE_LARGE.format(self._plan.large // MEGABYTE)):
                _change(mount, LARGE)
            with self._timed(CREATE):
                _make_files(mount)
        finally:
            os.close(mount)
        with self._timed(DIFF):
            changes = sum(1 for _ in driver.diff(two))
        assert changes > SMALL_FILES
        with self._timed(COMMIT_CHANGES):
            driver.commit(changed, two)
        with self._timed(REMOVE):
            driver.remove(changed)

    def remove(self) -> None:
        """Leave nothing."""
        try:
            for info in reversed(list(self._driver.walk())):
                self._driver.remove(info.key)
        except SampanError:  # the directory goes anyway
            pass
        self._driver.close()
        shutil.rmtree(self._root, ignore_errors=True)

    @contextmanager
    def _timed(self, case: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds.setdefault(case, []).append(time.perf_counter() - start)


def _mounted(mounts: Sequence[Mount]) -> int:
    fd = open_mount(mounts[0])
    os.stat(".", dir_fd=fd)
    return fd


def _write_large(root: int, size: int) -> None:
    piece = os.urandom(MEGABYTE)
    fd = os.open(LARGE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=root)
    try:
        for _ in range(size // MEGABYTE):
            os.write(fd, piece)
    finally:
        os.close(fd)


def _change(root: int, name: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
    try:
        os.write(fd, b"changed")
    finally:
        os.close(fd)


def _make_files(root: int) -> None:
    os.mkdir("made", dir_fd=root)
    directory = os.open("made", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        for number in range(SMALL_FILES):
            fd = os.open(str(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=directory)
            os.write(fd, b"x" * 100)
            os.close(fd)
    finally:
        os.close(directory)
