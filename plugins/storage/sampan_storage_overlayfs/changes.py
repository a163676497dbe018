"""What a snapshot changes, told by its upper directory: the cost goes by the changes and not by the size of the tree.

The upper directory says which names may differ, and nothing else is taken from it: what stands under them before and
after is asked of the kernel, through a look at the parent and one at the snapshot. So whiteouts, files of which only the
metadata were copied up, and files that were copied up and then left as they were need no reading of our own.

One thing the names don't tell: what a directory hides that took the place of another (opaque), or shows that lay
elsewhere (redirect). Such a directory and all below it are compared as whole trees.

Source: the kernel's Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories", "redirect_dir".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from sampan.linux.comparing import Change, Record, compare

_NOT_MERGED = frozenset({"trusted.overlay.opaque", "trusted.overlay.redirect"})


def compare_upper(old: int, new: int, upper: int) -> Iterator[Change]:
    """Give what leads from the tree `old`, a look at the parent, to `new`, a look at the snapshot with the directory
    `upper`; all are descriptors. Raises `OSError`.
    """
    return compare(old, new, Record(upper, _hides_or_shows_others))


def _hides_or_shows_others(directory: int) -> bool:
    return not _NOT_MERGED.isdisjoint(os.listxattr(directory))
