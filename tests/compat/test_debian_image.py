"""A real distribution's root file system, as people import one: 200 MB, thousands of files, its own users and tools."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator

import pytest

from ground.daemon import Daemon
from ground.images import debian_tar


@pytest.fixture(scope="module")
def debian(module_daemon: Daemon) -> Iterator[Daemon]:
    tar = debian_tar()
    module_daemon.docker("import", "-c", 'CMD ["bash"]', "-c", "ENV LANG=C.UTF-8", str(tar), "debian:test", timeout=120)
    yield module_daemon
    module_daemon.docker("rmi", "debian:test")


def test_its_own_tools_work(debian: Daemon, daemon: Daemon) -> None:
    script = "dpkg --verify && dpkg -l | grep -c ^ii && su nobody -s /bin/sh -c id && perl -e 'print $^V'"
    done = daemon.docker("run", "--rm", "debian:test", "bash", "-c", script)
    lines = done.stdout.decode().splitlines()
    assert int(lines[0]) > 50
    assert lines[1].startswith("uid=65534(nobody) gid=65534(nogroup)")


def test_every_file_is_as_in_the_tar(debian: Daemon, daemon: Daemon) -> None:
    """The tree that a container sees, tarred up inside it and outside, member by member."""
    done = daemon.docker(
        "run", "--rm", "--network", "none", "debian:test",
        "tar", "-C", "/", "--one-file-system", "--numeric-owner", "--xattrs", "--exclude=./etc/resolv.conf",
        "--exclude=./etc/hosts", "--exclude=./etc/hostname", "--exclude=./.dockerenv", "--exclude=./dev", "--exclude=./proc", "--exclude=./sys",
        "-cf", "-", ".", timeout=120,
    )  # fmt: skip
    expected = contents(tarfile.open(debian_tar()))
    found = contents(tarfile.open(fileobj=io.BytesIO(done.stdout)))
    assert sorted(found.keys() ^ expected.keys())[:20] == []
    different = {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
    assert dict(list(different.items())[:20]) == {}


NOT_THE_IMAGES = ("", "dev", "proc", "sys", "etc/resolv.conf", "etc/hosts", "etc/hostname")


def contents(archive: tarfile.TarFile) -> dict[str, tuple[object, ...]]:
    """Give type, mode, owner, time, link and digest of every member."""
    found: dict[str, tuple[object, ...]] = {}
    with archive:
        for member in archive:
            name = member.name.removeprefix("./").removeprefix(".").rstrip("/")
            if name in NOT_THE_IMAGES or name.startswith(("dev/", "proc/", "sys/")):
                continue
            file = archive.extractfile(member) if member.isreg() or member.islnk() else None
            digest = hashlib.sha256(file.read()).hexdigest() if file else ""
            kind = "file" if file else member.type
            link = member.linkname if member.issym() else ""
            time = 0 if member.isdir() else int(member.mtime)
            found[name] = (kind, oct(member.mode), member.uid, member.gid, time, link, digest)
    return found


def test_setuid_programs_and_shadow_are_kept(debian: Daemon, daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "debian:test", "stat", "-c", "%a %U:%G", "/usr/bin/passwd", "/etc/shadow", "/tmp")
    assert done.stdout.decode().splitlines() == ["4755 root:root", "640 root:shadow", "1777 root:root"]
