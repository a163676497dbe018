"""What containers share, run under, and are kept from, as the clients ask for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat.conftest import Client
from ground.daemon import Daemon, new_daemon
from sampan.linux import cgroups, mounts


def mounted_below(daemon: Daemon) -> list[str]:
    return [mount.target for mount in mounts.parse_mountinfo() if mount.target.startswith(f"{daemon.state}/containers/")]


# ---------------------------------------------------------------------- IPC


def test_shared_memory_is_shared_with_who_joins(client: Client, daemon: Daemon) -> None:
    donor = client.out("run", "-d", "--ipc", "shareable", "--shm-size", "3m", "busybox", "sh", "-c", "echo told >/dev/shm/word; sleep 60")
    assert mounted_below(daemon) == [f"{daemon.state}/containers/{donor}/shm"]
    look = "readlink /proc/self/ns/ipc; df -k /dev/shm | tail -1; cat /dev/shm/word; grep ' /dev/shm ' /proc/mounts"
    script = f"until [ -s /dev/shm/word ]; do sleep 0.05; done; {look}"
    lines = client.out("run", "--name", "second", "--ipc", f"container:{donor}", "busybox", "sh", "-c", script).splitlines()
    pid = client.out("inspect", "-f", "{{.State.Pid}}", donor)
    assert lines[0] == os.readlink(f"/proc/{pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc")
    assert lines[1].split()[1] == "3072"
    assert lines[2] == "told"
    assert "nosuid,nodev,noexec" in lines[3]
    assert client.out("inspect", "-f", "{{.HostConfig.IpcMode}}", "second") == f"container:{donor}"
    client("rm", "-f", donor)
    assert mounted_below(daemon) == []
    refused = client("start", "-a", "second", check=1)
    assert b"failed to join IPC namespace: No such container" in refused.stderr


def test_who_joined_can_be_joined(client: Client) -> None:
    client("run", "-d", "--name", "one", "--ipc", "shareable", "busybox", "sleep", "60")
    client("run", "-d", "--name", "two", "--ipc", "container:one", "busybox", "sleep", "60")
    client("run", "--rm", "--ipc", "container:two", "busybox", "touch", "/dev/shm/three")
    assert client.out("exec", "one", "ls", "/dev/shm") == "three"


def test_private_memory_is_nobody_elses(client: Client, daemon: Daemon) -> None:
    container = client.out("run", "-d", "busybox", "sleep", "60")
    assert mounted_below(daemon) == []
    assert client.out("inspect", "-f", "{{.HostConfig.IpcMode}}", container) == "private"
    refused = client("run", "--rm", "--ipc", f"container:{container}", "busybox", "true", check=125)
    assert b"non-shareable IPC (hint: use IpcMode:shareable for the donor container)" in refused.stderr
    client("stop", "-t", "0", container)
    refused = client("run", "--rm", "--ipc", f"container:{container}", "busybox", "true", check=125)
    assert b"cannot join IPC namespace of a non running container" in refused.stderr
    assert client.out("run", "--rm", "--ipc", "none", "busybox", "ls", "/dev") == client.out(
        "run", "--rm", "busybox", "sh", "-c", "ls /dev | grep -v '^shm$'"
    )


def test_a_donor_outlives_its_daemon(client: Client, daemon: Daemon) -> None:
    donor = client.out("run", "-d", "--ipc", "shareable", "busybox", "sleep", "60")
    daemon.kill()
    daemon.start()
    client("run", "--rm", "--ipc", f"container:{donor}", "busybox", "touch", "/dev/shm/x")
    assert client.out("exec", donor, "ls", "/dev/shm") == "x"
    pid = int(client.out("inspect", "-f", "{{.State.Pid}}", donor))
    daemon.kill()
    os.kill(pid, 9)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    daemon.start()
    assert client.out("inspect", "-f", "{{.State.Status}}", donor) == "exited"
    assert mounted_below(daemon) == []


def test_a_mode_goes_by_the_id_of_who_is_named(client: Client) -> None:
    first = client.out("run", "-d", "--name", "first", "busybox", "sleep", "61")
    client("create", "--name", "peer", "--pid", "container:first", "busybox", "ps")
    client("rename", "first", "elder")
    client("run", "-d", "--name", "first", "busybox", "sleep", "62")
    assert client.out("inspect", "-f", "{{.HostConfig.PidMode}}", "peer") == f"container:{first}"
    assert "sleep 61" in client.out("start", "-a", "peer")


# ---------------------------------------------------------------------- init


def test_an_init_passes_signals_on_and_reaps(client: Client) -> None:
    script = "(sleep 0.01 & ) ; (sleep 0.01 &) ; trap 'exit 7' TERM; while :; do sleep 0.05; done"
    container = client.out("run", "-d", "--init", "--read-only", "-u", "1000", "busybox", "sh", "-c", script)
    assert client.out("exec", container, "cat", "/proc/1/cmdline").replace("\0", " ").startswith("/sbin/docker-init -- sh -c")
    denied = client("exec", "-u", "0", container, "sh", "-c", "echo > /sbin/docker-init", check=1)
    assert b"Read-only file system" in denied.stderr
    deadline = time.monotonic() + 20
    while "Z" in client.out("exec", container, "sh", "-c", "cat /proc/[0-9]*/stat | cut -d' ' -f3"):
        assert time.monotonic() < deadline, "orphans stay zombies"
    client("stop", container)
    assert client.out("inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.Init}}", container) == "7 true"


def test_exit_codes_pass_through_an_init(client: Client) -> None:
    client("run", "--rm", "--init", "busybox", "sh", "-c", "exit 5", check=5)
    client("run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$", check=137)
    assert client.out("run", "--rm", "--init", "--pid", "host", "busybox", "sh", "-c", "ls /sbin/docker-init || echo none") == "none"


# ---------------------------------------------------------------------- what is mounted


def test_a_read_only_bind_is_so_with_all_below_it(client: Client, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    mounts.mount("tmpfs", tmp_path / "below", "tmpfs")
    try:
        show = ("busybox", "sh", "-c", "touch /d/below/x 2>/dev/null && echo written || echo refused; rm -f /d/below/x")
        bind = f"type=bind,src={tmp_path},dst=/d,readonly"
        assert client.out("run", "--rm", "-v", f"{tmp_path}:/d:ro", *show) == "refused"
        assert client.out("run", "--rm", "--mount", bind, *show) == "refused"
        assert client.out("run", "--rm", "--mount", f"{bind},bind-recursive=writable", *show) == "written"
        out = client.out("run", "--rm", "--mount", f"{bind},bind-recursive=disabled", "busybox", "grep", "-c", " /d[ /]", "/proc/mounts")
        assert out == "1"
    finally:
        mounts.umount(tmp_path / "below")


def test_programs_can_tell_that_they_are_in_a_container(client: Client) -> None:
    """Many look for Docker's file; it is no change that the container made."""
    container = client.out("run", "-d", "--read-only", "busybox", "sh", "-c", "test -f /.dockerenv && sleep 60")
    assert client.out("exec", container, "cat", "/.dockerenv") == client.out("diff", container) == ""


