"""From an OCI `process` to what a new process will do with itself: checked and frozen before it is born.

What is asked for and this driver cannot do is refused here, never left out. Source: OCI runtime spec 1.2, `config.md`.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.linux import capabilities
from sampan.linux.capabilities import CapabilitySets
from sampan.linux.rlimits import NUMBERS
from sampan.linux.scheduling import Scheduling


@dataclass(frozen=True, slots=True)
class Process:
    """An OCI `process`, checked. `rlimits`: (resource, soft, hard), -1 is unlimited. `scheduling` is None where nothing is said
    of it. `warnings` tell what the kernel doesn't know and is left out.
    """

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
    scheduling: Scheduling | None
    warnings: tuple[str, ...]

    @classmethod
    def of_spec(cls, process: Mapping[str, Any]) -> Process:
        """Check an OCI `process` object. Raises `InvalidArgument`, and `ValueError` for what it has of an unknown kind."""
        args = tuple(process.get("args") or ())
        if not args:
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
        ids = (user.get("uid") or 0, user.get("gid") or 0, *(user.get("additionalGids") or ()))
        if not all(0 <= number < 0xFFFFFFFF for number in ids):
            raise InvalidArgument(f"process.user: an id in {ids} is not within 0 to 4294967294")
        umask = user.get("umask")
        umask = 0o022 if umask is None else umask
        if not 0 <= umask <= 0o777:
            raise InvalidArgument(f"process.user: umask {umask} is not within 0 to 511")
        oom_score_adj = process.get("oomScoreAdj")
        if oom_score_adj is not None and not -1000 <= oom_score_adj <= 1000:
            raise InvalidArgument(f"process.oomScoreAdj {oom_score_adj} is not within -1000 to 1000")
        sets, unknown = _capabilities(process.get("capabilities") or {})
        terminal = bool(process.get("terminal"))
        size = process.get("consoleSize") if terminal else None
        return cls(
            args, env, cwd, ids[0], ids[1], tuple(ids[2:]), umask, sets,
            bool(process.get("noNewPrivileges")), _rlimits(process.get("rlimits") or ()), oom_score_adj,
            terminal, (int(size["height"]), int(size["width"])) if size else None,
            process.get("apparmorProfile") or "", process.get("selinuxLabel") or "",
            Scheduling.of_process(process),
            (f"capabilities that the kernel does not know are left out: {', '.join(unknown)}",) if unknown else (),
        )  # fmt: skip


def _capabilities(sets: Mapping[str, Sequence[str]]) -> tuple[CapabilitySets, list[str]]:
    """Give the sets, and the names that are unknown: the spec has a runtime go on without them, and say so."""
    known = {key: [name for name in names or () if name in capabilities.NAMES] for key, names in sets.items()}
    unknown = {name for names in sets.values() for name in names or () if name not in capabilities.NAMES}
    return CapabilitySets.of_spec(known), sorted(unknown)


def _rlimits(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, int, int], ...]:
    limits: dict[int, tuple[int, int, int]] = {}
    for entry in entries:
        number = NUMBERS.get(entry["type"])
        if number is None:
            raise InvalidArgument(f"process.rlimits: {entry['type']!r} is not known")
        if number in limits:
            raise InvalidArgument(f"process.rlimits: {entry['type']} is there twice")
        soft, hard = (_limit(entry[key]) for key in ("soft", "hard"))
        limits[number] = number, soft, hard
    return tuple(limits.values())


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= 2**63 - 1 else value
