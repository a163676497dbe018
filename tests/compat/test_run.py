"""`run`: what a container sees, and what the client gives back."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compat.conftest import Client


def test_output_and_error_stay_apart(client: Client) -> None:
    done = client("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_input_goes_through(client: Client) -> None:
    assert client("run", "-i", "--rm", "busybox", "cat", stdin=b"abc\n").stdout == b"abc\n"


def test_a_megabyte_goes_through_unchanged(client: Client) -> None:
    data = os.urandom(1 << 20)
    done = client("run", "-i", "--rm", "busybox", "sha256sum", stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert client("run", "-i", "--rm", "busybox", "cat", stdin=data).stdout == data


def test_without_i_there_is_no_input(client: Client) -> None:
    assert client("run", "--rm", "busybox", "cat", stdin=b"not for it").stdout == b""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
        (["no-such-program"], 127),
        (["/no/such/program"], 127),
    ],
)
def test_exit_codes(client: Client, arguments: list[str], code: int) -> None:
    done = client("run", "--rm", "busybox", *arguments, check=code)
    if code in (126, 127):
        assert arguments[0].encode() in done.stderr
        assert done.stdout == b""


def test_much_output_arrives_whole(client: Client) -> None:
    done = client("run", "--rm", "busybox", "sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x")
    assert len(done.stdout) == 10_000_000
    assert done.stdout.strip(b"x") == b""


def test_a_reader_that_leaves_ends_the_writer(client: Client) -> None:
    assert client("run", "--rm", "busybox", "sh", "-c", "yes | head -1").stdout == b"y\n"


def test_environment_directory_user_and_hostname(client: Client) -> None:
    done = client(
        "run", "--rm", "-e", "A=1", "-e", "B=two words", "-w", "/var/tmp", "-u", "1:daemon", "-h", "ship", "busybox",
        "sh", "-c", "echo $A/$B/$HOME/$HOSTNAME; pwd; id; hostname; cat /etc/hostname",
    )  # fmt: skip
    assert done.stdout.decode().splitlines() == [
        "1/two words//usr/sbin/ship", "/var/tmp", "uid=1(daemon) gid=1(daemon) groups=1(daemon)", "ship", "ship",
    ]  # fmt: skip


def test_environment_from_a_file(client: Client) -> None:
    path = client.daemon.base / "env-file"
    path.write_text("# comment\nONE=1\nTWO=a=b\n")
    done = client("run", "--rm", "--env-file", str(path), "busybox", "sh", "-c", "echo $ONE,$TWO")
    assert done.stdout == b"1,a=b\n"


def test_entry_point(client: Client) -> None:
    assert client("run", "--rm", "--entrypoint", "echo", "busybox", "-n", "a").stdout == b"a"
    assert client("run", "--rm", "--entrypoint", "", "busybox", "echo", "b").stdout == b"b\n"
    refused = client("run", "--rm", "--entrypoint", "", "busybox", check=125)
    assert b"no command specified" in refused.stderr


def test_read_only_root_and_tmpfs(client: Client) -> None:
    script = "touch /x 2>/dev/null || echo refused; touch /t/x && echo written; grep ' /t ' /proc/mounts"
    lines = client.out("run", "--rm", "--read-only", "--tmpfs", "/t:size=1m,mode=700", "busybox", "sh", "-c", script).splitlines()
    assert lines[:2] == ["refused", "written"]
    assert {"size=1024k", "mode=700", "nosuid", "nodev", "noexec"} <= set(lines[2].split()[3].split(","))


def test_binds_and_volumes(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    assert client.out("run", "--rm", "-v", f"{tmp_path}:/data", "busybox", "cat", "/data/file") == "from the host"
    client("run", "--rm", "-v", f"{tmp_path}:/data", "busybox", "sh", "-c", "echo from inside > /data/made")
    assert (tmp_path / "made").read_text() == "from inside\n"
    client("run", "--rm", "-v", f"{tmp_path}:/data:ro", "busybox", "touch", "/data/x", check=1)
    client("run", "--rm", "-v", f"{tmp_path}/new/dir:/data", "busybox", "true")
    assert (tmp_path / "new/dir").is_dir()
    refused = client("run", "--rm", "--mount", f"type=bind,src={tmp_path}/absent,dst=/d", "busybox", "true", check=125)
    assert b"bind source path does not exist" in refused.stderr
    client("run", "--rm", "-v", "hold:/x", "busybox", "sh", "-c", "echo kept > /x/mark")
    assert client.out("run", "--rm", "-v", "hold:/y", "busybox", "cat", "/y/mark") == "kept"
    assert "hold" in client.out("volume", "ls", "-q").split()
    client("volume", "rm", "hold")


def test_a_new_volume_gets_the_images_files(client: Client) -> None:
    look = ("busybox", "sh", "-c", "ls /v; ls -ld /v | cut -c1-10")
    client("run", "--rm", "-v", "filled:/etc", "busybox", "true")
    assert "passwd" in client.out("run", "--rm", "-v", "filled:/v", *look).split()
    client("run", "--rm", "-v", "sticky:/tmp", "busybox", "touch", "/tmp/mine")
    client("run", "--rm", "-v", "sticky:/etc", "busybox", "true")
    assert client.out("run", "--rm", "-v", "sticky:/v", *look).split() == ["hostname", "hosts", "mine", "resolv.conf", "drwxrwxrwt"]
    assert client.out("run", "--rm", "-v", "bare:/etc:nocopy", "busybox", "ls", "/etc").split() == ["hostname", "hosts", "resolv.conf"]
    client("volume", "rm", "filled", "sticky", "bare")


def test_anonymous_volumes_go_with_rm(client: Client) -> None:
    client("run", "--rm", "-v", "/data", "busybox", "touch", "/data/x")
    assert client.out("volume", "ls", "-q") == ""


def test_ulimit_hostname_and_extra_hosts(client: Client) -> None:
    script = "ulimit -n; ulimit -Hn; cat /etc/hosts"
    lines = client.out(
        "run", "--rm", "--ulimit", "nofile=100:200", "--add-host", "peer:10.1.2.3", "--add-host", "up:host-gateway",
        "busybox", "sh", "-c", script,
    ).splitlines()  # fmt: skip
    assert lines[:2] == ["100", "200"]
    assert "10.1.2.3\tpeer" in lines
    assert "172.31.77.1\tup" in lines


def test_cidfile(client: Client, tmp_path: Path) -> None:
    client("run", "--cidfile", str(tmp_path / "cid"), "--name", "cc", "busybox", "true")
    assert client.out("inspect", "-f", "{{.Id}}", "cc") == (tmp_path / "cid").read_text()


def test_attached_container_gets_the_clients_signals(client: Client) -> None:
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with client.start("run", "--rm", "busybox", "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.terminate()
        out, err = running.communicate(timeout=20)
    assert (out, err, running.returncode) == (b"caught\n", b"", 5)


def test_drivers_and_runtimes_side_by_side(client: Client) -> None:
    overlay = client.out("run", "-d", "busybox", "sleep", "60")
    vfs = client.out("run", "-d", "--storage-opt", "driver=vfs", "--runtime", "runc", "busybox", "sleep", "60")
    shown = "{{.Driver}} {{.HostConfig.Runtime}} {{.State.Running}}"
    assert client.out("inspect", "-f", shown, overlay) == "overlayfs native true"
    assert client.out("inspect", "-f", shown, vfs) == "vfs runc true"
    for container in (overlay, vfs):
        assert client.out("exec", container, "sh", "-c", "echo $HOSTNAME") == container[:12]
        client("rm", "-f", container)


def test_twenty_at_once(docker: Client) -> None:
    def one(number: int) -> bytes:
        return docker("run", "--rm", "busybox", "sh", "-c", f"echo {number}; exit {number % 3}", check=number % 3).stdout

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [f"{number}\n".encode() for number in range(20)]
