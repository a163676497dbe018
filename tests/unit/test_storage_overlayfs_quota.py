"""What limits snapshots of the overlayfs driver: settings, loop devices, and what the file system here has."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sampan.linux import loops, project_quota
from sampan.linux.files import opened_directory
from sampan_storage_overlayfs import projects
from sampan_storage_overlayfs.config import OverlayfsConfig

BLOCK = 4096
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need CAP_SYS_ADMIN")


@pytest.mark.parametrize(
    "settings",
    [{"quota": "auto"}, {"quota": True}, {"project_ids": [0, 5]}, {"project_ids": [5, 4]}, {"project_ids": [1, 1 << 32]}, {"project_ids": [1]}],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OverlayfsConfig.model_validate(settings)


@needs_root
def test_a_file_has_one_device_whoever_asks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\0" * 16 * BLOCK)
    with loops.open_device(file) as first:
        (tmp_path / "elsewhere").mkdir()
        os.link(file, tmp_path / "elsewhere/file")
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: _device(tmp_path / "elsewhere/file"), range(16)))
        assert set(found) == {first}
        with open(first, "r+b") as device:  # noqa: PTH123
            device.write(b"x" * BLOCK)
    assert str(file) not in [device.file for device in loops.devices()]
    assert file.read_bytes()[:BLOCK] == b"x" * BLOCK


def _device(file: Path) -> str:
    with loops.open_device(file) as device:
        return device


@needs_root
def test_many_files_at_once_get_a_device_each(tmp_path: Path) -> None:
    """All take the free device that the kernel names; who comes second takes another."""
    files = [tmp_path / str(number) for number in range(12)]
    for file in files:
        file.write_bytes(b"\0" * BLOCK)

    def mark(file: Path) -> None:
        with loops.open_device(file) as path, open(path, "r+b") as device:  # noqa: PTH123
            device.write(file.name.encode().ljust(512, b"\0"))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(mark, files))
    assert [file.read_bytes()[:2].strip(b"\0").decode() for file in files] == [file.name for file in files]


@needs_root
def test_a_file_with_the_same_name_has_another_device(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"\0" * BLOCK)
    with loops.open_device(tmp_path / "one/file") as one, loops.open_device(tmp_path / "two/file") as two:
        assert one != two


def test_what_is_no_file_has_no_device(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), loops.open_device(tmp_path / "nothing"):
        pass


def test_a_file_system_without_quotas_says_so(tmp_path: Path) -> None:
    with opened_directory("/proc") as fd:
        assert not project_quota.is_enforced(fd)
    assert "does not enforce project quotas" in projects.why_unsupported(Path("/proc"))
    assert projects.why_unsupported(tmp_path / "nothing").endswith("No such file or directory")


@needs_root
def test_a_directory_without_a_mark_is_left_as_it_is(tmp_path: Path) -> None:
    assert not projects.is_limited(tmp_path)
    projects.Projects(1, 1).unlimit(tmp_path)
    projects.Projects(1, 1).unlimit(tmp_path / "nothing")
