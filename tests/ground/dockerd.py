"""A dockerd of the test's own, in a network and a mount namespace of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READY_TIMEOUT = 30.0
COMMAND_TIMEOUT = 60.0

_PREPARE = """
ip link set lo up
# While an engine of ours runs on a v1 host, every process is in one more hierarchy (ADR 12). containerd reads no cgroup of a process
# unless it sees all of that one's hierarchies mounted.
mkdir "$1/name=sampan" && mount -t cgroup -o none,name=sampan,favordynmods sampan "$1/name=sampan"
shift
exec "$@"
"""


@dataclass(frozen=True)
class Dockerd:
    """A running dockerd with its own containerd. `base` has its files and its log."""

    base: Path
    pid: int

    @property
    def client(self) -> list[str]:
        """The docker client's command for it."""
        return ["docker", "-H", f"unix://{self.base}/s"]

    def run(
        self, *command: str, check: int | None = 0, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a docker command to its end; `check` is the exit status that it must have."""
        done = subprocess.run(
            [*self.client, *command], input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True,
            timeout=COMMAND_TIMEOUT,
        )  # fmt: skip
        assert check is None or done.returncode == check, (
            f"{command} gave {done.returncode}: {done.stdout!r} {done.stderr!r}"
        )
        return done

    def out(self, *command: str) -> str:
        """Run a command that must succeed; give its output."""
        return self.run(*command).stdout.decode().strip()

    def inside(self, *command: str) -> str:
        """Run a program on its 'host'."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", *command], capture_output=True, text=True, check=True
        ).stdout


@contextlib.contextmanager
def running_dockerd(*options: str) -> Iterator[Dockerd]:
    """Start dockerd with more options; stop it and remove its files."""
    base = Path(tempfile.mkdtemp(prefix="sp-dockerd-", dir="/tmp"))  # short: socket paths are limited
    up = ["sh", "-c", _PREPARE, "-", str(base)]
    command = ["unshare", "--net", "--mount", *up, "dockerd", "--data-root", f"{base}/data", "--exec-root", f"{base}/exec",
               "-p", f"{base}/pid", "-H", f"unix://{base}/s", *options]  # fmt: skip
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_TIMEOUT
        while not (base / "s").exists():
            assert process.poll() is None and time.monotonic() < deadline, (base / "log").read_text()
            time.sleep(0.05)
        yield Dockerd(base, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            shutil.rmtree(base, ignore_errors=True)
