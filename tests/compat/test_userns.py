"""An engine with `userns-remap`: the containers' root is nobody on the host, and everything else works as without."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat.conftest import Client
from ground.daemon import Daemon, new_daemon
from ground.leaks import SANDBOXES
from ground.waiting import wait_until

OUTSIDE, COUNT = 300_000, 65_536

USER = "daemon"
"""A user of every Debian; its subordinate ids are given in the daemon's own mount namespace, for the host's files are the host's."""


@pytest.fixture(scope="module")
def module_daemon() -> Iterator[Daemon]:
    """Take the place of the usual engine, for `daemon` and the clients."""
    with new_daemon("--userns-remap", USER) as daemon:
        ids = daemon.base / "ids"
        ids.write_text(f"{USER}:{OUTSIDE}:{COUNT}\n")
        stage = f'mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid && exec "$@"'
        daemon.prefix = ["unshare", "--mount", "sh", "-c", stage, "stage"]
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon
        daemon.stop()


def test_root_inside_is_nobody_outside(client: Client) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "60")
    pid = client.out("inspect", "-f", "{{.State.Pid}}", container)
    assert Path(f"/proc/{pid}").stat().st_uid == OUTSIDE
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    for command in (("run", "--rm", "busybox"), ("exec", container)):
        out = client.out(*command, "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/gid_map; grep CapEff /proc/self/status")
        assert out.split() == ["0", *(["0", str(OUTSIDE), str(COUNT)] * 2), "CapEff:", "00000000a80425fb"]
    assert "name=userns" in client.out("info", "-f", "{{.SecurityOptions}}")


def test_each_container_has_a_namespace_of_its_own(client: Client) -> None:
    read = ("run", "--rm", "busybox", "readlink", "/proc/self/ns/user")
    assert client.out(*read) != client.out(*read) != os.readlink("/proc/self/ns/user")


def test_they_wait_with_the_sandboxes(docker: Client, daemon: Daemon) -> None:
    def waiting() -> set[str]:
        links = [os.readlink(fd) for fd in Path(f"/proc/{daemon.pid}/fd").iterdir() if fd.is_symlink()]
        return {link for link in links if link.startswith("user:")}

    wait_until(lambda: len(waiting()) == SANDBOXES, "the pool is full")
    before = waiting()
    pid = docker.out("inspect", "-f", "{{.State.Pid}}", docker.out("run", "-d", "busybox", "sleep", "60"))
    assert os.readlink(f"/proc/{pid}/ns/user") in before


def test_owners_look_as_always(client: Client) -> None:
    script = "ls -lnd / /bin/busybox /etc/passwd /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /tmp | tr -s ' ' | cut -d' ' -f3,4 | sort -u"
    assert client.out("run", "--rm", "busybox", "sh", "-c", script) == "0 0"
    change = "echo 10.1.1.1 mine >>/etc/hosts; touch /file; chown 7:8 /file; ls -ln /file | tr -s ' ' | cut -d' ' -f3,4"
    client("run", "--name", "changed", "busybox", "sh", "-c", change)
    assert client.out("diff", "changed") == "A /file"
    client("commit", "changed", "changed:1")
    show = ("sh", "-c", "ls -ln /file | tr -s ' ' | cut -d' ' -f3,4")
    assert client.out("run", "--rm", "changed:1", *show) == "7 8"
    assert client.out("run", "--rm", "--userns", "host", "changed:1", *show) == "7 8"
    client("rmi", "changed:1", check=None)


def test_volumes_go_to_and_fro(docker: Client, daemon: Daemon) -> None:
    write = "echo a >/v/root; echo b >/v/user; chown 1000:1000 /v/user"
    docker("run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", write)
    place = Path(docker.out("volume", "inspect", "-f", "{{.Mountpoint}}", "data"))
    assert [(name, (place / name).stat().st_uid) for name in ("root", "user")] == [("root", 0), ("user", 1000)]
    out = docker.out("run", "--rm", "--userns", "host", "-v", "data:/v", "busybox", "sh", "-c", "echo c >>/v/root; stat -c %u /v/root /v/user")
    assert out.split() == ["0", "1000"]
    assert docker.out("run", "--rm", "-u", "1000", "-v", "data:/v", "busybox", "sh", "-c", "echo d >>/v/user; cat /v/root").split() == ["a", "c"]


