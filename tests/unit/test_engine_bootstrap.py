from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from sampan.api.errors import SampanError, Unavailable
from sampan.engine import bootstrap


def archive() -> bytes:
    out = io.BytesIO()
    bootstrap.write_archive(out)
    return out.getvalue()


def test_the_archive_is_a_usable_root() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        members = {member.name: member for member in tar}
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read().startswith(b"root:x:0:0:")
    assert members["bin/busybox"].mode == 0o755
    assert members["bin/sh"].linkname == "bin/busybox"
    assert (members["tmp"].mode, members["root"].mode, members["etc/shadow"].mode) == (0o1777, 0o700, 0o600)
    assert all(member.uid == member.gid == 0 and member.mtime == 0 for member in members.values())


def test_the_same_busybox_gives_the_same_image() -> None:
    assert archive() == archive()


def test_what_to_install_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="the host has no busybox: install it: apt-get install busybox-static"):
        archive()
    (tmp_path / "busybox").write_bytes(b"\x7fELF .. /lib64/ld-linux-x86-64.so.2 ..")
    (tmp_path / "busybox").chmod(0o755)
    with pytest.raises(Unavailable, match="is not statically linked: install it: apt-get install busybox-static"):
        archive()
    (tmp_path / "busybox").write_text(f"#!{shutil.which('false', path='/bin:/usr/bin')}\n")
    with pytest.raises(SampanError, match="busybox --list"):
        archive()
