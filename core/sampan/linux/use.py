"""What processors and network interfaces have done since they came up.

Sources: proc(5), `/proc/stat` and `/proc/PID/net/dev`; the kernel's `net/core/net-procfs.c` for the columns.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class SystemUse:
    """Nanoseconds that all processors together have been up, idle or not, and how many there are."""

    cpu_ns: int
    processors: int


@dataclass(frozen=True, slots=True)
class InterfaceCounts:
    """What an interface has received and sent."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def system_use() -> SystemUse:
    """Read the host's processor time. Raises `OSError`."""
    cpu_ns = processors = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if not name.startswith("cpu"):
            break
        if name == "cpu":
            cpu_ns = (
                sum(map(int, fields[:7])) * _TICK_NS
            )  # up to softirq: what is stolen or a guest's is not the host's
        else:
            processors += 1
    return SystemUse(cpu_ns, processors)


def interface_counts(pid: int) -> dict[str, InterfaceCounts]:
    """Read the counts of the interfaces in a process's network namespace. Raises `OSError` if there is none such."""
    counts: dict[str, InterfaceCounts] = {}
    table = Path(f"/proc/{pid}/net/dev").read_text(errors="replace")  # the names are whatever a container gave
    for line in table.splitlines()[2:]:
        name, _, rest = line.rpartition(":")
        fields = [int(field) for field in rest.split()]
        counts[name.strip()] = InterfaceCounts(*fields[0:4], *fields[8:12])
    return counts


@cache
def machine_memory() -> int:
    """Give the host's memory in bytes, as its kernel counts it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