@pytest.mark.parametrize("bind", ["/etc/passwd:/etc", "/etc:/etc/passwd"])
def test_a_directory_and_a_file_do_not_go_together(docker: Client, bind: str) -> None:
    refused = docker("run", "--rm", "-v", bind, "busybox", "true", check=125)
    assert b"is one of the two a directory and the other a file?" in refused.stderr


def test_mounts_pass_where_what_they_are_on_lets_them(docker: Client, tmp_path: Path) -> None:
    """And a bind that asks for it on anything else is refused, as it would wait in vain."""
    mounts.mount("tmpfs", tmp_path, "tmpfs")
    try:
        mounts.set_propagation(tmp_path, mounts.MS_PRIVATE)
        (tmp_path / "deep").mkdir()
        for mode, words in (("rshared", "a shared"), ("rslave", "a shared or slave")):
            refused = docker("run", "--rm", "-v", f"{tmp_path}/deep:/d:{mode}", "busybox", "true", check=125)
            assert f"path {tmp_path}/deep is mounted on {tmp_path} but it is not {words} mount" in refused.stderr.decode()
        mounts.set_propagation(tmp_path, mounts.MS_SHARED)
        script = "mkdir /d/in /d/out && mount -t tmpfs in /d/in && until [ -e /d/out/seen ]; do sleep 0.05; done"
        container = docker.out(
            "run", "-d", "--cap-add", "SYS_ADMIN", "-v", f"{tmp_path}/deep:/d:rshared", "busybox", "sh", "-c", script
        )
        docker("exec", container, "sh", "-c", "until grep -q ' /d/in ' /proc/mounts; do sleep 0.05; done")
        assert (tmp_path / "deep/in").is_mount()
        mounts.mount("tmpfs", tmp_path / "deep/out", "tmpfs")
        (tmp_path / "deep/out/seen").touch()
        assert docker.out("wait", container) == "0"
    finally:
        mounts.umount(tmp_path, mounts.MNT_DETACH)


