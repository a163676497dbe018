from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.types import HostConfig
from sampan.engine import devices
from sampan.engine.devices import check_devices, parse_rule

NULL = {"type": "c", "major": 1, "minor": 3}


def host(**values: Any) -> HostConfig:
    return HostConfig.model_validate(values)


def device(source: str, target: str = "", access: str = "rwm") -> dict[str, str]:
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": access}


def test_a_device_gets_a_node_and_a_rule() -> None:
    asked = host(Devices=[device("/dev/null", "/dev/nothing", "r")], DeviceCgroupRules=["b 8:* rm"])
    assert devices.nodes(asked)[0].items() >= {**NULL, "path": "/dev/nothing"}.items()
    assert devices.rules(asked)[-2:] == [{**NULL, "allow": True, "access": "r"}, {"allow": True, "type": "b", "major": 8, "access": "rm"}]
    assert devices.rules(host())[0] == {"allow": False, "access": "rwm"}
    assert devices.nodes(host()) == []


def test_a_directory_stands_for_all_devices_below_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "file").touch()
    try:
        os.mknod(tmp_path / "deep/null", 0o020600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes are root's to make")
    found = devices.nodes(host(Devices=[device(str(tmp_path), "/dev/all")]))
    assert [(item["path"], item["fileMode"]) for item in found] == [("/dev/all/deep/null", 0o600)]
    (tmp_path / "link").symlink_to(tmp_path / "deep/null")
    assert devices.nodes(host(Devices=[device(str(tmp_path / "link"), "/dev/n")]))[0]["path"] == "/dev/n"


def test_a_privileged_container_has_all_and_what_is_put_elsewhere() -> None:
    asked = host(Privileged=True, Devices=[device("/dev/null"), device("/dev/null", "/dev/other", "r")])
    paths = [item["path"] for item in devices.nodes(asked)]
    assert paths.count("/dev/null") == 1
    assert paths[-1] == "/dev/other"
    assert devices.rules(asked) == [{"allow": True, "access": "rwm"}]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (device("/dev/absent"), 'error gathering device information while adding custom device "/dev/absent": no such file'),
        (device("/etc/passwd"), 'error gathering device information while adding custom device "/etc/passwd": not a device node'),
        (device("/etc/apt"), "not a device node"),
        (device("/dev/null", access="x"), "invalid device mode: x"),
        (device("/dev/nu\0ll"), "it has a NUL in it"),
    ],
)
def test_devices_refused(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_devices(host(Devices=[mapping]))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"Driver": "cdi", "DeviceIDs": ["vendor.com/net=eth9"]}, "vendor.com/net=eth9.*reads no CDI"),
        ({"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}, "--gpus"),
    ],
)
def test_requests_for_devices_are_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        check_devices(host(DeviceRequests=[request_]))


def test_rules() -> None:
    assert parse_rule("c 1:3 rwm") == {"allow": True, "type": "c", "access": "rwm", "major": 1, "minor": 3}
    assert parse_rule("a *:* r") == {"allow": True, "type": "a", "access": "r"}
    for text in ("", "c", "c 1 rwm", "z 1:1 r", "c x:1 r", "c 1:1 x", "c 1:1 rwmr", " c 1:1 r", "c  1:1 r", "c 99999999999:1 r"):
        with pytest.raises(InvalidArgument, match="invalid device cgroup rule format"):
            parse_rule(text)
