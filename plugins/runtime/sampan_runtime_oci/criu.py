"""Whether criu, with which runc writes and reads checkpoints, works on this host."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

_SECONDS = 20


@cache
def obstacle() -> str:
    """Say why there can be no checkpoints, "" if they work. Asks criu itself, once in the life of a process: 40 ms."""
    program = shutil.which("criu")
    if program is None:
        return "there is no criu on PATH; to have it: apt-get install criu"
    try:
        done = subprocess.run([program, "check"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`criu check` failed: {error}"
    if done.returncode == 0:
        return ""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if "Error" in line]
    return f"`criu check` says that it does not work here: {lines[0] if lines else f'status {done.returncode}'}"
