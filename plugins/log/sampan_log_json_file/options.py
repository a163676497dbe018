"""The options of `--log-opt`, as Docker's json-file takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.api.errors import InvalidArgument, Unsupported

KNOWN = frozenset({"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"})

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"", "0", "f", "F", "false", "FALSE", "False"})


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is full, in bytes (0: never), and how many are kept with the current one."""

    max_size: int = 0
    max_file: int = 1


def parse(options: Mapping[str, str]) -> Rotation:
    """Check all options and give those that matter here. Sizes are decimal, as Docker's. Raises
    `InvalidArgument`, `Unsupported`.
    """
    for key in options:
        if key not in KNOWN:
            raise InvalidArgument(
                f"unknown log opt {key!r} for json-file log driver", remedy=f"known are {', '.join(sorted(KNOWN))}"
            )
    for key in ("labels-regex", "env-regex"):
        if key in options:
            _check_pattern(key, options[key])
    max_size = _size(options["max-size"]) if "max-size" in options else 0
    max_file = _count(options.get("max-file", "1"))
    if _boolean(options.get("compress", "")):
        raise Unsupported("log opt compress: json-file logs are not compressed here", remedy="leave compress out")
    return Rotation(max_size, max_file)


def _check_pattern(key: str, text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"log opt {key}={text}: {error}") from error


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size <= 0:
        raise InvalidArgument(f"log opt max-size={text}: not a positive size", remedy="give a size such as 10m")
    return size


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InvalidArgument(f"log opt max-file={text}: not a number of 1 or more")
    return int(text)


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidArgument(f"log opt compress={text}: neither true nor false")
