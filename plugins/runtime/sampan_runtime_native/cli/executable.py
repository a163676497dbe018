"""A process that enters a container must not have an executable that the container could write to."""

from __future__ import annotations

import os
import sys

from sampan.linux.readonly_file import open_readonly_file


def run_from_readonly_mount() -> None:
    """Start this very command again, from a mount of the interpreter that is read-only and attached nowhere; return
    where that has been done, and without root, which is refused later.

    Whatever opens `/proc/PID/exe` then gets EROFS (CVE-2019-5736). Raises `OSError`.
    """
    if os.geteuid() != 0 or os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return
    executable = open_readonly_file(os.path.realpath(sys.executable))
    os.execve(executable, sys.orig_argv, os.environ)
