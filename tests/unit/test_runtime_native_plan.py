"""How the native runtime reads a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sampan.testing.spec import container_spec
from sampan_runtime_native.plan import Plan


def whole_spec() -> dict[str, Any]:
    """One in which most of what is optional is there."""
    spec = container_spec(["true"], cgroup="/x")
    spec["process"]["user"]["umask"] = 0o077
    spec["process"] |= {
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}], "consoleSize": {"height": 1, "width": 1},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}, "execCPUAffinity": {"initial": "0", "final": "0"},
        "terminal": True, "noNewPrivileges": True, "apparmorProfile": "a", "selinuxLabel": "s",
    }  # fmt: skip
    spec["process"]["capabilities"] |= {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    spec["mounts"].append({"destination": "/v", "type": "bind", "source": "/", "options": ["bind", "ro"]})
    spec["mounts"][-1] |= {key: [{"containerID": 0, "hostID": 1, "size": 2}] for key in ("uidMappings", "gidMappings")}
    spec["linux"] |= {
        "devices": [{"path": "/dev/x", "type": "c", "major": 0, "minor": 0, "fileMode": 0o600, "uid": 1, "gid": 2}],
        "rootfsPropagation": "slave", "personality": {"domain": "LINUX32"}, "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}},
        "resources": {},
    }  # fmt: skip
    spec["linux"]["namespaces"].append({"type": "time"})
    return spec | {"domainname": "d"}


def keys(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Give the path of each key of an object, at any depth."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(node, dict):
            yield (*path, key)
        yield from keys(value, (*path, key))


def outcome(spec: dict[str, Any]) -> Any:
    try:
        return Plan.of_spec("x", spec)
    except Exception as error:  # noqa: BLE001, whatever it says
        return type(error)


def without(path: tuple[str | int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give a configuration in which a key is null, and one that does not have it."""
    null, missing = whole_spec(), whole_spec()
    places: list[Any] = [null, missing]
    for key in path[:-1]:
        places = [place[key] for place in places]
    places[0][path[-1]] = None
    del places[1][path[-1]]
    return null, missing


@pytest.mark.parametrize("path", [*keys(whole_spec())], ids=lambda path: ".".join(map(str, path)))
def test_null_is_as_if_left_out(path: tuple[str | int, ...]) -> None:
    """So is what programs in Go write of an empty list. Of what must be there the words may differ."""
    assert isinstance(outcome(whole_spec()), Plan)
    found, expected = map(outcome, without(path))
    assert found == expected or (isinstance(found, type) and isinstance(expected, type))
