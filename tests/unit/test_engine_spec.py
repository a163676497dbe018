from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ground.records import container_record
from sampan.api.errors import InvalidArgument
from sampan.api.network import SandboxKind
from sampan.api.types import HostConfig, Ulimit
from sampan.engine import isolation, spec
from sampan.engine.defaults import Defaults
from sampan.engine.isolation import container_capabilities
from sampan.engine.records import ContainerRecord, MountPoint
from sampan.engine.surroundings import Surroundings
from sampan.engine.users import User
from sampan.linux import capabilities
from sampan.linux.namespaces import IdMaps, IdRange

ROOT = User(0, 0, (0,), "/root")


def build(record: ContainerRecord, user: User = ROOT, **more: Any) -> dict[str, Any]:
    around: dict[str, Any] = {
        "user": user, "cgroups_path": "/sampan/x/y", "files": {}, "namespaces": {},
        "sandbox": SandboxKind.OWN, "mounts": record.mounts, "hostname": record.config.hostname,
    }  # fmt: skip
    return spec.build(record, Surroundings(**around | more))


def namespaces(found: dict[str, Any]) -> dict[str, str | None]:
    return {item["type"]: item.get("path") for item in found["linux"]["namespaces"]}


def mounts(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["destination"]: item for item in found["mounts"]}


