"""OCI runtime specifications as Docker's engine makes them, for tests.

Source: the OCI runtime spec 1.2; the values are the defaults of Docker's documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["DEFAULT_CAPABILITIES", "container_spec", "process_spec"]

Spec = dict[str, Any]

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
    "CAP_AUDIT_WRITE",
)  # fmt: skip

_MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def process_spec(args: Sequence[str], **changes: Any) -> Spec:
    """Give a `process` object that runs `args` as root in / with Docker's capabilities; `changes` are its
    fields."""
    capabilities = list(DEFAULT_CAPABILITIES)
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
        "args": list(args),
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        "oomScoreAdj": 0,
        **changes,
    }


def container_spec(args: Sequence[str], *, cgroup: str, **process: Any) -> Spec:
    """Give a whole configuration for `args` in new mount, pid, network, uts and ipc namespaces.

    The root is writable and called `rootfs`; `cgroup` is the path in every hierarchy. A fresh object:
    change it freely.
    """
    return {
        "ociVersion": "1.0.2",
        "process": process_spec(args, **process),
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "suite",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": _device_rules()},
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "network", "uts", "ipc")],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
            "sysctl": {},
        },
    }


def _mounts() -> list[Spec]:
    kernel = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": kernel},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*kernel, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*kernel, "ro"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": kernel},
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*kernel, "mode=1777", "size=67108864"],
        },
    ]


def _device_rules() -> list[Spec]:
    """Nothing but making nodes, and null, zero, full, random, urandom, tty, console, ptmx and the
    terminals."""
    nodes = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2))
    return [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
        *(
            {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
            for major, minor in nodes
        ),
        {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    ]
