"""Limits, capabilities and other ways to hold a container: what the client asks is what the kernel has."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from compat.conftest import Client
from ground.daemon import Daemon
from sampan.linux import capabilities

HIERARCHIES = Path("/sys/fs/cgroup")


def cgroup_value(client: Client, container: str, v1: str, v2: str) -> str:
    """Read one file of the container's cgroup, by way of its first process: `v1` is controller/file."""
    pid = client.out("inspect", "-f", "{{.State.Pid}}", container)
    controller, _, file = v1.partition("/")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return (HIERARCHIES / controller / path.lstrip("/") / file).read_text().strip()
        if not controllers and (HIERARCHIES / "cgroup.controllers").exists():
            return (HIERARCHIES / path.lstrip("/") / v2).read_text().strip()
    raise AssertionError(f"no cgroup of {controller} for process {pid}")


def test_memory_cpus_and_pids_are_in_the_cgroup(client: Client) -> None:
    container = client.out(
        "run", "-d", "-m", "64m", "--memory-reservation", "32m", "--cpus", "0.5", "--pids-limit", "20", "-c", "512",
        "--cpuset-cpus", "0", "busybox", "sleep", "60",
    )  # fmt: skip
    assert cgroup_value(client, container, "memory/memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert cgroup_value(client, container, "memory/memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    assert cgroup_value(client, container, "pids/pids.max", "pids.max") == "20"
    assert cgroup_value(client, container, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    quota = cgroup_value(client, container, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0]
    assert quota == "50000"
    assert cgroup_value(client, container, "cpu/cpu.shares", "cpu.weight") in ("512", "20")


def test_a_container_without_limits_has_none(client: Client) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "60")
    assert cgroup_value(client, container, "pids/pids.max", "pids.max") == "max"
    assert cgroup_value(client, container, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] in ("-1", "max")


def test_the_kernel_kills_who_takes_too_much_memory(client: Client) -> None:
    client("run", "--name", "big", "-m", "16m", "busybox", "sh", "-c", "head -c 64m /dev/zero | tail", check=None)
    client("rm", "big")
    done = client("run", "--name", "big", "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero", check=137)
    assert done.stdout == b""
    assert client.out("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "big") == "true 137"


def test_the_limit_of_processes_holds(client: Client) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait"
    done = client("run", "--rm", "--pids-limit", "4", "busybox", "sh", "-c", script, check=None)
    assert b"can't fork" in done.stderr


def sets(client: Client, *options: str) -> dict[str, int]:
    out = client.out("run", "--rm", *options, "busybox", "grep", "^Cap", "/proc/self/status")
    return {line.split(":")[0]: int(line.split()[1], 16) for line in out.splitlines()}


DEFAULT = 0x00000000A80425FB
"""What `grep CapEff /proc/1/status` says in a container of Docker's."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), DEFAULT),
        (("--cap-drop", "ALL"), 0),
        (("--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"), 1 << 10),
        (("--cap-add", "SYS_PTRACE"), DEFAULT | 1 << 19),
        (("--cap-drop", "cap_chown", "--cap-drop", "kill"), DEFAULT & ~(1 << 0 | 1 << 5)),
    ],
)
def test_capabilities(client: Client, options: tuple[str, ...], expected: int) -> None:
    found = sets(client, *options)
    mine = capabilities.current().effective
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == expected & mine
    assert found["CapAmb"] == 0


def test_another_user_has_no_capabilities_but_a_bounding_set(client: Client) -> None:
    found = sets(client, "-u", "1000")
    assert (found["CapEff"], found["CapPrm"], found["CapBnd"]) == (0, 0, DEFAULT & capabilities.current().effective)


def test_privileged(client: Client) -> None:
    found = sets(client, "--privileged")
    assert found["CapEff"] == capabilities.current().effective
    look = "grep Seccomp: /proc/self/status; ls /dev | wc -l; wc -c < /proc/interrupts"
    script = f"{look}; mount -t tmpfs none /tmp && grep -c ' /tmp ' /proc/mounts"
    lines = client.out("run", "--rm", "--privileged", "busybox", "sh", "-c", script).splitlines()
    assert lines[0].split() == ["Seccomp:", "0"]
    assert int(lines[1]) > 15
    assert int(lines[2]) > 0
    assert lines[3] == "1"
    assert " ro," not in client.out("run", "--rm", "--privileged", "busybox", "grep", "^sysfs ", "/proc/mounts")


def test_an_ordinary_container_is_confined(client: Client) -> None:
    script = (
        "grep Seccomp: /proc/self/status; wc -c < /proc/interrupts; echo x > /proc/sys/kernel/domainname;"
        "touch /sys/x; mount -t tmpfs none /tmp; ls /dev"
    )
    done = client("run", "--rm", "busybox", "sh", "-c", script)
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == ["Seccomp:", "2"]
    assert lines[1] == "0"
    assert done.stderr.count(b"Read-only file system") == 2
    assert b"ermission denied" in done.stderr or b"Operation not permitted" in done.stderr
    links = {"fd", "ptmx", "stderr", "stdin", "stdout"} | ({"core"} if Path("/proc/kcore").exists() else set())
    assert set(lines[2:]) == links | {"full", "mqueue", "null", "pts", "random", "shm", "tty", "urandom", "zero"}


def test_security_options(client: Client) -> None:
    show = ("busybox", "grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status")
    assert client.out("run", "--rm", *show).split() == ["NoNewPrivs:", "0", "Seccomp:", "2"]
    out = client.out("run", "--rm", "--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined", *show)
    assert out.split() == ["NoNewPrivs:", "1", "Seccomp:", "0"]


def test_namespaces_are_its_own_or_the_hosts(client: Client) -> None:
    for kind, option in (("pid", "--pid"), ("ipc", "--ipc"), ("uts", "--uts")):
        read = ("busybox", "readlink", f"/proc/self/ns/{kind}")
        assert client.out("run", "--rm", *read) != os.readlink(f"/proc/self/ns/{kind}")
        assert client.out("run", "--rm", option, "host", *read) == os.readlink(f"/proc/self/ns/{kind}")


def test_joining_anothers_pid_namespace(client: Client) -> None:
    other = client.out("run", "-d", "busybox", "sleep", "77")
    assert "sleep 77" in client.out("run", "--rm", "--pid", f"container:{other}", "busybox", "ps")


def test_devices(client: Client) -> None:
    script = "head -c 3 /dev/mine | wc -c; ls -l /dev/mine | cut -c1"
    assert client.out("run", "--rm", "--device", "/dev/zero:/dev/mine:r", "busybox", "sh", "-c", script) == "3\nc"
    code = 127 if client.name == "docker" else 125  # docker's goes by "no such file" alone
    refused = client("run", "--rm", "--device", "/dev/absent", "busybox", "true", check=code)
    assert b'gathering device information while adding custom device "/dev/absent"' in refused.stderr


def test_sysctls_and_shm_size(client: Client) -> None:
    script = "cat /proc/sys/net/ipv4/ip_default_ttl; df -k /dev/shm | tail -1"
    lines = client.out(
        "run", "--rm", "--sysctl", "net.ipv4.ip_default_ttl=33", "--shm-size", "8m", "busybox", "sh", "-c", script
    ).splitlines()
    assert lines[0] == "33"
    assert lines[1].split()[1] == "8192"


def test_orphans_are_reaped(client: Client) -> None:
    """Orphans end up with the first process; here that is a shell, which collects them."""
    script = "sh -c 'sleep 0.1 & exec true'; sleep 0.3; ps | grep -c '[Z] '"
    assert client.out("run", "--rm", "busybox", "sh", "-c", script, check=1) == "0"


def test_the_daemon_may_have_more_descriptors_than_its_containers(client: Client, daemon: Daemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    daemon.stop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        daemon.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert client.out("run", "--rm", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn").split() == ["1024", str(hard)]
