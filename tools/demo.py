"""`make demo`: an engine in a directory of its own, a container in it, and everything gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = (
    ("the embedded image, from the host's static busybox", ["image", "bootstrap"]),
    ("a container with the default drivers", ["run", "--rm", "busybox", "sh", "-c", "echo hello from $(hostname), pid $$; id"]),
    ("the same with other drivers", ["run", "--rm", "--storage-driver", "vfs", "--network", "none", "busybox", "ip", "addr"]),
    ("one that stays", ["run", "-d", "--name", "demo", "-m", "64m", "busybox", "sh", "-c", "echo up; sleep 60"]),
    ("what runs", ["ps"]),
    ("a process beside it", ["exec", "demo", "ps"]),
    ("its log", ["logs", "demo"]),
    ("where the time of its start went", ["trace", "demo"]),
    ("the drivers that this engine knows", ["plugins"]),
    ("and away with it", ["rm", "-f", "demo"]),
)

OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "demo")
"""Bridge and firewall rules of the demo live, and go, with a network namespace of its own."""


def main() -> int:
    """Run the steps; give the exit status of the first that fails."""
    if os.geteuid() != 0:
        print("make demo: containers need root: run it with sudo", file=sys.stderr)
        return 1
    base = Path(tempfile.mkdtemp(prefix="sampan-demo-"))
    host = f"unix://{base}/sampan.sock"
    sampan = [sys.executable, "-m", "sampan.cli"]
    daemon = start(base, host, sampan)
    try:
        for title, arguments in STEPS:
            print(f"\n# {title}\n$ sampan {' '.join(arguments)}", flush=True)
            done = subprocess.run([*sampan, "-H", host, *arguments], check=False)
            if done.returncode:
                print(f"\nthat failed; the daemon's log:\n{(base / 'log').read_text()}", file=sys.stderr)
                return done.returncode
    finally:
        stop(daemon, base)
    print("\nThe engine is stopped and its directory removed. To keep one: sampan daemon")
    return 0


def start(base: Path, host: str, sampan: list[str]) -> subprocess.Popen[bytes]:
    """Start a daemon on the embedded defaults and wait until it is ready."""
    print(f"$ sampan daemon --root {base}/root --state {base}/state -H {host}", flush=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (base / "log").open("wb") as log:
        notify.bind(str(base / "notify"))
        notify.settimeout(60)
        options = ["--root", f"{base}/root", "--state", f"{base}/state", "-H", host]
        daemon = subprocess.Popen(
            [*OWN_NETWORK, *sampan, "daemon", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(base / "notify")},
        )  # fmt: skip
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
        except TimeoutError:
            print(f"the daemon did not start:\n{(base / 'log').read_text()}", file=sys.stderr)
            stop(daemon, base)
            raise SystemExit(1) from None
    return daemon


def stop(daemon: subprocess.Popen[bytes], base: Path) -> None:
    """Stop the daemon and remove its directory."""
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(30)
    shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
