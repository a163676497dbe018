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
from functools import partial

from sampan.linux.comparing import Change, compare
from sampan.linux.cursor import Cursor

_NOT_MERGED = frozenset({"trusted.overlay.opaque", "trusted.overlay.redirect"})


def compare_upper(old: int, new: int, upper: int) -> Iterator[Change]:
    """Give what leads from the tree `old`, a look at the parent, to `new`, a look at the snapshot with the directory
    `upper`; all are descriptors. Raises `OSError`.
    """
    return compare(old, new, partial(_Upper, upper))


class _Upper(Cursor):
    """A place in the upper directory; a `sampan.linux.comparing.Record`."""

    def differing(self, _old: Cursor, _new: Cursor) -> list[bytes] | None:
        """Give the names here, unless the directory hides or shows others."""
        if not self.is_somewhere or not _NOT_MERGED.isdisjoint(os.listxattr(self.fd)):
            return None
        return self.names()