def test_an_ordinary_container() -> None:
    found = build(container_record(Entrypoint=["/entry"], Cmd=["a"], WorkingDir="/w", Env=["A=1"]))
    process = found["process"]
    assert process["args"] == ["/entry", "a"]
    assert (process["cwd"], process["terminal"], process["noNewPrivileges"]) == ("/w", False, False)
    assert process["user"] == {"uid": 0, "gid": 0, "additionalGids": [0]}
    assert found["hostname"] == "c0ffee000000"
    assert set(namespaces(found)) == {"mount", "pid", "ipc", "uts", "network"}
    assert set(mounts(found)) == {"/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"}
    assert "ro" in mounts(found)["/sys"]["options"]
    assert "/proc/kcore" in found["linux"]["maskedPaths"]
    assert "/proc/sys" in found["linux"]["readonlyPaths"]
    assert found["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert found["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert found["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert found["root"] == {"path": "rootfs", "readonly": False}


def test_a_privileged_container() -> None:
    found = build(container_record(host={"Privileged": True}))
    assert found["linux"]["maskedPaths"] == found["linux"]["readonlyPaths"] == []
    assert "seccomp" not in found["linux"]
    assert found["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in mounts(found)["/sys"]["options"]
    assert set(found["process"]["capabilities"]["effective"]) == isolation.available_capabilities()
    assert "/dev/null" in {device["path"] for device in found["linux"]["devices"]}


def test_namespaces_of_others() -> None:
    found = build(container_record(), namespaces={"pid": "", "network": "/proc/7/ns/net", "uts": "", "ipc": "/proc/7/ns/ipc"})
    assert namespaces(found) == {"mount": None, "ipc": "/proc/7/ns/ipc", "network": "/proc/7/ns/net"}
    assert "hostname" not in found
    assert "net.ipv4.ip_unprivileged_port_start" not in found["linux"]["sysctl"]
    assert "network" not in namespaces(build(container_record(), sandbox=SandboxKind.HOST))
    assert "cgroup" in namespaces(build(container_record(host={"CgroupnsMode": "private"})))
    assert "cgroup" not in namespaces(build(container_record(host={"CgroupnsMode": "host"})))


def test_mounts_of_the_user_come_last_and_by_depth() -> None:
    points = [
        MountPoint(type="bind", source="/deep", destination="/a/b/c", rw=False, propagation="rprivate"),
        MountPoint(type="tmpfs", destination="/a", options=["size=1m"]),
        MountPoint(type="bind", source="/hosts", destination="/etc/hosts"),
        MountPoint(type="bind", source="/s", destination="/dev/shm", propagation="rshared"),
    ]
    found = build(container_record(mounts=points), files={"/etc/hosts": Path("/f/hosts"), "/etc/hostname": Path("/f/name")})
    order = [item["destination"] for item in found["mounts"]]
    assert order[-5:] == ["/a", "/etc/hostname", "/etc/hosts", "/dev/shm", "/a/b/c"]
    assert mounts(found)["/a/b/c"]["options"] == ["rbind", "ro", "rprivate", "rro"]
    assert mounts(found)["/a"] == {"destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}
    assert mounts(found)["/etc/hosts"]["source"] == "/hosts"
    assert mounts(found)["/etc/hostname"]["source"] == "/f/name"
    assert mounts(found)["/dev/shm"]["source"] == "/s"
    assert len(found["mounts"]) == len(mounts(found))
    assert found["linux"]["rootfsPropagation"] == "shared"


@pytest.mark.parametrize(
    ("mode", "shm", "expected"),
    [
        ("private", None, {"type": "tmpfs", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}),
        ("", None, {"type": "tmpfs", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}),
        ("shareable", Path("/run/x/shm"), {"type": "bind", "source": "/run/x/shm"}),
        ("host", Path("/dev/shm"), {"type": "bind", "source": "/dev/shm"}),
        ("none", None, None),
    ],
)
def test_shared_memory(mode: str, shm: Path | None, expected: dict[str, Any] | None) -> None:
    found = mounts(build(container_record(host={"IpcMode": mode}), shm=shm)).get("/dev/shm")
    assert (found is None) == (expected is None)
    assert expected is None or {key: (found or {})[key] for key in expected} == expected


def test_a_dev_of_the_users_has_none_of_ours_in_it() -> None:
    found = build(container_record(mounts=[MountPoint(type="tmpfs", destination="/dev")]))
    assert [path for path in mounts(found) if path.startswith("/dev")] == ["/dev"]


@pytest.mark.parametrize(
    ("host", "access"),
    [
        ({}, "ro"), ({"Privileged": True}, "rw"), ({"SecurityOpt": ["writable-cgroups"]}, "rw"),
        ({"Privileged": True, "SecurityOpt": ["writable-cgroups=false"]}, "ro"),
    ],
)  # fmt: skip
def test_writable_cgroups(host: dict[str, Any], access: str) -> None:
    assert mounts(build(container_record(host=host)))["/sys/fs/cgroup"]["options"][0] == access


def test_an_init(tmp_path: Path) -> None:
    program = tmp_path / "tini"
    program.touch(mode=0o755)
    defaults = Defaults(init_path=program)
    found = build(container_record(host={"Init": True}, Cmd=["sleep", "1"]), defaults=defaults)
    assert found["process"]["args"] == ["/sbin/docker-init", "--", "sleep", "1"]
    assert mounts(found)["/sbin/docker-init"] == {
        "destination": "/sbin/docker-init", "type": "bind", "source": str(program), "options": ["bind", "ro"],
    }  # fmt: skip
    always = Defaults(init_path=program, init=True)
    assert build(container_record(), defaults=always)["process"]["args"][0] == "/sbin/docker-init"
    for host in ({"Init": False}, {"PidMode": "host"}, {"PidMode": "container:x"}):
        assert build(container_record(host=host), defaults=always)["process"]["args"] == ["true"]


def test_the_daemons_defaults_give_way_to_the_containers_own() -> None:
    defaults = Defaults(
        no_new_privileges=True, seccomp={"defaultAction": "SCMP_ACT_LOG"},
        ulimits=(Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="core", soft=0, hard=0)),
    )  # fmt: skip
    found = build(container_record(host={"Ulimits": [{"Name": "core", "Soft": 5, "Hard": 5}]}), defaults=defaults)
    assert found["process"]["noNewPrivileges"] is True
    assert found["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_LOG"
    assert {limit["type"]: limit["soft"] for limit in found["process"]["rlimits"]} == {"RLIMIT_CORE": 5, "RLIMIT_NOFILE": 1}
    own = ["no-new-privileges=false", 'seccomp={"defaultAction": "SCMP_ACT_ALLOW"}']
    found = build(container_record(host={"SecurityOpt": own}), defaults=defaults)
    assert found["process"]["noNewPrivileges"] is False
    assert found["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
    assert "seccomp" not in build(container_record(), defaults=Defaults(seccomp={}))["linux"]


def test_a_profile_asked_for_holds_for_a_privileged_container_too() -> None:
    host = {"Privileged": True, "SecurityOpt": ['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}']}
    assert build(container_record(host=host))["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"


def test_a_user_namespace() -> None:
    defaults = Defaults(idmaps=IdMaps((IdRange(0, 100_000, 65_536),), (IdRange(0, 200_000, 65_536),)))
    points = [
        MountPoint(type="volume", name="v", source="/v", destination="/v"),
        MountPoint(type="bind", source="/b", destination="/b"),
    ]
    found = build(container_record(mounts=points), defaults=defaults)
    assert namespaces(found)["user"] is None
    assert found["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    assert found["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 200_000, "size": 65_536}]
    assert "idmap" in mounts(found)["/v"]["options"]
    assert "idmap" not in mounts(found)["/b"]["options"]
    assert "net.ipv4.ping_group_range" not in found["linux"]["sysctl"]
    of_the_host = build(container_record(host={"UsernsMode": "host"}, mounts=points), defaults=defaults)
    assert "user" not in namespaces(of_the_host)
    assert "uidMappings" not in of_the_host["linux"]
    assert "idmap" not in mounts(of_the_host)["/v"]["options"]


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ({"ReadonlyRootfs": True}, ("root", "readonly"), True),
        ({"OomScoreAdj": 300}, ("process", "oomScoreAdj"), 300),
        ({"SecurityOpt": ["no-new-privileges"]}, ("process", "noNewPrivileges"), True),
        ({"MaskedPaths": []}, ("linux", "maskedPaths"), []),
        ({"ReadonlyPaths": ["/x"]}, ("linux", "readonlyPaths"), ["/x"]),
        ({"Annotations": {"a": "b"}}, ("annotations",), {"a": "b"}),
        ({"Sysctls": {"kernel.shmmax": "1"}}, ("linux", "sysctl", "kernel.shmmax"), "1"),
        (
            {"Ulimits": [{"Name": "cpu", "Soft": 1, "Hard": -1}]},
            ("process", "rlimits"),
            [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2**64 - 1}],
        ),
        ({"ShmSize": 4096}, ("mounts", -1, "options", -1), "size=4096"),
        ({"Memory": 8 << 20}, ("linux", "resources", "memory", "limit"), 8 << 20),
    ],
)
def test_host_configuration(host: dict[str, Any], path: tuple[Any, ...], expected: object) -> None:
    found: Any = build(container_record(host=host))
    for key in path:
        found = found[key]
    assert found == expected


def test_a_terminal() -> None:
    found = build(container_record(host={"ConsoleSize": [30, 90]}, Tty=True))["process"]
    assert found["terminal"] is True
    assert found["consoleSize"] == {"height": 30, "width": 90}
    assert "TERM=xterm" in found["env"]


def test_environment() -> None:
    record = container_record(Env=["A=1", "PATH=/mine", "GONE=1", "GONE", "E="])
    assert spec.environment(record, ROOT, tty=False) == ["PATH=/mine", "HOSTNAME=c0ffee000000", "A=1", "E=", "HOME=/root"]
    assert "A=2" in spec.environment(record, ROOT, tty=False, extra=["A=2"])
    assert spec.environment(container_record(Env=["HOME=/x"]), ROOT, tty=False)[-1] == "HOME=/x"
    assert spec.environment(container_record(), ROOT, tty=False)[0] == spec.DEFAULT_PATH


def test_only_root_holds_capabilities() -> None:
    found = spec.capability_sets(["CAP_KILL"], User(7, 0, (0,), "/"))
    assert found == {"bounding": ["CAP_KILL"], "effective": [], "permitted": []}
    assert spec.capability_sets(["CAP_KILL"], ROOT)["effective"] == ["CAP_KILL"]


@pytest.mark.parametrize(
    ("text", "number"),
    [(None, 15), ("", 15), ("KILL", 9), ("sigusr1", 10), ("15", 15), ("64", 64), ("RTMIN", 34), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)],
)
def test_signals(text: str | None, number: int) -> None:
    assert spec.stop_signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "-9", "NONSENSE", "RTMIN+x", "RTMIN+31", "RTMAX-40", "KILL+1", "9" * 5000, "RTMIN+-5"])
