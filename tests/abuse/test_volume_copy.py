"""A new container's files copied into a volume that a hostile container writes to meanwhile (as A07, A08).

Before the copy went by descriptors alone this bit within a second: files of the host got the mode 04777, and links in
the volume.
"""

from __future__ import annotations

import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.linux import copying

FILES = 60
DIRECTORIES = ("data", "linked")
ROUNDS_S = 1.5
MODE = 0o600


def _image(top: Path, *, linked: bool) -> None:
    """Files that others may write; `linked`: with second names for them in a directory of their own."""
    for directory in DIRECTORIES:
        (top / directory).mkdir(parents=True)
    for number in range(FILES):
        path = top / DIRECTORIES[0] / f"f{number}"
        path.write_text("image")
        path.chmod(0o4777)
        if linked:
            (top / DIRECTORIES[1] / f"f{number}").hardlink_to(path)


def _swap_files(volume: str, victim: str) -> None:
    """Be the container: put a link out of the volume in the place of every file that appears."""
    os.chdir(volume)
    names = {f"{DIRECTORIES[0]}/f{number}" for number in range(FILES)}
    while names:
        for name in list(names):
            try:
                os.stat(name, follow_symlinks=False)  # noqa: PTH116
                os.symlink(f"{victim}/f", "link")
                os.rename("link", name)  # noqa: PTH104
                names.discard(name)
            except OSError:
                continue


def _swap_directories(volume: str, victim: str) -> None:
    """Be the container: put a link out of the volume in the place of a directory, and back, again and again."""
    os.chdir(volume)
    os.symlink(victim, "link")
    while True:
        for directory in DIRECTORIES:
            try:
                os.rename(directory, "moved")  # noqa: PTH104
                os.rename("link", directory)  # noqa: PTH104
                os.rename(directory, "link")  # noqa: PTH104
                os.rename("moved", directory)  # noqa: PTH104
            except OSError:
                continue


@pytest.mark.parametrize("attack", [_swap_files, _swap_directories])
def test_copy_touches_nothing_outside_of_the_volume(tmp_path: Path, attack: Callable[[str, str], None]) -> None:
    image, victim = tmp_path / "image", tmp_path / "victim"
    _image(image, linked=attack is _swap_directories)
    victim.mkdir()
    outside = [victim / "f", *(victim / f"f{number}" for number in range(FILES))]
    for path in outside:
        path.write_text("host")
        path.chmod(MODE)
    source = os.open(image, os.O_RDONLY | os.O_DIRECTORY)
    deadline, number = time.monotonic() + ROUNDS_S, 0
    while time.monotonic() < deadline:
        number += 1
        volume = tmp_path / f"volume{number}"
        volume.mkdir()
        hostile = multiprocessing.get_context("fork").Process(target=attack, args=(str(volume), str(victim)))
        hostile.start()
        target = os.open(volume, os.O_RDONLY | os.O_DIRECTORY)
        try:
            copying.copy_contents(source, target)
        except OSError:
            pass  # refused: what it wrote was taken away from it
        finally:
            os.close(target)
            hostile.kill()
            hostile.join()
            hostile.close()
    os.close(source)
    assert number > 3
    for path in outside:
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == MODE
        assert (status.st_nlink, status.st_uid, path.read_text()) == (1, 0, "host")
