"""`spec`: a config.json to start from."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from sampan.api.errors import Conflict, InvalidArgument, Unsupported
from sampan.linux.cgroup_layout import detect
from sampan_runtime_native.cli.version import OCI_VERSION

_CAPABILITIES: Final = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_NAMESPACES: Final = ("pid", "network", "ipc", "uts", "mount")
_KERNEL: Final = ["nosuid", "noexec", "nodev"]


def spec(options: Namespace) -> int:
    """Write a configuration that runs `sh` on a terminal in `rootfs`. Raises `Conflict` if there is one."""
    if options.rootless:
        raise Unsupported(
            "spec --rootless: containers without root are not built", remedy="leave it out, and run as root"
        )
    path = Path(options.bundle) / "config.json"
    try:
        with path.open("x") as file:
            file.write(json.dumps(configuration(), indent="\t") + "\n")
    except FileExistsError as error:
        raise Conflict(f"file {path} exists", remedy="remove it first") from error
    except OSError as error:
        raise InvalidArgument(f"write {path}: {error.strerror}") from error
    return 0


def configuration() -> dict[str, Any]:
    """Give the configuration, an object of the caller's own."""
    namespaces = (*_NAMESPACES, "cgroup") if detect().version == "v2" else _NAMESPACES
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "sampan",
        "mounts": [
            _mount("/proc", "proc", "proc", []),
            _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            _mount("/dev/shm", "tmpfs", "shm", [*_KERNEL, "mode=1777", "size=65536k"]),
            _mount("/dev/mqueue", "mqueue", "mqueue", _KERNEL),
            _mount("/sys", "sysfs", "sysfs", [*_KERNEL, "ro"]),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_KERNEL, "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
                "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }  # fmt: skip


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}
