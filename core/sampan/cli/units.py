"""Sizes, durations and times, read and written as docker does (go-units, Go's time package)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?(?:[iI]?[bB])?\Z")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?(Z|[+-]\d\d:\d\d)?\Z")


def parse_size(text: str) -> int:
    """Give the bytes that `512`, `64m`, `1.5GiB` mean; units are powers of 1024. Raises `ValueError`."""
    found = _SIZE.match(text.strip())
    if not found:
        raise ValueError(f"invalid size: {text!r}")
    return int(float(found[1]) * 1024 ** _POWERS[(found[2] or "").lower()])


def human_size(count: float, precision: int = 3) -> str:
    """Give a size in powers of 1000 with `precision` significant digits: `4.26MB`."""
    return _scaled(count, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"), precision)


def binary_size(count: float) -> str:
    """Give a size in powers of 1024 with four significant digits: `1.945GiB`."""
    return _scaled(count, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"), 4)


def _scaled(count: float, base: float, names: tuple[str, ...], precision: int) -> str:
    step = 0
    while count >= base and step < len(names) - 1:
        count /= base
        step += 1
    return f"{_significant(count, precision)}{names[step]}"


def _significant(value: float, precision: int) -> str:
    text = f"{value:.{precision}g}"
    return f"{float(text):.0f}" if "e" in text else text


def parse_duration(text: str) -> int:
    """Give the nanoseconds of a Go duration (`1h2m3.5s`). Raises `ValueError`."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    total, position = 0.0, 0
    for part in _DURATION.finditer(body):
        if part.start() != position:
            break
        total += float(part[1]) * _NANOSECONDS[part[2]]
        position = part.end()
    if not body or position != len(body):
        raise ValueError(f'time: invalid duration "{text}"')
    return -round(total) if text.startswith("-") else round(total)


def human_duration(seconds: float) -> str:
    """Give a rough age: `Less than a second`, `About a minute`, `3 weeks`."""
    whole = int(seconds)
    minutes, hours = int(seconds // 60), int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def parse_time(text: str) -> datetime | None:
    """Give the time of an RFC 3339 string to the microsecond; None for Go's zero time or what isn't a time."""
    found = _TIMESTAMP.match(text)
    if not found or text.startswith("0001-01-01"):
        return None
    day, hour, minute, second, fraction, zone = found.groups()
    base = datetime.fromisoformat(f"{day}T{hour or '00'}:{minute or '00'}:{second or '00'}")
    base = base.replace(microsecond=int((fraction or "").ljust(6, "0")[:6]))
    if zone is None:
        return base.astimezone()
    return base.replace(tzinfo=UTC) if zone == "Z" else datetime.fromisoformat(f"{base.isoformat()}{zone}")


def ago(when: datetime, now: datetime | None = None) -> str:
    """Give how long ago it was: `2 minutes ago`."""
    passed = (now or datetime.now(UTC)) - when
    return f"{human_duration(passed / timedelta(seconds=1))} ago"


def local_time(seconds: float) -> str:
    """Give an epoch time as docker prints `CreatedAt`: `2024-05-01 10:00:00 +0000 UTC`."""
    moment = datetime.fromtimestamp(int(seconds)).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S %z %Z")


def since_stamp(text: str, now: datetime | None = None) -> str:
    """Give the `seconds.nanoseconds` of a `--since`: a Unix time, a time of day, or a duration before now.

    Raises `ValueError`.
    """
    if re.fullmatch(r"\d+(\.\d{1,9})?", text):
        return text
    found = _TIMESTAMP.match(text)
    if found:
        moment = parse_time(text)
        if moment is None:
            raise ValueError(f"invalid time {text!r}")
        return f"{int(moment.timestamp())}.{(found[5] or '').ljust(9, '0')}"
    back = (now or datetime.now(UTC)).timestamp() - parse_duration(text) / 10**9
    return f"{int(back)}.{int(back % 1 * 10**9):09d}"
