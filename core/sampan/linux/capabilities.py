"""Capabilities: names and bits, and the five sets of a thread.

Sources: `capabilities(7)`, `capset(2)`, `include/uapi/linux/capability.h`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sampan.linux.syscalls import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    prctl,
    syscall,
)

NAMES: Final[tuple[str, ...]] = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
    "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""The kernel's names; a capability's number is its index."""

_BITS = {name: 1 << number for number, name in enumerate(NAMES)}
_VERSION_3 = 0x20080522


@dataclass(frozen=True, slots=True)
class CapabilitySets:
    """The five sets of a thread, as bit masks."""

    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0

    @classmethod
    def of_spec(cls, capabilities: Mapping[str, Sequence[str]]) -> CapabilitySets:
        """Read an OCI `process.capabilities` object. Raises `ValueError` for a name that the kernel doesn't
        have."""
        return cls(*[mask(capabilities.get(name) or ()) for name in cls.__slots__])

    def reachable(self, ceiling: CapabilitySets) -> CapabilitySets:
        """Give these sets without what a thread with the sets `ceiling` cannot pass on."""
        bounding = self.bounding & ceiling.bounding
        permitted = self.permitted & ceiling.permitted
        inheritable = self.inheritable & (permitted | ceiling.inheritable)
        return CapabilitySets(
            bounding,
            self.effective & permitted,
            inheritable,
            permitted,
            self.ambient & permitted & inheritable,
        )


def mask(names: Collection[str]) -> int:
    """Give the bits of capability names (`CAP_KILL`). Raises `ValueError` that names an unknown one."""
    bits = 0
    for name in names:
        bit = _BITS.get(name)
        if bit is None:
            raise ValueError(f"unknown capability {name!r}")
        bits |= bit
    return bits


def names(bits: int) -> tuple[str, ...]:
    """Give the names of the capabilities in a mask, in the kernel's order; unknown bits are left out."""
    return tuple(name for name, bit in _BITS.items() if bits & bit)


def last_cap() -> int:
    """Give the number of the last capability that the running kernel has."""
    fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def current(proc: int | None = None) -> CapabilitySets:
    """Read the sets of the calling process from the procfs `proc`, a directory descriptor, or else from /proc."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    fd = os.open("/proc/self/status", flags) if proc is None else os.open("self/status", flags, dir_fd=proc)
    try:
        text = os.read(fd, 8192)
    finally:
        os.close(fd)
    found = {line[:6]: int(line[8:], 16) for line in text.splitlines() if line.startswith(b"Cap")}
    return CapabilitySets(*[found[key] for key in (b"CapBnd", b"CapEff", b"CapInh", b"CapPrm", b"CapAmb")])


def drop_bounding(keep: int, have: int) -> None:
    """Drop from the bounding set what is in `have` and not in `keep`. Needs CAP_SETPCAP: before `apply`, and
    before the user changes.
    """
    excess = have & ~keep
    number = 0
    while excess >> number:
        if excess >> number & 1:
            prctl(PR_CAPBSET_DROP, number)
        number += 1


def apply(sets: CapabilitySets) -> None:
    """Set effective, permitted and inheritable of this thread, then the ambient set. The bounding set is not
    touched."""
    low = 0xFFFFFFFF
    header = struct.pack("=Ii", _VERSION_3, 0)
    data = struct.pack(
        "=6I", sets.effective & low, sets.permitted & low, sets.inheritable & low,
        sets.effective >> 32, sets.permitted >> 32, sets.inheritable >> 32,
    )  # fmt: skip
    syscall("capset", header, data)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(sets.ambient.bit_length()):
        if sets.ambient >> number & 1:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
