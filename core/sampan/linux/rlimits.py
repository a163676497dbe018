"""Resource limits by name. Source: `include/uapi/asm-generic/resource.h`, which x86 and ARM follow; Python lacks RLIMIT_LOCKS."""

from __future__ import annotations

from typing import Final

NUMBERS: Final = {
    f"RLIMIT_{name}": number
    for number, name in enumerate((
        "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE",
        "NICE", "RTPRIO", "RTTIME",
    ))
}  # fmt: skip
"""`RLIMIT_…` → the number that getrlimit(2) takes."""
