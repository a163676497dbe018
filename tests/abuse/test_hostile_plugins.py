"""Plugins that raise, hang or give junk (A29): the error is bounded and named, and the rest of the engine goes on."""

from __future__ import annotations

import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ground.daemon import Daemon, new_daemon
from ground.leaks import check_nothing_left

HANGING = """
    import time
    from sampan.api.hookspecs import hookimpl

    @hookimpl
    def sampan_adjust_spec(container, spec):
        if container.labels.get("hook") == "hang":
            time.sleep(3600)
        if container.labels.get("hook") == "raise":
            raise RuntimeError("a bug of the hook")
        if container.labels.get("hook") == "junk":
            spec["process"] = object()
        if container.labels.get("hook") == "loop":
            spec["annotations"] = spec
        if container.labels.get("hook") == "empty":
            spec.clear()
        if container.labels.get("hook") == "move":
            spec["linux"]["cgroupsPath"] = "/elsewhere"

    @hookimpl
    def sampan_event(event):
        if event.action == "create":
            time.sleep(3600)

    def _hang(request):
        time.sleep(3600)

    @hookimpl
    def sampan_register_routes(router):
        router.add("GET", "/hostile/hang", _hang)
        router.add("GET", "/hostile/junk", lambda request: object())
        router.add("GET", "/hostile/exit", lambda request: exit(3))
        router.add("GET", "/containers/json", lambda request: [])
"""

DRIVERS = """
    from sampan.api.hookspecs import hookimpl
    from sampan_volume_local.driver import LocalVolumes
    import time

    class Hostile(LocalVolumes):
        name = "hostile"

        def create(self, name, options):
            if name == "raise":
                raise RuntimeError("a bug of the driver")
            if name == "exit":
                raise SystemExit(3)
            if name == "junk":
                return super().create(name, options)
            return super().create(name, options)

        def mount(self, name, user):
            return object() if name == "junk" else "/dev" if name == "dev" else super().mount(name, user)

        def remove(self, name):
            if name == "junk":
                super().remove(name)
                raise KeyError(name)
            super().remove(name)

    class Stranger:
        name = "stranger"

    @hookimpl
    def sampan_register_volume_drivers():
        return [Hostile, Stranger, 7]

    @hookimpl
    def sampan_register_log_drivers():
        raise RuntimeError("a bug of the plugin")

    @hookimpl
    def sampan_register_storage_drivers():
        return 5
"""


@pytest.fixture
def engine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """An engine with the plugin whose source is the parameter."""
    (tmp_path / "hostile.py").write_text(textwrap.dedent(request.param))
    metadata = tmp_path / "hostile-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[sampan]\nhostile = hostile\n")
    with new_daemon(environment={"PYTHONPATH": str(tmp_path)}) as daemon:
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon
        for container in daemon.api("GET", "/containers/json?all=1"):
            daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for volume in daemon.api("GET", "/volumes")["Volumes"]:
            daemon.api_raw("DELETE", f"/volumes/{volume['Name']}")
        check_nothing_left(daemon)
        daemon.stop()


def _works(daemon: Daemon) -> None:
    began = time.monotonic()
    assert daemon.docker("run", "--rm", "busybox", "echo", "here").stdout == b"here\n"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("engine", [HANGING], indirect=True)
def test_hooks(engine: Daemon) -> None:
    """Six that hung once took all threads of the daemon: nothing started any more, and SIGTERM did not end it."""
    for kind in ("raise", "junk", "loop", "empty", "move"):
        done = engine.docker("run", "--rm", "--label", f"hook={kind}", "busybox", "true", check=125)
        assert b": a sampan_adjust_spec hook " in done.stderr, kind
    for number in range(7):
        made = {"Image": "busybox", "Cmd": ["true"], "Labels": {"hook": "hang"}}
        engine.api("POST", f"/containers/create?name=hung{number}", made)
    began = time.monotonic()
    answers: list[tuple[int, bytes]] = []
    paths = [f"/containers/hung{number}/start" for number in range(7)]
    asking = [threading.Thread(target=lambda path=path: answers.append(engine.api_raw("POST", path))) for path in paths]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(30)
    assert time.monotonic() - began < 12
    assert {status for status, _ in answers} == {503}
    assert b"sampan_adjust_spec" in answers[0][1]
    _works(engine)


@pytest.mark.parametrize("engine", [HANGING], indirect=True)
def test_routes(engine: Daemon) -> None:
    waiting = []
    for _ in range(8):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(engine.socket))
        sock.sendall(b"GET /hostile/hang HTTP/1.1\r\nHost: x\r\n\r\n")
        waiting.append(sock)
    try:
        assert engine.api_raw("GET", "/hostile/junk")[0] == 500
        _works(engine)
        assert engine.api_raw("GET", "/hostile/exit")[0] == 500
        assert engine.process is not None
        assert engine.process.poll() is None
    finally:
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("engine", [DRIVERS], indirect=True)
def test_drivers(engine: Daemon) -> None:
    states = {(line["Name"], line["State"]) for line in engine.api("GET", "/sampan/plugins")}
    assert any(state == "broken" for _, state in states)
    for name in ("raise", "exit"):
        status, answer = engine.api_raw("POST", "/volumes/create", {"Name": name, "Driver": "hostile"})
        assert status == 500, answer
        assert b"hostile" in answer
    engine.api("POST", "/volumes/create", {"Name": "junk", "Driver": "hostile"})
    done = engine.docker("run", "--rm", "-v", "junk:/v", "busybox", "true", check=None)
    assert done.returncode != 0
    _works(engine)
    assert engine.api_raw("DELETE", "/volumes/junk")[0] == 500
    assert [volume["Name"] for volume in engine.api("GET", "/volumes")["Volumes"]] == ["junk"]
    engine.docker("volume", "rm", "-f", "junk")
    assert [volume["Name"] for volume in engine.api("GET", "/volumes")["Volumes"]] == []
