"""Sockets in other network namespaces, from a process that has one thread, as sampan-netd."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

PROGRAM = """
    import os
    from sampan.linux.namespaces import new_netns
    from sampan.netd.outside import Outside

    outside = Outside(1)
    try:
        with outside.inside(new_netns()):
            os.close(outside.home)
    finally:
        os.write(1, b"went on")
"""


def test_who_cannot_come_back_does_nothing_more() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, b"")
