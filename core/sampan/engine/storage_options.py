"""What `--storage-opt` may ask for: which driver, how much may be written, and whether that must survive a power cut."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sampan.api.errors import InvalidArgument
from sampan.api.storage import SnapshotOptions

_KNOWN = ("driver", "size", "volatile")
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,9})?) ?([kmgtp]?)(?:i?b)?", re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def split_storage_options(asked: Mapping[str, str]) -> dict[str, str]:
    """Give `HostConfig.StorageOpt` with one entry an option. Raises `InvalidArgument` for an unknown, empty or doubled one.

    `--storage-opt driver=btrfs,size=10M` comes from docker as one option with a comma in its value.
    """
    found: dict[str, str] = {}
    for first, rest in asked.items():
        for item in f"{first}={rest}".split(","):
            name, _, value = item.partition("=")
            if name not in _KNOWN:
                raise InvalidArgument(f"unknown storage option '{name}'", remedy=f"known ones are {', '.join(_KNOWN)}")
            if name in found:
                raise InvalidArgument(f"storage option '{name}' is given twice")
            if not value:
                raise InvalidArgument(f"storage option '{name}' has no value")
            found[name] = value
    return found


def snapshot_options(options: Mapping[str, str]) -> SnapshotOptions:
    """Give what the driver must know of split options. Raises `InvalidArgument` for a value that is none."""
    size = _parse_size(options["size"]) if "size" in options else None
    return SnapshotOptions(size=size, volatile=_parse_boolean("volatile", options.get("volatile", "false")))


def _parse_boolean(name: str, text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise InvalidArgument(f"storage option '{name}' is '{text}'", remedy="say true or false")
    return text.lower() in ("true", "1")


def _parse_size(text: str) -> int:
    """Read a size as Docker writes it: `10G`, `512m`, `1.5gb`, `10MiB`, bytes. Units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip().lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not 0 < size < 1 << 63:
        raise InvalidArgument(f"invalid size: '{text}'", remedy="give a number above zero with a unit, as in 10G")
    return size
