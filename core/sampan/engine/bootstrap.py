"""The embedded image: a small usable `busybox`, made from the host's static busybox where no registry is in reach."""

from __future__ import annotations

import asyncio
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

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
    archive = await asyncio.to_thread(_archive)
    return await images.import_tar(io.BytesIO(archive), reference, CHANGES, "sampan image bootstrap", None)


def _archive() -> bytes:
    path = shutil.which("busybox")
    if path is None:
        raise Unavailable("make the busybox image: the host has no busybox", remedy=INSTALL)
    program = Path(path).read_bytes()
    if b"/ld-linux" in program or b"/ld-musl" in program:
        raise Unavailable(f"make the busybox image: {path} is not statically linked", remedy=INSTALL)
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise System(f"make the busybox image: {path} --list: {listed.stderr.strip()}")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in DIRECTORIES:
            _add(tar, name, tarfile.DIRTYPE, mode)
        for name, text in FILES.items():
            _add(tar, name, tarfile.REGTYPE, 0o600 if name == "etc/shadow" else 0o644, text.encode())
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, program)
        for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
            _add(tar, f"bin/{applet}", tarfile.LNKTYPE, 0o755, link="bin/busybox")
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, len(data), link
    tar.addfile(member, io.BytesIO(data))
