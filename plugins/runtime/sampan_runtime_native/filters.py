"""The seccomp program of a container: compiled once at `create`, and kept for each `exec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampan.api.errors import Unsupported
from sampan.linux import seccomp
from sampan_runtime_native.files import Files


def check(profile: Mapping[str, Any] | None) -> None:
    """Refuse a profile that this driver can't serve. Raises `Unsupported`."""
    if profile and any(
        "SCMP_ACT_NOTIFY" in (rule.get("action"), profile.get("defaultAction")) for rule in (profile.get("syscalls") or [{}])
    ):
        raise Unsupported("seccomp: the native runtime serves no SCMP_ACT_NOTIFY", remedy="use runtime 'runc'")


def compile_and_keep(profile: Mapping[str, Any] | None, files: Files) -> tuple[bytes, int]:
    """Give program and flags of an OCI `linux.seccomp` object, an empty program for none; `exec` finds them in `files`."""
    if not profile:
        return b"", 0
    program, flags = seccomp.compile(profile), seccomp.flags_of(profile)
    files.save_filter(program, flags)
    return program, flags
