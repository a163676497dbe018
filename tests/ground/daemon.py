"""A sampand of the test's own, in a network namespace of its own, with the stock docker client and ours beside it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.linux import cgroups, mounts, namespaces

READY_TIMEOUT = 30.0
COMMAND_TIMEOUT = 60.0


@dataclass
class Daemon:
    """One engine. `start`, `kill` and `stop` may be called again and again: root, state and network namespace stay.

    The base directory is short, for unix socket paths are limited to 107 bytes.
    """

    base: Path
    netns: int
    process: subprocess.Popen[bytes] | None = None
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(3))
    prefix: list[str] = field(default_factory=list)
    """A program that sets the stage for the daemon and becomes it: its command comes behind."""
    python: str = sys.executable
    """The interpreter of daemon and client, and with it the environment that their plugins come from."""

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def state(self) -> Path:
        return self.base / "state"

    @property
    def socket(self) -> Path:
        return self.base / "s.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        path = self.base / "log"
        return path.read_text() if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def engine_id(self) -> str:
        return str(self.api("GET", "/info")["ID"])

    # -------------------------------------------------------------- life

    def command(self) -> list[str]:
        return [
            self.python, "-m", "sampan.cli", "daemon", "--root", str(self.root), "--state", str(self.state),
            "-H", self.host, "--bridge-name", f"sp{self.mark}", "--bridge-subnet", "172.31.77.1/24",
            *self.arguments,
        ]  # fmt: skip

    def start(self, *more: str) -> Daemon:
        """Start the daemon and wait until it says that it is ready (sd_notify)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            path = self.base / "notify"
            path.unlink(missing_ok=True)
            notify.bind(str(path))
            self.process = self._spawn([*self.prefix, *self.command(), *more], {"NOTIFY_SOCKET": str(path)})
            self._wait_ready(notify)
        return self

    def _spawn(self, command: Sequence[str], extra: dict[str, str]) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SAMPAN_", "DOCKER_"))}
        with (self.base / "log").open("ab") as log:
            return subprocess.Popen(
                self.inside(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment | self.environment | extra, pass_fds=(self.netns,),
            )  # fmt: skip

    def _wait_ready(self, notify: socket.socket) -> None:
        notify.settimeout(0.05)
        for _ in range(int(READY_TIMEOUT / 0.05)):
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in notify.recv(4096):
                    return
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"sampand ended with {self.process.returncode}:\n{self.log}")
        raise AssertionError(f"sampand did not get ready:\n{self.log}")

    def kill(self) -> None:
        """Kill the daemon with SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """Stop the daemon with SIGTERM and check that it went well."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.log

    # -------------------------------------------------------------- clients

    def inside(self, command: Sequence[str]) -> list[str]:
        """Give a command that runs in the daemon's network namespace: on its 'host'."""
        return ["nsenter", f"--net=/proc/self/fd/{self.netns}", *command]

    def run(
        self, *command: str, stdin: bytes | None = None, check: int | None = 0, timeout: float = COMMAND_TIMEOUT
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program on the daemon's host, with the clients pointed at the daemon."""
        done = subprocess.run(
            self.inside(command), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True, timeout=timeout, pass_fds=(self.netns,), env=self.client_environment(),
        )  # fmt: skip
        if check is not None and done.returncode != check:
            outputs = f"{done.stdout[-2000:]!r}\n{done.stderr[-2000:]!r}\n{self.log[-4000:]}"
            raise AssertionError(f"{command} gave {done.returncode}:\n{outputs}")
        return done

    def client_environment(self) -> dict[str, str]:
        own = {"DOCKER_HOST": self.host, "SAMPAN_HOST": self.host, "DOCKER_CONFIG": str(self.base / "docker")}
        return {k: v for k, v in os.environ.items() if not k.startswith(("SAMPAN_", "DOCKER_"))} | own

    def docker(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run the stock docker client."""
        return self.run(docker_client(), *arguments, **options)

    def sampan(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run our own client."""
        return self.run(self.python, "-m", "sampan.cli", *arguments, **options)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API directly; give the parsed answer. Fails for a status of 400 and up."""
        status, answer = self.api_raw(method, path, body)
        assert status < 400, f"{method} {path}: {status} {answer!r}"
        return json.loads(answer) if answer.strip() else None

    def api_raw(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
        head += "Content-Type: application/json\r\n\r\n" if data else "\r\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(COMMAND_TIMEOUT)
            sock.connect(str(self.socket))
            sock.sendall(head.encode() + data)
            parts = []
            while part := sock.recv(1 << 16):
                parts.append(part)
        header, _, rest = b"".join(parts).partition(b"\r\n\r\n")
        status = int(header.split(b" ", 2)[1])
        return status, _dechunk(rest) if b"chunked" in header.lower() else rest


def _dechunk(data: bytes) -> bytes:
    out = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        out.append(data[:length])
        data = data[length + 2 :]
        if length == 0:
            break
    return b"".join(out)


def docker_client() -> str:
    """Give the docker client; the tests that need it fail, not skip, without it."""
    found = shutil.which("docker")
    assert found is not None, "the stock docker client is missing: apt-get install docker.io (or docker-cli)"
    return found


@contextlib.contextmanager
def new_daemon(
    *arguments: str, environment: dict[str, str] | None = None, place: Path = Path("/tmp")
) -> Iterator[Daemon]:
    """Give a daemon that is not started yet; whatever it leaves running is ended afterwards, and its files removed."""
    base = place / f"sp-{secrets.token_hex(4)}"
    base.mkdir(mode=0o700)
    netns = namespaces.new_netns()
    daemon = Daemon(base, netns, arguments=list(arguments), environment=environment or {})
    try:
        subprocess.run(daemon.inside(["ip", "link", "set", "lo", "up"]), check=True, pass_fds=(netns,))
        yield daemon
    finally:
        _tear_down(daemon)


def _tear_down(daemon: Daemon) -> None:
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.process.kill()
        daemon.process.wait(10)
    for pid in processes_of(daemon):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _remove_cgroups(daemon)
    _unmount(daemon)
    os.close(daemon.netns)
    subprocess.run(["rm", "-rf", str(daemon.base)], check=False)  # a container may have made it deeper than Python goes


def _unmount(daemon: Daemon) -> None:
    """Take away mounts of a daemon that was killed and never came back: file systems of limited containers."""
    for mount in reversed(mounts.parse_mountinfo()):
        if mount.target.startswith(f"{daemon.base}/"):
            mounts.umount(mount.target, mounts.MNT_DETACH)


def _remove_cgroups(daemon: Daemon) -> None:
    """End and remove what a daemon that was killed, and never came back, has left in the host's hierarchies."""
    database = daemon.root / "metadata.db"
    if not database.exists():
        return
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            (engine_id,) = connection.execute("SELECT value FROM settings WHERE key = 'engine_id'").fetchone()
        except (sqlite3.Error, TypeError):  # it was killed before it had made its tables
            return
    for root in cgroups.detect().roots:
        parent = Path(f"{root}/sampan/{engine_id}")
        for child in (entry for entry in (parent.iterdir() if parent.is_dir() else ()) if entry.is_dir()):
            group = cgroups.Cgroup(f"/sampan/{engine_id}/{child.name}")
            group.kill()
            group.remove()
        with contextlib.suppress(FileNotFoundError):
            parent.rmdir()


def processes_of(daemon: Daemon) -> list[int]:
    """Give the processes that have the daemon's state directory open: its shims, and whatever else it made."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            links = [os.readlink(link) for link in (entry / "fd").iterdir()]
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(daemon.base).encode() in line or any(link.startswith(str(daemon.state)) for link in links):
            found.append(int(entry.name))
    return found
