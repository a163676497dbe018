"""A hostile API client (A18, A30): whatever it writes in a field is refused in words, and breaks nothing.

Each case was seen to fail before its check was there: a 500 with a traceback, or a container that was gone.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from ground.daemon import Daemon

NAMES = ("..", "../../etc/cron.d/x", "/etc/passwd/..", "a/b", "a\0b", "a\nb", "\x1b[31mred", "ünïcode", "-x", ".x", "a" * 4096, " ", "a b")
"""No container or volume may have one of these. Of networks only those that do not print, or are too long: no path is made of them."""

REFUSED: dict[str, dict[str, Any]] = {
    "size without end": {"HostConfig": {"StorageOpt": {"size": "1e400"}}},
    "size that is no number": {"HostConfig": {"StorageOpt": {"size": "nan"}}},
    "NUL in a volume's place": {"Volumes": {"/a\0": {}}},
    "NUL in a bind's source": {"HostConfig": {"Binds": ["/tmp\0x:/x"]}},
    "NUL in a mount's source": {"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/tmp\0x", "Target": "/x"}]}},
    "NUL in a device": {"HostConfig": {"Devices": [{"PathOnHost": "/dev/n\0ull", "PathInContainer": "/x"}]}},
    "cgroup outside of the tree": {"HostConfig": {"CgroupParent": "../../../tmp/sampan-abuse"}},
    "NUL in the cgroup's parent": {"HostConfig": {"CgroupParent": "a\0b"}},
    "number that 64 bits do not hold": {"HostConfig": {"PidsLimit": 2**64}},
    "sysctl of the host": {"HostConfig": {"Sysctls": {"kernel.core_pattern": "|/x"}}},
    "sysctl by way of another": {"HostConfig": {"Sysctls": {"net.ipv4/../../kernel.core_pattern": "|/x"}}},
    "device outside of the root": {"HostConfig": {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "../x"}]}},
    "profile that is a file of the host": {"HostConfig": {"SecurityOpt": ["seccomp=/etc/shadow"]}},
    "profile of another shape": {"HostConfig": {"SecurityOpt": ['seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":7}']}},
    "profile without end": {"HostConfig": {"SecurityOpt": ["seccomp=" + '{"a":' * 100_000]}},
    "terminal of that size": {"Tty": True, "HostConfig": {"ConsoleSize": [100_000, -5]}},
    "runtime by path": {"HostConfig": {"Runtime": "../x"}},
    "storage driver by path": {"HostConfig": {"StorageOpt": {"driver": "../x"}}},
    "log driver by path": {"HostConfig": {"LogConfig": {"Type": "../x"}}},
    "NUL in the command": {"Cmd": ["a\0"]},
    "NUL in the environment": {"Env": ["A=a\0b"]},
    "NUL in the working directory": {"WorkingDir": "/a\0"},
    "uid that wraps round": {"User": "4294967296"},
    "uid below zero": {"User": "-1"},
    "uid of 2^31": {"User": "2147483648"},
    "uid in hexadecimal": {"User": "0x0"},
    "uid in other digits": {"User": "٠"},
    "user with a newline": {"User": "nobody\nroot"},
    "user with a NUL": {"User": "root\0"},
    "gid that wraps round": {"User": "1:4294967296"},
    "group that wraps round": {"HostConfig": {"GroupAdd": ["4294967296"]}},
    "host name of two bytes a letter": {"Hostname": "é" * 60},
    "domain name that is too long": {"Domainname": "a" * 65},
    "image by path": {"Image": "../../etc"},
}


def _create(daemon: Daemon, **settings: Any) -> tuple[int, bytes]:
    return daemon.api_raw("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]} | settings)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_create_or_start(daemon: Daemon, case: str) -> None:
    status, answer = _create(daemon, **REFUSED[case])
    if status == 201:
        status, answer = daemon.api_raw("POST", f"/containers/{json.loads(answer)['Id']}/start")
    assert 400 <= status < 500, (status, answer)
    assert json.loads(answer)["message"]
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("name", NAMES)
def test_name_refused(daemon: Daemon, name: str) -> None:
    created, answer = daemon.api_raw("POST", f"/containers/create?name={quote(name)}", {"Image": "busybox"})
    assert created == 400, answer
    assert b"\x1b" not in answer
    assert b"\n" not in answer.rstrip(b"\n")
    assert daemon.api_raw("POST", "/volumes/create", {"Name": name})[0] == 400
    may_be_a_networks = name.isprintable() and 0 < len(name.strip()) <= 255
    assert daemon.api_raw("POST", "/networks/create", {"Name": name})[0] == (201 if may_be_a_networks else 400)
    if may_be_a_networks:
        daemon.api("DELETE", f"/networks/{quote(name, safe='')}")
    assert daemon.api_raw("GET", f"/containers/{quote(name, safe='')}/json")[0] == 404
    assert daemon.api_raw("POST", f"/images/busybox/tag?repo={quote(name)}&tag=..")[0] == 400


OTHER_DIGITS = ("/containers/json?filters=" + quote('{"exited":["²"]}'), "/containers/json?limit=²", "/events?since=²")


@pytest.mark.parametrize("question", OTHER_DIGITS)
def test_number_of_other_digits_refused(daemon: Daemon, question: str) -> None:
    daemon.docker("run", "busybox", "true")
    assert daemon.api_raw("GET", quote(question, safe="/?=&%"))[0] == 400


@pytest.mark.parametrize("tail", ["²", "9" * 5000, "-1", "x"])
def test_strange_tail_is_all(daemon: Daemon, tail: str) -> None:
    daemon.docker("run", "--name", "talker", "busybox", "echo", "hello")
    status, answer = daemon.api_raw("GET", f"/containers/talker/logs?stdout=1&tail={quote(tail)}")
    assert status == 200
    assert b"hello" in answer


def test_options_with_a_nul_do_not_reach_ps(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "shown", "busybox", "sleep", "600")
    assert daemon.api_raw("GET", "/containers/shown/top?ps_args=-e%00f")[0] == 400


def test_impossible_terminal_size_ends_no_container(daemon: Daemon) -> None:
    """It once ended the shim, and the container with it."""
    daemon.docker("run", "-dt", "--name", "screen", "busybox", "sleep", "600")
    for height in (70_000, -1, 10**18):
        assert daemon.api_raw("POST", f"/containers/screen/resize?h={height}&w=80")[0] == 400
    asked = {"Cmd": ["true"], "Tty": True, "AttachStdout": True, "ConsoleSize": [99_999_999, -1]}
    item = daemon.api("POST", "/containers/screen/exec", asked)["Id"]
    daemon.api_raw("POST", f"/exec/{item}/start", {})
    assert daemon.docker("exec", "screen", "echo", "alive").stdout == b"alive\n"
    assert daemon.api("GET", "/containers/screen/json")["State"]["Running"]


def test_profile_of_a_client_depends_on_capabilities(daemon: Daemon, tmp_path: Any) -> None:
    """Docker's own profile given as a file is as strict as by default: its rules for other capabilities once applied to all."""
    from importlib.resources import files

    profile = json.loads((files("sampan.engine") / "seccomp_default.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps(profile))
    option = ("--security-opt", f"seccomp={tmp_path}/p.json")
    assert daemon.docker("run", "--rm", *option, "busybox", "unshare", "-U", "true", check=None).returncode != 0
    assert daemon.docker("run", "--rm", "--security-opt", "seccomp=unconfined", "busybox", "unshare", "-U", "true").returncode == 0
    strict = daemon.docker("run", "--rm", *option, "busybox", "grep", "Seccomp:", "/proc/self/status").stdout
    assert strict.split() == [b"Seccomp:", b"2"]
