"""`make bench-start`: starts and execs beside dockerd, with one client and one image, taking turns in one run.

dockerd (Debian's docker.io) is started by hand on a socket and data root of its own, in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from ground.daemon import Daemon, new_daemon

READY_SECONDS = 60

CASES: dict[str, list[str]] = {
    "run --rm, bridge": ["run", "--rm", "busybox", "true"],
    "run --rm, none": ["run", "--rm", "--network", "none", "busybox", "true"],
    "run --rm, host": ["run", "--rm", "--network", "host", "busybox", "true"],
    "exec": ["exec", "bench", "true"],
    "ps": ["ps"],
    "version (the client's own floor)": ["version"],
}


@dataclass(frozen=True)
class Peer:
    """An engine to be measured: runs the docker client against it."""

    name: str
    docker: Callable[[list[str]], None]
    pid: int
    host: str


@contextlib.contextmanager
def dockerd() -> Iterator[Peer]:
    """Start dockerd, wait until it answers, stop it by its pid, and remove what it made."""
    base = Path(tempfile.mkdtemp(prefix="sampan-bench-dockerd-"))
    host = f"unix://{base}/docker.sock"
    inside = ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "dockerd"]
    command = ["dockerd", "--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "-p", f"{base}/pid", "-H", host,
               "--bip", "172.30.0.1/16"]  # fmt: skip
    with (base / "log").open("wb") as log:
        process = subprocess.Popen([*inside, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    environment = {**os.environ, "DOCKER_HOST": host}

    def docker(arguments: list[str]) -> None:
        subprocess.run(["docker", *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)

    try:
        deadline = time.monotonic() + READY_SECONDS
        while subprocess.run(["docker", "version"], capture_output=True, env=environment, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"dockerd did not start:\n{(base / 'log').read_text()[-3000:]}")
            time.sleep(0.1)
        yield Peer("dockerd", docker, process.pid, host)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        shutil.rmtree(base, ignore_errors=True)


def sampand(daemon: Daemon) -> Peer:
    """Give a started sampand as a peer."""
    environment = daemon.client_environment()

    def docker(arguments: list[str]) -> None:
        subprocess.run(["docker", *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)

    return Peer("sampan", docker, daemon.pid, daemon.host)


def memory(pid: int) -> int:
    """Give the resident bytes of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        todo += children.get(one, [])
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total << 10


def timed(peer: Peer, arguments: list[str]) -> float:
    """Run once, give milliseconds."""
    start = time.perf_counter()
    peer.docker(arguments)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Measure and print a table; with --json the numbers too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="rounds")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with dockerd() as theirs, new_daemon() as daemon:
        daemon.start()
        ours = sampand(daemon)
        daemon.api("POST", "/sampan/images/bootstrap")
        share_image(daemon, theirs)
        idle = {peer.name: memory(peer.pid) / 1e6 for peer in (theirs, ours)}
        for peer in (theirs, ours):
            peer.docker(["run", "-d", "--name", "bench", "busybox", "sleep", "100000"])
        for name, arguments in CASES.items():
            times: dict[str, list[float]] = {theirs.name: [], ours.name: []}
            for peer in (theirs, ours):
                timed(peer, arguments)
            for _ in range(options.n):
                for peer in (theirs, ours):
                    times[peer.name].append(timed(peer, arguments))
            results[name] = {key: statistics.median(values) for key, values in times.items()}
        results["memory when idle (PSS, MB)"] = idle
        trace = daemon.sampan("trace", "bench").stdout.decode()
        for peer in (theirs, ours):
            peer.docker(["rm", "-f", "bench"])
    report(results, trace, options.n)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def share_image(daemon: Daemon, theirs: Peer) -> None:
    """Give dockerd the same root file system that sampand has."""
    from sampan.engine.bootstrap import write_archive

    path = daemon.base / "rootfs.tar"
    with path.open("wb") as out:
        write_archive(out)
    theirs.docker(["import", "-c", 'CMD ["sh"]', str(path), "busybox"])


def report(results: dict[str, dict[str, float]], trace: str, rounds: int) -> None:
    """Print the table and the trace."""
    print(f"medians of {rounds} rounds in ms, one client, taking turns\n")
    print(f"{'':36}{'dockerd':>10}{'sampan':>10}{'ratio':>10}")
    for name, row in results.items():
        print(f"{name:36}{row['dockerd']:>10.1f}{row['sampan']:>10.1f}{row['sampan'] / row['dockerd']:>10.2f}")
    print(f"\nwhere the time of a start goes:\n{trace}")


if __name__ == "__main__":
    main()
