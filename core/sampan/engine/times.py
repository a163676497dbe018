"""Times as the API writes them: RFC 3339 with nanoseconds, in UTC."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

ZERO = "0001-01-01T00:00:00Z"
"""How the API writes 'never'."""

_SECONDS = re.compile(r"(-?[0-9]{1,11})(?:\.([0-9]+))?\Z")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)?\Z")


def rfc3339(time_ns: int) -> str:
    """Write a time in nanoseconds since the epoch; 0 is `ZERO`."""
    if not time_ns:
        return ZERO
    seconds, rest = divmod(time_ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


def from_rfc3339(text: str) -> int:
    """Read such a time; what is not one is 0."""
    match = _RFC3339.match(text)
    if not match:
        return 0
    day, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{zone}").astimezone(UTC)
    except ValueError:
        return 0
    return int(moment.timestamp()) * 10**9 + int((fraction or "0").ljust(9, "0")[:9])


_AGE = re.compile(r"(?:[0-9.]+(?:ms|h|m|s))+\Z")
_AGE_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def before_now(text: str) -> int:
    """Read the `until` of a prune: a time, or an age in Go's form (`1h30m`), as nanoseconds since the epoch. `ValueError`."""
    if not _AGE.match(text):
        return from_timestamp(text)
    seconds = sum(float(number) * _AGE_UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|h|m|s)", text))
    return time.time_ns() - int(seconds * 10**9)


def from_timestamp(text: str) -> int:
    """Read a `since` or `until` of the API: seconds with a fraction (`1700000000.5`), or RFC 3339. Raises `ValueError`."""
    if not text:
        return 0
    if match := _SECONDS.match(text):
        seconds, fraction = match.groups()
        return int(seconds) * 10**9 + int((fraction or "0").ljust(9, "0")[:9])
    found = from_rfc3339(text)
    if not found:
        raise ValueError(f"not a time: {text!r}")
    return found
