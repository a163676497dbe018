"""Flags to API fields: ports, volumes, mounts, environment, sizes, and whole requests."""

from __future__ import annotations

import click
import pytest

from sampan.cli import environment, mounts, ports
from sampan.cli.container_options import container_options
from sampan.cli.container_request import build
from sampan.cli.failure import CliError
from sampan.cli.flags import Command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("80/tcp", "", "")]),
        ("8080:80", [("80/tcp", "", "8080")]),
        ("8080:80/UDP", [("80/udp", "", "8080")]),
        ("127.0.0.1:8080:80", [("80/tcp", "127.0.0.1", "8080")]),
        ("127.0.0.1::80", [("80/tcp", "127.0.0.1", "")]),
        ("[::1]:8080:80/sctp", [("80/sctp", "::1", "8080")]),
        ("7000-7001:80-81", [("80/tcp", "", "7000"), ("81/tcp", "", "7001")]),
        ("7000-7009:80", [("80/tcp", "", "7000-7009")]),
        ("80-81", [("80/tcp", "", ""), ("81/tcp", "", "")]),
    ],
)
def test_publish(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [tuple(item) for item in ports.parse_publish(text)] == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no port"),
        ("80:", "no port"),
        ("65536", "containerPort"),
        ("x:80", "hostPort"),
        ("81-80", "containerPort"),
        ("7000-7002:80-81", "ranges"),
        ("80/icmp", "proto"),
        ("1.2.3:80:80", "IP address"),
        ("١:80", "hostPort"),
    ],
)
def test_publish_refuses(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ports.parse_publish(text)


def test_ports_are_listed_in_runs_and_mapped_ones_last() -> None:
    def port(ip: str, private: int, public: int) -> dict[str, object]:
        return {"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": "tcp"}

    listed = [port("0.0.0.0", 9001, 9001), port("0.0.0.0", 80, 8080), port("0.0.0.0", 9000, 9000)]
    listed += [port("::", 9000, 9000), {"PrivatePort": 53, "Type": "udp"}]
    assert ports.display(listed) == (
        "53/udp, 0.0.0.0:9000-9001->9000-9001/tcp, [::]:9000->9000/tcp, 0.0.0.0:8080->80/tcp"
    )


def test_volume_forms(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert mounts.parse_volume("/data") == ("", "/data")
    assert mounts.parse_volume("name:/data:ro,z") == ("name:/data:ro,z", "")
    assert mounts.parse_volume("./x:/data") == (f"{tmp_path}/x:/data", "")


@pytest.mark.parametrize("text", ["data", "a:b", "a:/b:rw:c", ":/b", "a:/", "a:/b:wrong", "a:"])
def test_volume_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="invalid volume"):
        mounts.parse_volume(text)


def test_mount() -> None:
    assert mounts.parse_mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave") == {
        "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True, "BindOptions": {"Propagation": "rslave"},
    }  # fmt: skip
    assert mounts.parse_mount('target=/b,volume-driver=x,"volume-opt=o=a,b"') == {
        "Type": "volume", "Target": "/b", "VolumeOptions": {"DriverConfig": {"Name": "x", "Options": {"o": "a,b"}}},
    }  # fmt: skip
    assert mounts.parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777")["TmpfsOptions"] == {
        "SizeBytes": 1 << 20, "Mode": 0o1777,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "type=bind,src=/a", "type=bind,dst=/b", "type=x,dst=/b", "dst=/b,foo=1", "dst=/b,src",
     "type=bind,src=/a,dst=/b,tmpfs-size=1m", "dst=/b,ro=maybe", "type=tmpfs,dst=/t,tmpfs-mode=9"],
)  # fmt: skip
def test_mount_refuses(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each reason is its own words
        mounts.parse_mount(text)


def test_env_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "env"
    path.write_bytes("\ufeff# comment\n\nA=1\n  B= two words \nHOST\nABSENT\nC=\n".encode())
    assert environment.environment(["D=4", "HOST", "BARE"], [str(path)], {"HOST": "h"}) == [
        "A=1", "B= two words ", "HOST=h", "C=", "D=4", "HOST=h", "BARE",
    ]  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), [(b"A B=1", "whitespaces"), (b"=1", "no variable"), (b"A=\xff", "utf8")])
def test_env_file_refuses(tmp_path, data: bytes, reason: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "env").write_bytes(b"OK=1\n" + data)
    with pytest.raises(ValueError, match=f"{reason}.*line 2"):
        environment.read_file(str(tmp_path / "env"), {})


@click.command("run", cls=Command, context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True)
@container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def _run(**_: object) -> None:
    """Only parse."""


def request(*args: str) -> dict:  # type: ignore[type-arg]
    params = _run.make_context("run", list(args)).params
    image, command, detach = params.pop("image"), params.pop("command"), params.pop("detach")
    return build(params, image, command, detach=detach).body


