"""The shim's children: its operations, the container's processes, and the orphans that the container leaves it.

Sources: waitpid(2), PR_SET_CHILD_SUBREAPER in prctl(2), `signal.set_wakeup_fd` for a signal that only wakes the loop.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from sampan.launch.loop import IN, Loop
from sampan.launch.operations import Operations
from sampan.launch.process import Process


class Children:
    """Reaps them, and tells those who wait for them."""

    def __init__(self, loop: Loop, operations: Operations) -> None:
        """Listen for SIGCHLD, in the whole process."""
        self._loop = loop
        self._operations = operations
        self._processes: dict[int, Process] = {}
        self._wakeup, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._writer = writer
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        loop.watch(self._wakeup, IN, self._woken)

    def adopt(self, process: Process) -> None:
        """Tell a process that is our child of its end."""
        self._processes[process.pid] = process

    def reap(self) -> None:
        """Reap what has ended.

        While an operation may have made a process that we don't know of yet, only known children are reaped: an unknown
        one could be that process, and its pid must stay taken until we hold a pidfd.
        """
        progress = True
        while progress:
            progress = False
            for pid in (*self._operations.pids, *self._processes):
                progress |= self._reap_one(pid)
            while not self._operations.making_process and self._reap_one(-1):
                progress = True

    def end_orphans(self) -> None:
        """Kill what the driver has left of our children, if the kernel lists them (CONFIG_PROC_CHILDREN), and reap."""
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        except FileNotFoundError:
            children = ""
        spared = self._operations.pids
        for pid in map(int, children.split()):
            if pid not in spared:
                os.kill(pid, signal.SIGKILL)
        self.reap()

    def close(self) -> None:
        """Listen no more."""
        signal.set_wakeup_fd(-1)
        self._loop.unwatch(self._wakeup)
        os.close(self._wakeup)
        os.close(self._writer)

    def _woken(self) -> None:
        try:
            os.read(self._wakeup, 4096)
        except BlockingIOError:
            pass
        self.reap()

    def _reap_one(self, which: int) -> bool:
        try:
            pid, status = os.waitpid(which, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return False
        if not self._operations.reaped(pid, status):
            process = self._processes.pop(pid, None)
            if process is not None:
                process.reaped(status)
        return True
