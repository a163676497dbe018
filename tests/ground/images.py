"""Base images that tests share, made once and kept between runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "images"

SUITE = "stable"
"""What mmdebstrap makes: whatever Debian calls stable now."""


def debian_tar() -> Path:
    """Give a minimal Debian as a tar, made by mmdebstrap when it is not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / f"debian-{SUITE}.tar"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            growing = made.with_suffix(f".{os.getpid()}.tar")
            command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", *_sources(), str(growing)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            assert done.returncode == 0, f"mmdebstrap: {done.stderr[-2000:]}"
            growing.rename(made)
    return made


def _sources() -> list[str]:
    """Name the suite that the host itself uses: its mirror is known to be reachable and its keys to be there."""
    text = Path("/etc/os-release").read_text()
    codename = next((line.partition("=")[2] for line in text.splitlines() if line.startswith("VERSION_CODENAME=")), SUITE)
    return [codename.strip('"')]