def test_tmpfs_options(client: Client) -> None:
    show = ("busybox", "sh", "-c", "grep ' /t ' /proc/mounts; ls -lnd /t | cut -c1-10")
    plain = client.out("run", "--rm", "--tmpfs", "/t", *show).splitlines()
    assert "rw,nosuid,nodev,noexec" in plain[0]
    assert plain[1] == "drwxrwxrwt"
    given = client.out("run", "--rm", "--tmpfs", "/t:exec,size=1m,mode=700,size=2m", *show).splitlines()
    assert "noexec" not in given[0]
    assert "size=2048k" in given[0]
    assert given[1] == "drwx------"
    refused = client("run", "--rm", "--tmpfs", "/t:huge=always", "busybox", "true", check=125)
    assert b'invalid tmpfs option "huge"' in refused.stderr


def test_cgroups_to_write_to(client: Client) -> None:
    script = "for d in /sys/fs/cgroup /sys/fs/cgroup/pids; do mkdir $d/own 2>/dev/null && echo made; done; true"
    assert client.out("run", "--rm", "busybox", "sh", "-c", script) == ""
    assert client.out("run", "--rm", "--security-opt", "writable-cgroups=true", "--cgroupns", "private", "busybox", "sh", "-c", script) != ""


@pytest.mark.parametrize("runtime", ["native", "runc", "crun"])
def test_own_view_of_cgroups(client: Client, runtime: str) -> None:
    """The container's own cgroup is its root in every hierarchy, the one that the engine adds to a v1 host included."""
    output = client.out("run", "--rm", "--runtime", runtime, "--cgroupns", "private", "busybox", "cat", "/proc/self/cgroup")
    assert {line.split(":")[2] for line in output.splitlines()} == {"/"}


# ---------------------------------------------------------------------- devices, limits, sysctls


def test_devices_by_directory_and_by_rule(client: Client, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    os.mknod(tmp_path / "deep/zero", 0o020644, os.makedev(1, 5))
    script = "head -c 3 /dev/all/deep/zero | wc -c; mknod /dev/mine c 10 200 && cat /dev/mine"
    refused = client("run", "--rm", "--device", f"{tmp_path}:/dev/all", "busybox", "sh", "-c", script, check=1)
    assert refused.stdout == b"3\n"
    assert b"Operation not permitted" in refused.stderr
    allowed = client("run", "--rm", "--device-cgroup-rule", "c 10:200 rw", "busybox", "sh", "-c", "mknod /dev/mine c 10 200; cat /dev/mine", check=None)
    assert b"Operation not permitted" not in allowed.stderr
    named = client("run", "--rm", "--device", "vendor.com/class=one", "busybox", "true", check=125)
    assert b"reads no CDI specifications" in named.stderr


def test_what_would_change_the_host_is_refused_at_create(daemon: Daemon) -> None:
    def create(**host: object) -> str:
        status, body = daemon.api_raw("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})
        assert status in (400, 501)
        return str(json.loads(body)["message"])

    assert create(Sysctls={"kernel.domainname": "x"}, UTSMode="host").endswith("is not allowed in the host's uts namespace")
    assert create(Sysctls={"vm.overcommit_memory": "1"}) == "sysctl 'vm.overcommit_memory' is not in a separate kernel namespace"
    assert create(PidMode="private") == "invalid PID mode: private"
    assert "kernel has no AppArmor" in create(SecurityOpt=["apparmor=docker-default"]) or Path("/sys/kernel/security/apparmor").exists()


def test_a_no_that_was_asked_for_is_shown(daemon: Daemon) -> None:
    def shown(**asked: object) -> tuple[object, object]:
        made = daemon.api("POST", "/containers/create", {"Image": "busybox", **asked})
        found = daemon.api("GET", f"/containers/{made['Id']}/json")
        return found["HostConfig"].get("Init"), found["Config"].get("StopTimeout")

    assert shown(StopTimeout=0, HostConfig={"Init": False}) == (False, 0)
    assert shown() == (None, None)


def test_old_clients_get_the_defaults_of_their_time(daemon: Daemon) -> None:
    def modes(version: str, **host: str) -> tuple[str, str]:
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
        made = daemon.api("POST", f"/v{version}/containers/create", body)
        shown = daemon.api("GET", f"/containers/{made['Id']}/json")["HostConfig"]
        return shown["IpcMode"], shown["CgroupnsMode"]

    of_now = "private" if cgroups.detect().version == "v2" else "host"
    assert modes("1.51") == ("private", of_now)
    assert modes("1.39") == ("shareable", of_now)
    assert modes("1.39", IpcMode="none", CgroupnsMode="private") == ("none", "private")


def test_a_host_name_needs_a_uts_namespace(client: Client) -> None:
    refused = client("run", "--rm", "--uts", "host", "--hostname", "keel", "busybox", "true", check=125)
    assert b"conflicting options: hostname and the UTS mode" in refused.stderr


def test_an_exec_has_the_containers_limits(client: Client) -> None:
    container = client.out("run", "-d", "--ulimit", "nofile=99:100", "--oom-score-adj", "77", "busybox", "sleep", "60")
    found = client.out("exec", container, "sh", "-c", "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj")
    assert found.split() == ["99", "100", "77"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "/dev/absent", "busybox", "true"), b"no such file or directory"),
        (("--device-read-bps", "/dev/absent:1mb", "busybox", "true"), b"no such file or directory"),
        (("busybox", ""), b'exec: "": executable file not found in $PATH'),
    ],
)
def test_exit_codes_of_what_is_not_there(docker: Client, arguments: tuple[str, ...], words: bytes) -> None:
    """127, which docker's client tells by the daemon's words."""
    assert words in docker("run", "--rm", *arguments, check=127).stderr