def test_signals_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        spec.stop_signal(text)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], set(isolation.DEFAULT_CAPABILITIES)),
        (["net_admin"], [], {*isolation.DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}),
        ([], ["CAP_KILL"], set(isolation.DEFAULT_CAPABILITIES) - {"CAP_KILL"}),
        (["KILL"], ["KILL"], set(isolation.DEFAULT_CAPABILITIES)),
        ([], ["ALL"], set()),
        (["KILL"], ["all"], {"CAP_KILL"}),
        (["ALL"], [], set(capabilities.NAMES)),
        (["ALL"], ["KILL"], set(capabilities.NAMES) - {"CAP_KILL"}),
        (["ALL"], ["ALL"], set(capabilities.NAMES)),
    ],
)
def test_capabilities_merge_as_dockers(
    monkeypatch: pytest.MonkeyPatch, add: list[str], drop: list[str], expected: set[str]
) -> None:
    monkeypatch.setattr(isolation, "available_capabilities", lambda: frozenset(capabilities.NAMES))
    given, warnings = container_capabilities(HostConfig(cap_add=add, cap_drop=drop))
    assert (set(given), warnings) == (expected, [])


def test_what_the_daemon_lacks_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "available_capabilities", lambda: frozenset(capabilities.NAMES) - {"CAP_SYS_TIME"})
    given, warnings = container_capabilities(HostConfig(privileged=True))
    assert "CAP_SYS_TIME" not in given
    assert warnings == ["The daemon itself lacks CAP_SYS_TIME: the container does not get it"]