def test_request_takes_every_kind_of_flag() -> None:
    body = request(
        "-it", "-m64m", "--cpus", "1.5", "-p=8080:80", "-v", "/x", "-v", "v:/y", "--ulimit", "nofile=10:20", "-e", "A=1",
        "--device", "/dev/fuse:r", "--tmpfs", "/t:size=1m", "--entrypoint", "", "--restart", "on-failure:3", "--init",
        "--storage-driver", "btrfs", "--security-opt", "no-new-privileges", "--security-opt", "systempaths=unconfined",
        "--health-cmd", "true", "--health-interval", "1m30s", "busybox", "ls", "-la", "--rm=false",
    )  # fmt: skip
    host = body["HostConfig"]
    assert body["Cmd"] == ["ls", "-la", "--rm=false"]
    assert body["Entrypoint"] == [""]
    assert (body["Tty"], body["OpenStdin"], body["StdinOnce"], body["AttachStdin"]) == (True, True, True, True)
    assert body["ExposedPorts"] == {"80/tcp": {}}
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert (body["Volumes"], host["Binds"]) == ({"/x": {}}, ["v:/y"])
    assert (host["Memory"], host["NanoCpus"]) == (64 << 20, 1_500_000_000)
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}]
    assert host["Devices"] == [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "r"}]
    assert host["Tmpfs"] == {"/t": "size=1m"}
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["Init"] is True
    assert host["StorageOpt"] == {"driver": "btrfs"}
    assert (host["SecurityOpt"], host["MaskedPaths"]) == (["no-new-privileges"], [])
    assert body["Healthcheck"]["Interval"] == 90 * 10**9
    assert "PidsLimit" not in host


def test_devices_by_name_and_cgroups_to_write_to() -> None:
    host = request("--device", "vendor.com/class=one", "--device", "/dev/null", "--device", "v/c=2", "--security-opt", "writable-cgroups=true", "b")[
        "HostConfig"
    ]
    assert host["DeviceRequests"] == [{"Driver": "cdi", "DeviceIDs": ["vendor.com/class=one", "v/c=2"]}]
    assert [item["PathOnHost"] for item in host["Devices"]] == ["/dev/null"]
    assert host["SecurityOpt"] == ["writable-cgroups=true"]


def test_detached_request_attaches_nothing() -> None:
    body = request("-d", "-i", "busybox")
    assert (body["OpenStdin"], body["AttachStdin"], body["AttachStdout"], body["StdinOnce"]) == (
        True,
        False,
        False,
        False,
    )


def test_switches_take_values() -> None:
    assert request("--rm=true", "-i", "--interactive=false", "busybox")["HostConfig"]["AutoRemove"] is True
    assert request("-i", "--interactive=false", "busybox")["OpenStdin"] is False
    with pytest.raises(CliError, match="true or false"):
        request("--rm=perhaps", "busybox")


def test_networks() -> None:
    body = request("--network", "name=a,ip=10.0.0.5", "--network", "b", "--network-alias", "y", "busybox")
    assert body["HostConfig"]["NetworkMode"] == "a"
    assert body["NetworkingConfig"]["EndpointsConfig"]["a"]["IPAMConfig"] == {"IPv4Address": "10.0.0.5"}
    assert set(body["NetworkingConfig"]["EndpointsConfig"]) == {"a", "b"}
    several = request("--network", "name=a,gw-priority=-1", "--network", "b", "--link", "c:d", "busybox")["NetworkingConfig"]
    assert several["EndpointsConfig"] == {"a": {"GwPriority": -1, "Links": ["c:d"]}, "b": {}}
    assert request("--link", "c:d", "busybox")["NetworkingConfig"]["EndpointsConfig"] == {}
    assert request("--network-driver", "bridge", "busybox")["HostConfig"]["NetworkMode"] == "sampan-driver:bridge"
    assert request("busybox")["HostConfig"]["NetworkMode"] == "default"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--rm", "--restart", "always"], "--restart and --rm"),
        (["-d", "-a", "stdout"], "-a and -d"),
        (["--gpus", "all"], "not supported"),
        (["--network", "host", "--network-alias", "x"], "host"),
        (["--network", "a", "--network-driver", "bridge"], "--network-driver"),
        (["--network", "name=a,alias=x", "--network-alias", "y"], "Aliases given for the container and for network 'a'"),
        (["--network", "name=a,gw-priority=high"], "'high' is not a whole number"),
        (["--no-healthcheck", "--health-cmd", "x"], "conflicts"),
        (["--ulimit", "nofile=5:4"], "soft limit"),
        (["--ulimit", "wrong=5"], "invalid ulimit type"),
        (["--device", "/dev/a:/dev/b:rwx"], "device mode"),
        (["--add-host", "a"], "add-host"),
        (["--env-file", "/no/such/file"], "No such file"),
        (["--cpus", "1", "--cpu-quota", "5"], "--cpus"),
        (["--security-opt", "wrong"], "security-opt"),
        (["--log-opt", "x"], "log option"),
        (["-p", "99999:1"], "hostPort"),
        (["--mount", "type=bind,dst=/x"], '--mount" flag: source is required'),
    ],
)
def test_request_refuses_with_status_125(args: list[str], reason: str) -> None:
    with pytest.raises(CliError, match=reason) as caught:
        request(*args, "busybox")
    assert caught.value.status == 125


@pytest.mark.parametrize(
    "args", [["-m", "1x"], ["--cpus", "a"], ["--health-interval", "5"], ["--memory-swappiness", "101"]]
)
def test_bad_values_are_usage_errors(args: list[str]) -> None:
    with pytest.raises(click.UsageError):
        request(*args, "busybox")
