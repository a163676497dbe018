"""Fixtures of all tests. Those that need an engine get one of their own, and fail if it leaves anything behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ground.daemon import Daemon, new_daemon
from ground.leaks import check_nothing_left


@pytest.fixture(scope="module")
def module_daemon() -> Iterator[Daemon]:
    """A running engine with the busybox image, shared by the tests of a module."""
    with new_daemon() as daemon:
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon
        daemon.stop()


@pytest.fixture
def daemon(module_daemon: Daemon) -> Iterator[Daemon]:
    """The module's engine; afterwards its containers, volumes and networks are removed, and nothing else may be left."""
    yield module_daemon
    for container in module_daemon.api("GET", "/containers/json?all=1"):
        module_daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    for volume in module_daemon.api("GET", "/volumes")["Volumes"]:
        module_daemon.api("DELETE", f"/volumes/{volume['Name']}")
    for network in module_daemon.api("GET", '/networks?filters={"type":["custom"]}'):
        module_daemon.api("DELETE", f"/networks/{network['Id']}")
    check_nothing_left(module_daemon)


@pytest.fixture
def own_daemon() -> Iterator[Daemon]:
    """An engine for one test alone, which may kill it; started, with the busybox image."""
    with new_daemon() as daemon:
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon
