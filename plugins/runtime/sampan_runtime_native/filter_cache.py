"""Seccomp programs that were compiled before, for all containers of an engine.

Nearly all containers have the same few profiles, and to compile one is a tenth of what a start costs the processor. The
directory is the engine's own (0700, in no container's view), emptied when the engine starts: so a program is always one of
this release's compiler. A profile's place is one of 256, by a checksum; what lies there counts if its profile is the same
byte by byte.
"""

from __future__ import annotations

import contextlib
import json
import os
from binascii import crc32
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sampan.linux import seccomp

_PLACES: Final = 256
_LENGTH: Final = 4


def compile_once(profile: Mapping[str, Any], directory: Path | None) -> bytes:
    """Give the BPF program of an OCI `linux.seccomp` object, from `directory` or compiled and put there. Raises `ValueError`.

    A directory that can't be written to costs time and nothing else.
    """
    if directory is None:
        return seccomp.compile(profile)
    text = json.dumps(profile).encode()
    key = len(text).to_bytes(_LENGTH, "little") + text
    place = directory / f"filter-{crc32(text) % _PLACES:02x}"
    found = _read(place)
    if found.startswith(key):
        return found[len(key) :]
    program = seccomp.compile(profile)
    with contextlib.suppress(OSError):
        _write(place, key + program)
    return program


def _read(place: Path) -> bytes:
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _write(place: Path, content: bytes) -> None:
    """Whole or not at all: others read it meanwhile, and this process may be killed."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        new.write_bytes(content)
        new.rename(place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
