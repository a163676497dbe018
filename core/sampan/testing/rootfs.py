"""A tiny root file system for tests, made from the host's static busybox."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sampan.api.errors import Unsupported

__all__ = ["build_rootfs", "static_busybox"]

_DIRECTORIES = ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"
_GROUP = "root:x:0:\nuser:x:1000:\n"


def static_busybox() -> Path:
    """Give the path of the host's busybox; `Unsupported` if there is none that runs without libraries."""
    for name in ("busybox", "busybox.static"):
        found = shutil.which(name)
        if found is not None and not _has_interpreter(Path(found)):
            return Path(found)
    raise Unsupported("build a root file system: no static busybox", remedy="apt-get install busybox-static")


def build_rootfs(target: Path) -> Path:
    """Make the tree in the new directory `target` and give it back: 2 MB, busybox and its applets in /bin."""
    busybox = static_busybox()
    for name in _DIRECTORIES:
        (target / name).mkdir(parents=True)
    (target / "tmp").chmod(0o1777)
    (target / "etc/passwd").write_text(_PASSWD)
    (target / "etc/group").write_text(_GROUP)
    shutil.copy(busybox, target / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            os.symlink("busybox", target / "bin" / applet)
    return target


def _has_interpreter(program: Path) -> bool:
    """Say whether a 64-bit ELF file names a dynamic loader (a PT_INTERP program header, `elf(5)`)."""
    image = program.read_bytes()
    table = int.from_bytes(image[32:40], "little")
    size, count = int.from_bytes(image[54:56], "little"), int.from_bytes(image[56:58], "little")
    kinds = {int.from_bytes(image[table + i * size : table + i * size + 4], "little") for i in range(count)}
    return 3 in kinds
