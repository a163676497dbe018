"""Switches of the network stack under `/proc/sys/net`: `Documentation/networking/ip-sysctl.rst`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["set_sysctl"]

_NET = Path("/proc/sys/net")  # the calling thread's network namespace decides what is seen here


def set_sysctl(name: str, value: str) -> bool:
    """Write `net/<name>` unless it is so already; say whether it was written. Raises `OSError`."""
    path = _NET / name
    if path.read_text().strip() == value:
        return False
    path.write_text(value)
    return True
