"""The runtime suite: what a driver does not claim."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from sampan.api.errors import Unsupported
from sampan.linux.namespaces import new_netns
from sampan.testing.runtime_ground import MiB, Workshop, shell
from sampan.testing.selection import needs_refusal


class RefusalCases:
    """What the probe does not claim is refused."""

    @needs_refusal("exec", "pause", "update", "own-network")
    def test_refusal(self, workshop: Workshop, capabilities: frozenset[str]) -> None:
        """What the probe does not claim is refused as `Unsupported`, and the container goes on."""
        container = workshop.idle()
        refused: dict[str, Callable[[], Any]] = {
            "exec": lambda: container.exec(shell("true")),
            "pause": container.pause,
            "update": lambda: container.update({"memory": {"limit": 64 * MiB}}),
            "own-network": lambda: _create_in_new_network(workshop),
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
