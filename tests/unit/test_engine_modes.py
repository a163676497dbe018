from __future__ import annotations

from typing import Any

import pytest

from sampan.api.errors import InvalidArgument
from sampan.api.types import HostConfig
from sampan.engine import modes
from sampan.engine.modes import check_modes, check_sysctls, default_cgroupns, has_private_cgroups
from sampan.linux import cgroups

HYBRID = cgroups.Layout({"memory": "/m", "cpu": "/c"}, "/u")
PURE = cgroups.Layout({}, "/u")


def host(**values: Any) -> HostConfig:
    return HostConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"IpcMode": "nonsense"}, "invalid IPC mode: nonsense"),
        ({"IpcMode": "container:"}, "invalid IPC mode: container:"),
        ({"PidMode": "private"}, "invalid PID mode: private"),
        ({"PidMode": "container:"}, "invalid PID mode: container:"),
        ({"UTSMode": "container:x"}, "invalid UTS mode: container:x"),
        ({"UsernsMode": "keep-id"}, "invalid USER mode: keep-id"),
        ({"CgroupnsMode": "own"}, "invalid cgroup namespace mode: own"),
    ],
)
def test_modes_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_modes(host(**values), remapped=False)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Privileged": True}, "privileged mode is incompatible with user namespaces"),
        ({"NetworkMode": "host"}, "cannot share the host's network namespace when user namespaces are enabled"),
        ({"PidMode": "host"}, "cannot share the host PID namespace when user namespaces are enabled"),
        ({"IpcMode": "host"}, "cannot share the host IPC namespace when user namespaces are enabled"),
        ({"SecurityOpt": ["writable-cgroups=true"]}, "option WritableCgroups conflicts with user namespaces"),
    ],
)
def test_what_a_user_namespace_forbids(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_modes(host(**values), remapped=True)
    check_modes(host(**values), remapped=False)
    check_modes(host(**values, UsernsMode="host"), remapped=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Sysctls": {"kernel.core_pattern": "x"}}, "sysctl 'kernel.core_pattern' is not in a separate kernel namespace"),
        ({"Sysctls": {"fs.file-max": "1"}}, "is not in a separate kernel namespace"),
        ({"Sysctls": {"kernel/shmmax": "1"}, "IpcMode": "host"}, "is not allowed in the host's ipc namespace"),
        ({"Sysctls": {"fs.mqueue.msg_max": "1"}, "IpcMode": "host"}, "is not allowed in the host's ipc namespace"),
        ({"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"}, "is not allowed in the host's network namespace"),
        ({"Sysctls": {"kernel.domainname": "x"}, "UTSMode": "host"}, "is not allowed in the host's uts namespace"),
        ({"Sysctls": {"kernel.hostname": "x"}}, "conflicts with the host name"),
    ],
)
def test_sysctls_of_the_host_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_sysctls(host(**values))


def test_sysctls_of_a_container() -> None:
    names = ("net.core.somaxconn", "net/ipv4/ip_forward", "kernel.shm_rmid_forced", "kernel.sem", "fs.mqueue.msg_max", "kernel.domainname")
    check_sysctls(host(Sysctls=dict.fromkeys(names, "1")))


@pytest.mark.parametrize(
    ("layout", "privileged", "setting", "expected"),
    [
        (HYBRID, False, "", "host"), (HYBRID, False, "private", "private"), (HYBRID, True, "private", "host"),
        (PURE, False, "", "private"), (PURE, True, "", "private"), (PURE, True, "host", "host"),
    ],
)  # fmt: skip
def test_cgroup_namespaces(
    monkeypatch: pytest.MonkeyPatch, layout: cgroups.Layout, privileged: bool, setting: str, expected: str
) -> None:
    monkeypatch.setattr(modes.cgroups, "detect", lambda: layout)
    assert default_cgroupns(host(Privileged=privileged), setting) == expected
    assert has_private_cgroups(host(Privileged=privileged, CgroupnsMode="private"))
