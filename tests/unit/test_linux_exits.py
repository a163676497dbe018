from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from sampan.linux.exits import exit_code


def test_the_code_of_a_zombie_that_nobody_reaps() -> None:
    with subprocess.Popen(["sh", "-c", "exit 7"]) as process:
        pidfd = os.pidfd_open(process.pid)
        assert exit_code(process.pid, pidfd) == 7
        os.close(pidfd)


def test_a_signal() -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        pidfd = os.pidfd_open(process.pid)
        process.send_signal(signal.SIGKILL)
        assert exit_code(process.pid, pidfd) == 137
        os.close(pidfd)


def test_it_waits_for_the_end() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        pidfd = os.pidfd_open(process.pid)
        found: list[int] = []
        waiter = threading.Thread(target=lambda: found.append(exit_code(process.pid, pidfd)))
        waiter.start()
        assert not found
        process.stdin.close()
        waiter.join()
        assert found == [0]
        os.close(pidfd)


def test_the_code_of_one_that_was_reaped_or_that_the_kernel_does_not_know_it() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read(); sys.exit(9)"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(process.pid)
    process.communicate()
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release >= (6, 15):
        assert exit_code(process.pid, pidfd) == 9
    else:
        with pytest.raises(OSError, match="reaped"):
            exit_code(process.pid, pidfd)
    os.close(pidfd)
