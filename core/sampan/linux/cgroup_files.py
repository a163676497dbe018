"""Reading and writing cgroup files: whole, in one call, with errors that name file and value."""

from __future__ import annotations

import errno
import os


def write(name: str, value: str) -> None:
    """Write a file in one call. Raises `OSError` that names file, value and the kernel's reason."""
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        text = f"write {value!r} to {name}: {os.strerror(error.errno or 0)}"
        raise OSError(error.errno, text, name) from error


def read(name: str) -> str:
    """Read a whole file. Raises `OSError`."""
    return _whole(os.open(name, os.O_RDONLY | os.O_CLOEXEC))


def read_at(directory: int, name: str) -> str:
    """Read a whole file of an open directory; empty if it is not there, or its cgroup has just gone. Raises `OSError`."""
    try:
        return _whole(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return ""
        raise


def _whole(fd: int) -> str:
    try:
        parts: list[bytes] = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(fd)


def text(name: str) -> str:
    """Read a whole file; empty if it is not there."""
    try:
        return read(name)
    except FileNotFoundError:
        return ""


def number(name: str) -> int:
    """Read a number; 0 if the file is not there."""
    return int(text(name) or 0)


def pairs(name: str) -> dict[str, int]:
    """Read lines of a name and a number; none if the file is not there."""
    return as_pairs(text(name))


def as_pairs(lines: str) -> dict[str, int]:
    """Take lines of a name and a number apart."""
    found: dict[str, int] = {}
    for line in lines.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found
