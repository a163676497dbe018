"""The embedded image: a small usable `busybox`, made from the host's static busybox where no registry is in reach."""

from __future__ import annotations

import asyncio
import io
import mmap
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from sampan.api.errors import System, Unavailable
from sampan.engine.images import Images
from sampan.engine.records import ImageRecord

DIRECTORIES = (("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("lib", 0o755), ("proc", 0o555),
               ("root", 0o700), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755),
               ("usr/sbin", 0o755), ("sbin", 0o755), ("var", 0o755), ("var/tmp", 0o1777))  # fmt: skip

FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\nwheel:x:10:root\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:::::::\ndaemon:*:::::::\nnobody:*:::::::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

CHANGES = ('CMD ["sh"]', "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")

INSTALL = "install it: apt-get install busybox-static"


async def bootstrap(images: Images, reference: str) -> ImageRecord:
    """Make the image and tag it. Raises `Unavailable` if the host has no static busybox, and says what to install."""
    with tempfile.TemporaryFile() as archive:  # in memory its megabytes would stay the daemon's
        await asyncio.to_thread(write_archive, archive)
        archive.seek(0)
        return await images.import_tar(archive, reference, CHANGES, "sampan image bootstrap", None)


def write_archive(out: IO[bytes]) -> None:
    """Write the image's root file system as a tar. Raises as `bootstrap`."""
    path = shutil.which("busybox")
    if path is None:
        raise Unavailable("make the busybox image: the host has no busybox", remedy=INSTALL)
    with Path(path).open("rb") as program:
        _write(out, path, program)


def _write(out: IO[bytes], path: str, program: IO[bytes]) -> None:
    with mmap.mmap(program.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"/ld-linux") >= 0 or content.find(b"/ld-musl") >= 0:
            raise Unavailable(f"make the busybox image: {path} is not statically linked", remedy=INSTALL)
        size = len(content)
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise System(f"make the busybox image: {path} --list: {listed.stderr.strip()}")
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in DIRECTORIES:
            _add(tar, name, tarfile.DIRTYPE, mode)
        for name, text in FILES.items():
            data = text.encode()
            _add(tar, name, tarfile.REGTYPE, 0o600 if name == "etc/shadow" else 0o644, io.BytesIO(data), len(data))
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, program, size)
        for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
            _add(tar, f"bin/{applet}", tarfile.LNKTYPE, 0o755, link="bin/busybox")


def _add(
    tar: tarfile.TarFile, name: str, kind: bytes, mode: int, data: IO[bytes] | None = None, size: int = 0, link: str = ""
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, size, link
    tar.addfile(member, data)