def test_what_linux_does_not_have(daemon: Daemon) -> None:
    status, answer = daemon.api_raw("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Isolation": "hyperv"}})
    assert (status, json.loads(answer)["message"]) == (400, "invalid isolation \"hyperv\": Linux only supports 'default'")
    made = daemon.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"MemorySwappiness": -1}})
    assert daemon.api("GET", f"/containers/{made['Id']}/json")["HostConfig"]["MemorySwappiness"] is None


def test_info_tells_what_holds(client: Client) -> None:
    assert "name=seccomp,profile=builtin" in client.out("info", "-f", "{{.SecurityOptions}}")
    assert client.out("info", "-f", "{{.InitBinary}}") in ("docker-init", "tini-static")


# ---------------------------------------------------------------------- the daemon's defaults


@pytest.fixture(scope="module")
def strict_daemon() -> Iterator[Daemon]:
    """An engine whose containers get other defaults."""
    with new_daemon(
        "--init", "--no-new-privileges", "--default-ipc-mode", "shareable", "--default-cgroupns-mode", "private",
        "--default-shm-size", "5m", "--default-ulimit", "nofile=77:78", "--default-ulimit", "core=0",
    ) as daemon:  # fmt: skip
        profile = daemon.base / "profile.json"
        profile.write_text(json.dumps({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        }))  # fmt: skip
        daemon.start("--seccomp-profile", str(profile))
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon
        daemon.stop()


def test_defaults_of_the_daemon(strict_daemon: Daemon) -> None:
    look = (
        "tr '\\0' ' ' </proc/1/cmdline; echo; ulimit -n; ulimit -c; grep NoNewPrivs /proc/self/status; "
        "df -k /dev/shm | tail -1; cat /proc/self/cgroup | cut -d: -f3 | sort -u; mkdir /tmp/d"
    )
    done = strict_daemon.docker("run", "--name", "strict", "busybox", "sh", "-c", look, check=1)
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("/sbin/docker-init -- sh")
    assert lines[1:4] == ["77", "0", "NoNewPrivs:\t1"]
    assert lines[4].split()[1] == "5120"
    assert lines[5:] == ["/"]
    assert b"Operation not supported" in done.stderr
    shown = strict_daemon.api("GET", "/containers/strict/json")["HostConfig"]
    assert (shown["IpcMode"], shown["CgroupnsMode"], shown["ShmSize"]) == ("shareable", "private", 5 << 20)
    options = strict_daemon.api("GET", "/info")["SecurityOptions"]
    assert "name=no-new-privileges" in options
    assert any(option.endswith("profile.json") for option in options)


def test_a_container_may_ask_for_something_else(strict_daemon: Daemon) -> None:
    look = "cat /proc/1/comm; ulimit -n; grep NoNewPrivs /proc/self/status; mkdir /tmp/d && echo made"
    out = strict_daemon.docker(
        "run", "--rm", "--init=false", "--ulimit", "nofile=70:71", "--security-opt", "no-new-privileges=false",
        "--security-opt", "seccomp=unconfined", "--ipc", "private", "busybox", "sh", "-c", look,
    ).stdout.decode().split("\n")  # fmt: skip
    assert out[:4] == ["sh", "70", "NoNewPrivs:\t0", "made"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seccomp-profile", "/absent.json"), "opening seccomp profile (/absent.json) failed"),
        (("--init", "--init-path", "/etc/passwd"), "/etc/passwd is no program"),
        (("--default-ulimit", "nonsense=1"), "invalid ulimit type: nonsense"),
        (("--userns-remap", "nobody-of-that-name"), "there is no user 'nobody-of-that-name'"),
    ],
)
def test_defaults_that_cannot_be_stop_the_daemon(arguments: tuple[str, ...], message: str) -> None:
    with new_daemon(*arguments) as daemon:
        with pytest.raises(AssertionError, match="ended with 1"):
            daemon.start()
        assert message in daemon.log
