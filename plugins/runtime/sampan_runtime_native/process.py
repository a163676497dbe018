"""From an OCI `process` to what a new process will do with itself: checked and frozen before it is born.

What is asked for and this driver cannot do is refused here, never left out. Source: OCI runtime spec 1.2, `config.md`.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.linux.capabilities import CapabilitySets


@dataclass(frozen=True, slots=True)
class Process:
    """An OCI `process`, checked. `rlimits`: (resource, soft, hard), -1 is unlimited."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    capabilities: CapabilitySets
    no_new_privileges: bool
    rlimits: tuple[tuple[int, int, int], ...]
    oom_score_adj: int | None
    terminal: bool
    console_size: tuple[int, int] | None
    apparmor: str
    selinux: str

    @classmethod
    def of_spec(cls, process: Mapping[str, Any]) -> Process:
        """Check an OCI `process` object. Raises `InvalidArgument`, `Unsupported`."""
        for key in ("scheduler", "ioPriority", "execCPUAffinity"):
            if process.get(key):
                raise Unsupported(f"process.{key} is not supported by the native runtime", remedy="use runtime 'runc'")
        args = tuple(process.get("args") or ())
        if not args or not args[0]:
            raise InvalidArgument("process.args is empty: there is no command to run")
        cwd = process.get("cwd") or "/"
        if not cwd.startswith("/"):
            raise InvalidArgument(f"process.cwd {cwd!r} is not an absolute path")
        env: dict[str, str] = {}
        for entry in process.get("env") or ():
            name, _, value = entry.partition("=")
            env[name] = value
        if "\0" in "".join((cwd, *args, *env, *env.values())) or "" in env:
            raise InvalidArgument("process: an argument, a variable or the cwd has a NUL in it, or a variable no name")
        user = process.get("user") or {}
        ids = (user.get("uid", 0), user.get("gid", 0), *(user.get("additionalGids") or ()))
        if not all(0 <= number < 0xFFFFFFFF for number in ids):
            raise InvalidArgument(f"process.user: an id in {ids} is not within 0 to 4294967294")
        size = process.get("consoleSize")
        return cls(
            args, env, cwd, ids[0], ids[1], tuple(ids[2:]), user.get("umask", 0o022),
            CapabilitySets.of_spec(process.get("capabilities") or {}),
            bool(process.get("noNewPrivileges")), _rlimits(process.get("rlimits") or ()), process.get("oomScoreAdj"),
            bool(process.get("terminal")), (size["height"], size["width"]) if size else None,
            process.get("apparmorProfile") or "", process.get("selinuxLabel") or "",
        )  # fmt: skip


def _rlimits(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, int, int], ...]:
    limits: list[tuple[int, int, int]] = []
    for entry in entries:
        number = getattr(resource, entry["type"], None) if entry["type"].startswith("RLIMIT_") else None
        if not isinstance(number, int):
            raise InvalidArgument(f"process.rlimits: {entry['type']!r} is not known")
        soft, hard = (_limit(entry[key]) for key in ("soft", "hard"))
        limits.append((number, soft, hard))
    return tuple(limits)


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= 2**63 - 1 else value