def test_a_directory_of_the_hosts_stays_the_hosts(docker: Client, tmp_path: Path) -> None:
    """Attack: whoever is root inside, with all that can be given, writes to root's files of a bound directory, and leaves a way back."""
    tmp_path.chmod(0o755)
    victim = tmp_path / "victim"
    victim.write_text("whole")
    victim.chmod(0o644)
    mine = tmp_path / "mine"
    mine.mkdir()
    os.chown(mine, OUTSIDE, OUTSIDE)
    script = (
        "echo broken >/h/victim; chown 0:0 /h/victim; chmod 666 /h/victim; rm /h/victim; mknod /h/mine/zero c 1 5;"
        "cp /bin/busybox /h/mine/sh; chmod 4755 /h/mine/sh; mount -t tmpfs none /tmp && echo mounted"
    )
    options = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined")
    done = docker("run", "--rm", *options, "-v", f"{tmp_path}:/h", "busybox", "sh", "-c", script, check=None)
    assert victim.read_text() == "whole"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert not (mine / "zero").exists()
    assert (mine / "sh").stat().st_uid == OUTSIDE, "a setuid program that it leaves is the mapped root's"
    assert done.stdout == b"mounted\n", "it has its capabilities, in its own namespace"
    docker("run", "--rm", "--userns", "host", *options, "-v", f"{tmp_path}:/h", "busybox", "sh", "-c", script, check=None)
    assert not victim.exists(), "the attack bites where root is the host's"
    assert (mine / "zero").is_char_device()


def test_a_missing_source_is_made_for_it(docker: Client, tmp_path: Path) -> None:
    docker("run", "--rm", "-v", f"{tmp_path}/new:/h", "busybox", "touch", "/h/file")
    assert (tmp_path / "new").stat().st_uid == (tmp_path / "new/file").stat().st_uid == OUTSIDE


def test_streams_belong_to_who_runs(client: Client) -> None:
    script = "echo out >/dev/stdout; echo err >/dev/stderr"
    done = client("run", "--rm", "-u", "1000", "busybox", "sh", "-c", script)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_networks_ports_and_names(docker: Client, daemon: Daemon) -> None:
    docker("network", "create", "sea")
    docker("run", "-d", "--name", "web", "--network", "sea", "-p", "127.0.0.1:8099:80", "busybox", "sh", "-c", "echo yes >/tmp/i; httpd -f -h /tmp")
    fetch = "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://web/i && break; sleep 0.1; done; ping -c1 -W2 web >/dev/null && echo ping"
    assert docker.out("run", "--rm", "--network", "sea", "busybox", "sh", "-c", fetch).split() == ["yes", "ping"]
    assert daemon.run("busybox", "wget", "-qO-", "http://127.0.0.1:8099/i").stdout == b"yes\n"
    docker("network", "disconnect", "sea", "web")
    docker("network", "connect", "bridge", "web")
    assert "eth" in docker.out("exec", "web", "ip", "-o", "link")


