"""What a container may do: capabilities, masked paths, seccomp. The defaults are Docker's.

Sources: Docker's documentation of default capabilities and of the seccomp profile; the masked and read-only paths are those
that moby 28 masks (GHSA-6fw5-f8r9-fgfm and GHSA-jq35-85cj-fj4p among the reasons).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.api.types import HostConfig
from sampan.engine.seccomp_profile import default_seccomp, resolve_profile
from sampan.engine.security_options import SecurityOptions
from sampan.linux import capabilities

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@cache
def masked_paths() -> tuple[str, ...]:
    """Give the paths that a container must not read, as they are on this host."""
    return (
        "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
        "/sys/firmware", *sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")),
    )  # fmt: skip


def effective_paths(asked: list[str] | None, default: Sequence[str], privileged: bool) -> list[str]:
    """Give the paths to mask or to make read-only: those asked for, else the default, for a privileged container none."""
    if asked is not None:
        return asked
    return [] if privileged else list(default)


def _capability(name: str, field: str) -> str:
    full = name.upper()
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in capabilities.NAMES:
        raise InvalidArgument(f'invalid {field}: unknown capability: "{full}"')
    return full


@cache
def available_capabilities() -> frozenset[str]:
    """Give the capabilities that this daemon has and so can give."""
    return frozenset(capabilities.names(capabilities.current().effective))


def container_capabilities(host: HostConfig) -> tuple[list[str], list[str]]:
    """Give the capabilities of the container's processes, and warnings for those the daemon itself lacks."""
    add = [item.upper() for item in host.cap_add]
    drop = [item.upper() for item in host.cap_drop]
    everything = list(capabilities.NAMES)
    if host.privileged:
        wanted = everything
    else:
        names_added = {_capability(item, "CapAdd") for item in add if item != "ALL"}
        names_dropped = {_capability(item, "CapDrop") for item in drop if item != "ALL"}
        base = everything if "ALL" in add else [] if "ALL" in drop else list(DEFAULT_CAPABILITIES)
        wanted = [name for name in everything if (name in base and name not in names_dropped) or name in names_added]
        if "ALL" in add:
            wanted = [name for name in everything if name not in names_dropped]
    given = [name for name in wanted if name in available_capabilities()]
    missing = [name for name in wanted if name not in available_capabilities()]
    if not missing:
        return given, []
    return given, [f"The daemon itself lacks {', '.join(missing)}: the container does not get it"]


def seccomp(
    host: HostConfig, options: SecurityOptions, granted: list[str], default: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Give the OCI `linux.seccomp` object, or None for none. `default` is the daemon's profile: None for the one built in, {} for none."""
    if options.seccomp_unconfined or (host.privileged and options.seccomp is None):
        return None
    profile = default if options.seccomp is None else options.seccomp
    if profile is None:
        return default_seccomp(frozenset(granted), os.uname().machine)
    return resolve_profile(profile, frozenset(granted)) if profile else None
