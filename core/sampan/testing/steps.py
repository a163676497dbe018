"""Changes to a tree as data, so that hypothesis can make them up and cut a failing case down to its core."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from sampan.testing.trees import Change

_NAMES = st.sampled_from("abc")
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_VERBS = ("write", "write", "append", "mkdir", "symlink", "fifo", "move", "remove", "chmod", "chown", "xattr", "touch")


@dataclass(frozen=True, slots=True)
class Step:
    """One change: `verb` says which, to `path`; `other` is the second path of those that have one, `number` any detail."""

    verb: str
    path: str
    other: str
    number: int


def made_up_layers(most: int) -> st.SearchStrategy[list[list[Step]]]:
    """Give what is done in two to `most` layers: steps on few names, so that later ones meet what earlier ones made.

    Hard links are made in the last layer only: a driver may copy one name of a file that a lower layer links, and then the
    names are no longer one (the kernel's Documentation/filesystems/overlayfs.rst, "Non-standard behavior").
    """
    layers = st.lists(_layer(_VERBS), min_size=1, max_size=most - 1)
    return st.builds(lambda lower, last: [*lower, last], layers, _layer((*_VERBS, "link", "link")))


def _layer(verbs: Sequence[str]) -> st.SearchStrategy[list[Step]]:
    step = st.builds(Step, st.sampled_from(verbs), _PATHS, _PATHS, st.integers(0, 7))
    return st.lists(step, min_size=1, max_size=12)


def taken(layer: list[Step]) -> Change:
    """Give the change that takes the steps in order; one that can't be taken where it stands does nothing."""

    def change(root: Path) -> None:
        for step in layer:
            try:
                _take(root, step)
            except (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError):
                pass  # the same on every driver: it depends on the tree alone
            except OSError as error:
                if error.errno not in _TREE_ERRORS:
                    raise

    return change


_TREE_ERRORS = frozenset({1, 22, 39, 40})
"""EPERM (a link to a directory), EINVAL (a directory into itself), ENOTEMPTY, ELOOP."""


def _take(root: Path, step: Step) -> None:
    path, other = root / step.path, root / step.other
    match step.verb:
        case "write":
            _clear(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{step.path} {step.number}")
        case "append":
            if path.is_file() and not path.is_symlink():
                with path.open("a") as file:
                    file.write("more")
        case "mkdir":
            _clear(path)
            path.mkdir(parents=True)
        case "symlink":
            _clear(path)
            path.symlink_to(step.other)
        case "fifo":
            _clear(path)
            os.mkfifo(path)
        case "link":
            _clear(path)
            os.link(other, path, follow_symlinks=False)
        case "move":
            if not path.is_symlink() and path.is_dir():
                if other.resolve().is_relative_to(path.resolve()):
                    return
                other.mkdir(parents=True)
                subprocess.run(["cp", "-aT", path, other], check=True)  # shutil knows no fifos
                shutil.rmtree(path)
            else:
                path.rename(other)
        case "remove":
            _clear(path)
        case "chmod":
            if not path.is_symlink():
                path.chmod(0o700 | step.number)
        case "chown":
            os.chown(path, step.number, step.number + 1, follow_symlinks=False)
        case "xattr":
            if not path.is_symlink():
                os.setxattr(path, "trusted.step", b"%d" % step.number)
        case _:
            os.utime(path, ns=(0, step.number * 10**15 + 1), follow_symlinks=False)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