def test_sharing_needs_one_user_namespace(client: Client) -> None:
    client("run", "-d", "--name", "one", "--ipc", "shareable", "busybox", "sleep", "63")
    client("run", "-d", "--name", "two", "busybox", "sleep", "64")
    client("run", "-d", "--name", "outside", "--userns", "host", "busybox", "sleep", "65")
    all_of_one = ("--network", "container:one", "--pid", "container:one", "--ipc", "container:one")
    out = client.out("run", "--rm", *all_of_one, "busybox", "sh", "-c", "ps; touch /dev/shm/x; for p in self 1; do readlink /proc/$p/ns/user; done")
    assert "sleep 63" in out
    mine, others = out.splitlines()[-2:]
    assert mine == others
    with_own_network = client.out("run", "--rm", "--pid", "container:one", "busybox", "sh", "-c", "ls /sys/class/net; kill -0 1 && echo can")
    assert with_own_network.split() == ["eth0", "lo", "can"]
    for options, message in (
        (("--network", "container:one", "--pid", "container:two"), b"they are in different user namespaces"),
        (("--network", "container:outside"), b"it is in the host's user namespace: add --userns=host"),
    ):
        assert message in client("run", "--rm", *options, "busybox", "true", check=125).stderr
    client("run", "--rm", "--userns", "host", "--network", "container:one", "busybox", "true")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--privileged",), b"privileged mode is incompatible with user namespaces"),
        (("--network", "host"), b"cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid", "host"), b"cannot share the host PID namespace when user namespaces are enabled"),
        (("--ipc", "host"), b"cannot share the host IPC namespace when user namespaces are enabled"),
        (("-u", "70000"), b"run as uid 70000: the container's user namespace has no such id"),
    ],
)
def test_what_is_refused_but_for_the_host(docker: Client, options: tuple[str, ...], message: bytes) -> None:
    assert message in docker("run", "--rm", *options, "busybox", "true", check=125).stderr
    docker("run", "--rm", "--userns", "host", *options, "busybox", "true")


def test_the_exception_is_the_hosts_root(client: Client) -> None:
    out = client.out("run", "--rm", "--userns", "host", "--privileged", "busybox", "readlink", "/proc/self/ns/user")
    assert out == os.readlink("/proc/self/ns/user")


def test_every_storage_driver_that_can_shows_its_roots_so(docker: Client, daemon: Daemon) -> None:
    drivers = [item for item in daemon.api("GET", "/sampan/plugins") if item["Kind"] == "storage" and item["State"] == "ready"]
    assert drivers
    for item in drivers:
        run = ("run", "--rm", "--storage-opt", f"driver={item['Name']}", "busybox", "sh", "-c", "touch /x; stat -c %u /x /bin")
        if "idmap" in item["Capabilities"]:
            assert docker.out(*run).split() == ["0", "0"], item["Name"]
        else:
            assert b"with shifted owners: the driver, or its file system here, can't" in docker(*run, check=125).stderr


def test_a_runtime_without_user_namespaces_is_refused(docker: Client, daemon: Daemon) -> None:
    runtimes = [item for item in daemon.api("GET", "/sampan/plugins") if item["Kind"] == "runtime" and item["State"] == "ready"]
    for item in runtimes:
        run = ("run", "--rm", "--network", "none", "--runtime", item["Name"], "busybox", "cat", "/proc/self/uid_map")
        if "user-namespace" in item["Capabilities"]:
            assert docker.out(*run).split() == ["0", str(OUTSIDE), str(COUNT)], item["Name"]
        else:
            assert b"can't give a container a user namespace" in docker(*run, check=125).stderr


def test_a_restart_with_another_setting_touches_no_one(docker: Client, daemon: Daemon) -> None:
    running = docker.out("run", "-d", "--name", "on", "-v", "kept:/v", "busybox", "sh", "-c", "touch /mine /v/x; sleep 60")
    daemon.stop()
    arguments = daemon.arguments
    try:
        daemon.arguments = [*arguments[:-2]]
        daemon.start()
        show = ("stat", "-c", "%u", "/mine", "/v/x", "/etc/hosts")
        assert docker.out("exec", running, *show).split() == ["0"] * 3
        docker("restart", "-t", "0", running)
        assert docker.out("exec", running, "cat", "/proc/self/uid_map").split()[:2] == ["0", "0"]
        assert docker.out("exec", running, *show).split() == ["0"] * 3
        docker("create", "--name", "older", "--privileged", "busybox", "true")
    finally:
        daemon.stop()
        daemon.arguments = arguments
        daemon.start()
    assert docker.out("exec", running, "cat", "/proc/self/uid_map").split()[:2] == ["0", "0"]
    docker("restart", "-t", "0", running)
    assert docker.out("exec", running, "cat", "/proc/self/uid_map").split()[:2] == ["0", str(OUTSIDE)]
    refused = docker("start", "older", check=1)
    assert b"privileged mode is incompatible with user namespaces" in refused.stderr
