"""The whole engine on a host with pure cgroup v2 and no systemd, by the stock docker client. Run in the VM, by `make test-vm`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

GROUPS = Path("/sys/fs/cgroup/sampan")
BASE = Path("/tmp/cgroup2")
HOST = f"unix://{BASE}/s.sock"


@pytest.fixture(scope="module", autouse=True)
def daemon() -> Iterator[None]:
    """One daemon, started as the first program of a host without systemd would be: in the root cgroup."""
    BASE.mkdir()
    command = [
        sys.executable, "-m", "sampan.cli", "daemon", "--root", f"{BASE}/root", "--state", f"{BASE}/state", "-H", HOST,
        "--bridge-name", "spvm0", "--bridge-subnet", "172.31.77.1/24",
    ]  # fmt: skip
    with (BASE / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(1200):
                if (BASE / "s.sock").exists() or process.poll() is not None:
                    break
                time.sleep(0.1)
            subprocess.run(
                ["curl", "-sS", "--fail", "--unix-socket", f"{BASE}/s.sock", "-X", "POST", "http://x/sampan/images/bootstrap"],
                check=True,
            )  # fmt: skip
            yield
        finally:
            process.terminate()
            process.wait()
            sys.stderr.write((BASE / "log").read_text()[-4000:])


def docker(*arguments: str, code: int = 0) -> str:
    """Run the client; give what it printed."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, env={**os.environ, "DOCKER_HOST": HOST}, timeout=300
    )
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout.strip()


def cgroup_of(name: str) -> Path:
    """The container's cgroup on the host."""
    found = list(GROUPS.glob(f"*/{docker('inspect', '-f', '{{.Id}}', name)}"))
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def idle() -> Iterator[str]:
    """A container that does nothing, with limits."""
    docker(
        "run", "-d", "--name", "idle", "--network", "none", "-m", "64m", "--memory-swap", "96m", "--memory-reservation", "32m",
        "--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0", "--pids-limit", "20", "busybox", "sleep", "1000",
    )  # fmt: skip
    yield "idle"
    docker("rm", "-f", "idle")
    assert [path for path in GROUPS.glob("*/*") if path.is_dir()] == []


def test_what_info_says() -> None:
    info = json.loads(docker("info", "--format", "{{json .}}"))
    assert info["CgroupVersion"] == "2"
    assert info["CgroupDriver"] == "cgroupfs"


def test_limits_are_seen_inside_and_out(idle: str) -> None:
    names = ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max")
    expected = [str(64 << 20), str(32 << 20), str(32 << 20), "50000 100000", "20", "0", "20"]
    assert docker("exec", idle, "sh", "-c", f"cd /sys/fs/cgroup && cat {' '.join(names)}").splitlines() == expected
    assert [(cgroup_of(idle) / name).read_text().strip() for name in names] == expected
    assert docker("exec", idle, "cat", "/proc/1/cgroup") == "0::/"


def test_update(idle: str) -> None:
    docker("update", "-m", "128m", "--memory-swap", "128m", "--pids-limit", "30", "--cpu-shares", "1024", idle)
    cgroup = cgroup_of(idle)
    found = [(cgroup / name).read_text().strip() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.weight")]
    assert found == [str(128 << 20), "0", "30", "39"]


def test_stats(idle: str) -> None:
    line = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", idle))
    assert line["Name"] == idle
    assert line["PIDs"] == "1"
    assert line["MemUsage"].endswith("/ 128MiB")


def test_pause_and_kill(idle: str) -> None:
    docker("pause", idle)
    assert "frozen 1" in (cgroup_of(idle) / "cgroup.events").read_text()
    docker("unpause", idle)
    assert docker("exec", idle, "echo", "there") == "there"


def test_devices(idle: str) -> None:
    """The eBPF program lets any node be made, and only those be opened that are allowed."""
    script = "mknod /tmp/tty0 c 4 0; head -c0 /tmp/tty0 2>&1; mknod /tmp/zero c 1 5; head -c4 /tmp/zero | wc -c"
    output = docker("exec", idle, "sh", "-c", script)
    assert "Operation not permitted" in output
    assert output.endswith("4")
    docker("run", "--rm", "--network", "none", "--device", "/dev/tty0", "busybox", "head", "-c0", "/dev/tty0")


def test_out_of_memory() -> None:
    docker("run", "--name", "oom", "--network", "none", "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero", code=137)
    assert docker("inspect", "-f", "{{.State.OOMKilled}}", "oom") == "true"
    docker("rm", "oom")


def test_a_container_that_makes_cgroups_of_its_own() -> None:
    """As systemd does in a container: its processes go down, then controllers are given to what is below."""
    script = (
        "mkdir /sys/fs/cgroup/init && for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo $pid >/sys/fs/cgroup/init/cgroup.procs; "
        "done; echo +memory +pids >/sys/fs/cgroup/cgroup.subtree_control; mkdir /sys/fs/cgroup/job && echo 9 >/sys/fs/cgroup/job/pids.max "
        "&& touch /tmp/made; sleep 1000"
    )
    docker("run", "-d", "--name", "nest", "--network", "none", "--privileged", "busybox", "sh", "-c", script)
    for _ in range(600):
        if docker("exec", "nest", "sh", "-c", "test -e /tmp/made && cat /proc/self/cgroup; true"):
            break
    assert docker("exec", "nest", "cat", "/proc/self/cgroup") == "0::/init"
    assert "sleep" in docker("top", "nest")
    docker("rm", "-f", "nest")


def test_limits_that_v2_has_not() -> None:
    """What the kernel has no means for is not left out in silence."""
    warned = docker("create", "--name", "odd", "--network", "none", "--oom-kill-disable", "-m", "64m", "busybox", "true")
    assert warned
    docker("rm", "odd")


def test_a_network_too() -> None:
    assert docker("run", "--rm", "busybox", "ip", "-o", "-4", "address", "show", "eth0").split()[3].startswith("172.31.77.")


def test_a_container_goes_on_from_a_checkpoint() -> None:
    """This kernel is one that Debian 12's criu knows."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # criu tries sockets on it
    script = "i=0; while :; do echo $((i=i+1)); sleep 1; done"
    docker("run", "-d", "--name", "counter", "--runtime", "runc", "busybox", "sh", "-c", script)
    docker("checkpoint", "create", "counter", "first")
    docker("wait", "counter")
    assert docker("checkpoint", "ls", "counter").split()[-1] == "first"
    reached = len(docker("logs", "counter").split())
    docker("start", "--checkpoint", "first", "counter")
    deadline = time.monotonic() + 120
    while len(counted := docker("logs", "counter").split()) <= reached:
        assert time.monotonic() < deadline, "it does not count on"
    assert counted == [str(number) for number in range(1, len(counted) + 1)]
    docker("exec", "counter", "true")
    docker("rm", "-f", "counter")
