"""The runtime suite: what a driver does not claim."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from sampan.api.errors import Unsupported
from sampan.linux.namespaces import IdRange, new_netns, new_userns
from sampan.testing.runtime_ground import MiB, Workshop, shell
from sampan.testing.selection import needs_refusal


class RefusalCases:
    """What the probe does not claim is refused."""

    @needs_refusal("exec", "pause", "update", "own-network", "user-namespace", "idmapped-mounts", "time-namespace")
    def test_refusal(self, workshop: Workshop, capabilities: frozenset[str]) -> None:
        """What the probe does not claim is refused as `Unsupported`, and the container goes on."""
        container = workshop.idle()
        refused: dict[str, Callable[[], Any]] = {
            "exec": lambda: container.exec(shell("true")),
            "pause": container.pause,
            "update": lambda: container.update({"memory": {"limit": 64 * MiB}}),
            "own-network": lambda: _create_in_new_network(workshop),
            "user-namespace": lambda: _create_in_new_user_namespace(workshop),
            "idmapped-mounts": lambda: _create_with_shifted_owners(workshop),
            "time-namespace": lambda: _create_with_other_clocks(workshop),
        }
        for capability in refused.keys() - capabilities:
            with pytest.raises(Unsupported):
                refused[capability]()
        container.signal(signal.SIGKILL)
        assert container.main.wait() == 137


def _create_in_new_network(workshop: Workshop) -> None:
    netns = new_netns()
    try:
        workshop.container(workshop.spec("true"), netns=netns).create()
    finally:
        os.close(netns)


def _create_in_new_user_namespace(workshop: Workshop) -> None:
    ranges = [IdRange(0, 100_000, 65_536)]
    userns = new_userns(ranges, ranges)
    spec = workshop.spec("true")
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    try:
        workshop.container(spec, userns=userns).create()
    finally:
        os.close(userns)


def _create_with_shifted_owners(workshop: Workshop) -> None:
    spec = workshop.spec("true")
    maps = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    mount = {"destination": "/volume", "type": "bind", "source": str(workshop.tree), "options": ["bind", "idmap"]}
    spec["mounts"].append(mount | {"uidMappings": maps, "gidMappings": maps})
    workshop.container(spec).create()


def _create_with_other_clocks(workshop: Workshop) -> None:
    spec = workshop.spec("true")
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1000}}
    workshop.container(spec).create()
