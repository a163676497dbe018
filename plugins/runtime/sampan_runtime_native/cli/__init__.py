"""`sampan-runtime`: the native runtime as a program with the command line of OCI runtimes.

For those who have no engine of ours: dockerd, containerd, podman, or somebody with a bundle. Source: the "OCI Runtime
Command Line Interface" of the OCI's runtime-tools, and `runc(8)` for what that leaves open.
"""

from __future__ import annotations

import sys
from typing import Final

_ENTERING: Final = frozenset({"create", "run", "exec"})


def main() -> int:
    """Run the command of this process's line and give the exit status."""
    if not _ENTERING.isdisjoint(sys.argv):
        # A process of ours may enter a container. First of all, for what was imported until then is imported again.
        from sampan_runtime_native.cli.executable import run_from_readonly_mount

        run_from_readonly_mount()
    from sampan_runtime_native.cli.main import run

    return run(sys.argv[1:])
