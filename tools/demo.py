"""`make demo`: an engine in a directory of its own, containers in it, and everything gone afterwards."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

LOOK = """'echo "$(hostname), pid $$"; grep " / " /proc/mounts | cut -d, -f1; ip -4 addr | grep inet'"""
SERVE = "'echo serving; mkdir /w; echo hello from a container > /w/index.html; exec httpd -f -h /w'"
LISTENS = "'until netstat -ltn | grep :80; do sleep 0.1; done; ps'"
STEPS = (
    ("an image, made of the static busybox of this machine", "sampan image bootstrap"),
    ("a container with the default drivers: overlayfs, bridge, native", f"sampan run --rm busybox sh -c {LOOK}"),
    ("the same with other drivers", f"sampan run --rm --storage-driver vfs --network none busybox sh -c {LOOK}"),
    ("one that stays, with a limit and a port", f"sampan run -d --name web -m 64m -p 8080:80 busybox sh -c {SERVE}"),
    ("processes beside it, which wait until it listens", f"sampan exec web sh -c {LISTENS}"),
    ("what it serves", "busybox wget -qO- http://127.0.0.1:8080/"),
    ("a network of one's own", "sampan network create own"),
    ("it joins while it runs", "sampan network connect own web"),
    ("another one there finds it by its name", "sampan run --rm --network own busybox wget -qO- http://web/"),
    ("its log", "sampan logs web"),
    ("what runs", "sampan ps"),
    ("the same, asked by the stock docker client", "docker ps"),
    ("where the time of its start went", "sampan trace web"),
    ("the drivers that this engine found", "sampan plugins"),
    ("and away with it", "sampan rm -f web"),
    ("and with its network", "sampan network rm own"),
)

OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "demo")
"""Bridge, ports and firewall rules of the demo live, and go, with a network namespace of its own."""

PROGRAMS = {"sampan": (sys.executable, "-m", "sampan.cli")}


def main() -> int:
    """Run the steps; give the exit status of the first that fails."""
    if os.geteuid() != 0:
        print("make demo: containers need root: run it with sudo", file=sys.stderr)
        return 1
    base = Path(tempfile.mkdtemp(prefix="sampan-demo-"))
    host = f"unix://{base}/sock"
    daemon = start(base, host)
    try:
        engine = output("info", "--format", "{{.ID}}", host=host)
        status = run_steps(daemon, base, host)
    finally:
        stop(daemon, base, host)
    if left := leftovers(base, engine):
        print("left behind:", *left, sep="\n  ", file=sys.stderr)
        return 1
    if status == 0:
        print("\nThe engine is stopped, and no process, mount, cgroup or file of it is left. To keep one: sampan daemon")
    return status


def start(base: Path, host: str) -> subprocess.Popen[bytes]:
    """Start a daemon on the embedded defaults and wait until it says that it is ready."""
    options = ["daemon", "--root", f"{base}/root", "--state", f"{base}/state", "-H", host]
    print("# an engine, as it comes\n$ sampan", *options, flush=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (base / "log").open("wb") as log:
        notify.bind(str(base / "notify"))
        notify.settimeout(0.1)
        daemon = subprocess.Popen(
            [*OWN_NETWORK, *PROGRAMS["sampan"], *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env={**os.environ, "NOTIFY_SOCKET": str(base / "notify")},
        )  # fmt: skip
        while daemon.poll() is None:
            try:
                if b"READY=1" in notify.recv(4096):
                    return daemon
            except TimeoutError:
                pass
    print(f"the daemon did not start:\n{(base / 'log').read_text()}", file=sys.stderr)
    shutil.rmtree(base)
    raise SystemExit(1)


def run_steps(daemon: subprocess.Popen[bytes], base: Path, host: str) -> int:
    """Run each step on the daemon's network, as on its host."""
    environment = client_environment(host)
    for title, line in STEPS:
        program, *arguments = shlex.split(line)
        if program == "docker" and not shutil.which(program):
            continue
        print(f"\n# {title}\n$ {line}", flush=True)
        inside = ["nsenter", f"--net=/proc/{daemon.pid}/ns/net", *PROGRAMS.get(program, (program,)), *arguments]
        done = subprocess.run(inside, env=environment, check=False)
        if done.returncode:
            print(f"\nthat failed; the daemon's log:\n{(base / 'log').read_text()}", file=sys.stderr)
            return done.returncode
    return 0


def output(*arguments: str, host: str) -> str:
    """Give what a client's command prints; nothing if it fails."""
    command = [*PROGRAMS["sampan"], *arguments]
    return subprocess.run(command, env=client_environment(host), capture_output=True, text=True, check=False).stdout.strip()


def client_environment(host: str) -> dict[str, str]:
    """Point the clients at the demo's engine."""
    return {**os.environ, "SAMPAN_HOST": host, "DOCKER_HOST": host}


def stop(daemon: subprocess.Popen[bytes], base: Path, host: str) -> None:
    """Remove the container that a failure left, stop the daemon and remove its directory."""
    output("rm", "-f", "web", host=host)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(30)
    shutil.rmtree(base)


def leftovers(base: Path, engine: str) -> list[str]:
    """Name the mounts and processes that still speak of the demo's directory, and the engine's cgroups."""
    mounts = [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if str(base) in line]
    lines = {path.parent.name: cmdline(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    processes = [f"process {pid}: {line!r}" for pid, line in lines.items() if str(base).encode() in line]
    hierarchies = (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/"))
    cgroups = [f"cgroup {path}" for root in hierarchies for path in root.glob(f"sampan/{engine}")]
    return mounts + processes + cgroups


def cmdline(path: Path) -> bytes:
    """Read a process's command line; nothing if it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main())
