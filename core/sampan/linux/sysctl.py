"""Switches of the network stack under `/proc/sys/net`: `Documentation/networking/ip-sysctl.rst`."""

from __future__ import annotations

import os

__all__ = ["get_sysctl", "set_sysctl"]

_NET = "/proc/sys/net"  # the calling thread's network namespace decides what is seen here


def get_sysctl(name: str) -> str:
    """Read `net/<name>`; "" where this kernel, or what is loaded of it, has no such switch. Raises `OSError`."""
    try:
        return _read(f"{_NET}/{name}").decode().strip()
    except FileNotFoundError:
        return ""


def set_sysctl(name: str, value: str) -> bool:
    """Write `net/<name>` unless it is so already; say whether it was written. Raises `OSError`."""
    path = f"{_NET}/{name}"
    if _read(path).strip() == value.encode():
        return False
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
    return True


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a tenth of what a file object costs, and starts pay it
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
