"""Say whether btrfs subvolumes can be had under a directory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sampan.linux.files import filesystem_type, nearest_directory, opened_directory

BTRFS_SUPER_MAGIC = 0x9123683E
"""`statfs(2)`, include/uapi/linux/magic.h."""


def why_unsupported(root: Path) -> str:
    """Give the reason why btrfs can't be used under `root`, with a remedy; "" if it can. Leaves nothing
    behind.
    """
    place = nearest_directory(root)
    try:
        with opened_directory(place) as directory:
            if filesystem_type(directory) != BTRFS_SUPER_MAGIC:
                return f"{place} is not on btrfs: put the root on a btrfs file system (mkfs.btrfs, mount)"
        import btrfsutil
    except ImportError as error:  # not installed; or a symbol is missing: newer than the system's libbtrfsutil
        return (
            f"the Python module btrfsutil does not import ({error}): apt-get install libbtrfsutil-dev gcc, then "
            'pip install "sampan[btrfs]" (on Debian 12, whose libbtrfsutil is of 6.2, only "btrfsutil<=6.12" imports)'
        )
    except OSError as error:
        return f"cannot look at {place}: {error}"
    trial = Path(tempfile.mktemp(prefix=".probe-", dir=place))  # create_subvolume fails if the name is taken
    try:
        btrfsutil.create_subvolume(trial)
        btrfsutil.delete_subvolume(trial)
    except OSError as error:
        return f"cannot make and delete a subvolume in {place}: {error}: run as root with CAP_SYS_ADMIN"
    return ""
