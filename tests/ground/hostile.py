"""Images that an attacker would make, as tars, and bringing them in over the API."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ground.daemon import Daemon

Entry = tuple[str, bytes, str | bytes]
"""Name, type of `tarfile`, and the content of a file or the target of a link."""


def tar(entries: Iterable[Entry], mode: int = 0o755) -> bytes:
    """Give a tar of such entries."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, content in entries:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, mode
            if kind == tarfile.REGTYPE:
                data = content.encode() if isinstance(content, str) else content
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                member.linkname = os.fsdecode(content)
                archive.addfile(member)
    return out.getvalue()


def busybox_with(entries: Sequence[Entry] = (), *, leave_out: Sequence[str] = ()) -> bytes:
    """Give the tar of a root with busybox, and `entries` after it."""
    program = Path("/bin/busybox").read_bytes()
    base: list[Entry] = [(name, tarfile.DIRTYPE, "") for name in ("bin", "dev", "etc", "proc", "sys", "tmp") if name not in leave_out]
    base.append(("bin/busybox", tarfile.REGTYPE, program))
    base += [(f"bin/{name}", tarfile.SYMTYPE, "busybox") for name in ("sh", "sleep", "cat", "ls", "echo", "true", "id")]
    return tar([*base, *entries])


def send(daemon: Daemon, path: str, body: bytes, timeout: float = 60.0) -> tuple[int, bytes]:
    """POST bytes; give status and the whole answer after the head."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(str(daemon.socket))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            sock.sendall(head.encode() + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before its end: the answer is there
        parts = []
        while part := sock.recv(1 << 16):
            parts.append(part)
    answer = b"".join(parts)
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


def import_image(daemon: Daemon, name: str, root: bytes, *changes: str) -> tuple[int, bytes]:
    """Do as `docker import` does."""
    query = "".join(f"&changes={quote(change)}" for change in changes)
    return send(daemon, f"/images/create?fromSrc=-&repo={name}{query}", root)


def docker_archive(layer: bytes, *, name: str = "liar:latest", **changes: Any) -> bytes:
    """Give a `docker save` archive of one layer. `changes` replace what is true: `diff_ids`, `config`, `manifest`."""
    diff_ids = changes.get("diff_ids", [f"sha256:{hashlib.sha256(layer).hexdigest()}"])
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config_data = changes.get("config", json.dumps(config).encode())
    manifest = [{"Config": "c.json", "RepoTags": [name], "Layers": ["l.tar"]}]
    listing = changes.get("manifest", json.dumps(manifest).encode())
    return tar([("c.json", tarfile.REGTYPE, config_data), ("l.tar", tarfile.REGTYPE, layer), ("manifest.json", tarfile.REGTYPE, listing)])
