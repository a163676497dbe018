"""The hooks of a third party's plugin: its changes to a spec, its ears, its routes and commands, and what it costs when they fail."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ground.daemon import Daemon, new_daemon
from ground.leaks import check_nothing_left
from ground.waiting import wait_until

PLUGIN = '''
import os
import time
from pathlib import Path

import click
from sampan.api.errors import Forbidden
from sampan.api.hookspecs import hookimpl

HEARD = Path(os.environ["HOOKS_HEARD"]) if "HOOKS_HEARD" in os.environ else None


@hookimpl
def sampan_adjust_spec(container, spec):
    spec["process"]["env"].append(f"ADJUSTED={container.name}:{container.image}:{container.labels.get('team', '')}")
    if container.labels.get("refuse"):
        raise Forbidden("not on this host")
    if container.labels.get("crash"):
        raise ZeroDivisionError("oops")
    if container.labels.get("dawdle"):
        time.sleep(6)
    if "oci" in container.labels:
        spec["hooks"] = {
            moment: [{
                "path": "/bin/sh", "args": ["sh", "-c", f'cat >> "{HEARD}-{moment}"; test {moment} != "{container.labels["oci"]}"'],
                "env": ["PATH=/usr/bin:/bin"], "timeout": 10,
            }]
            for moment in ("createRuntime", "createContainer", "poststart", "poststop")
        }


@hookimpl
def sampan_event(event):
    with HEARD.open("a") as file:
        file.write(f"{event.type} {event.action} {event.attributes.get('name', '')}\\n")
    raise RuntimeError("a listener that fails is nobody's trouble")


@hookimpl
def sampan_register_routes(router):
    router.add("GET", "/hooks/{name}", lambda request: {"Hello": request.params["name"]})


@hookimpl
def sampan_register_commands(cli):
    @cli.command("greet")
    @click.argument("name")
    def greet(name):
        """Greet."""
        click.echo(f"hello {name}")
'''


def install(directory: Path, code: str) -> None:
    """Lay out a distribution as pip leaves it."""
    info = directory / "hooks_example-2.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hooks-example\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[sampan]\nhooks-example = hooks_example\n")
    (directory / "hooks_example.py").write_text(textwrap.dedent(code))


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    place = tmp_path_factory.mktemp("site")
    install(place, PLUGIN)
    heard = place / "heard"
    with new_daemon(environment={"PYTHONPATH": str(place), "HOOKS_HEARD": str(heard)}) as daemon:
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon, heard
        daemon.stop()


def test_a_spec_is_adjusted_before_the_start(hooked: tuple[Daemon, Path]) -> None:
    daemon, _ = hooked
    done = daemon.docker("run", "--rm", "--name", "adjusted", "--label", "team=red", "--network", "none", "busybox", "env")
    assert b"ADJUSTED=adjusted:busybox:red\n" in done.stdout


@pytest.mark.parametrize(
    ("label", "text"),
    [("refuse", "not on this host"), ("crash", "a sampan_adjust_spec hook failed: ZeroDivisionError('oops')"),
     ("dawdle", "the sampan_adjust_spec hooks took longer than 5 s")],
)  # fmt: skip
def test_a_hook_that_fails_fails_that_start_and_leaves_nothing(hooked: tuple[Daemon, Path], label: str, text: str) -> None:
    daemon, _ = hooked
    done = daemon.docker("run", "--rm", "--name", label, "--label", f"{label}=1", "busybox", "true", check=None)
    assert done.returncode in (125, 126)
    assert text in done.stderr.decode()
    daemon.docker("rm", "-f", label, check=None)
    check_nothing_left(daemon)
    assert daemon.docker("run", "--rm", "--network", "none", "busybox", "echo", "on").stdout == b"on\n"


@pytest.mark.parametrize("fails", ["nothing", "createRuntime", "poststart"])
def test_hooks_of_a_spec_run_in_the_containers_life(hooked: tuple[Daemon, Path], fails: str) -> None:
    """Those that a plugin puts into a spec; one that fails fails the start with what it says, and nothing is left."""
    daemon, heard = hooked
    files = {moment: heard.with_name(f"heard-{moment}") for moment in ("createRuntime", "createContainer", "poststart", "poststop")}
    for file in files.values():
        file.unlink(missing_ok=True)
    done = daemon.docker("run", "--rm", "--label", f"oci={fails}", "--network", "none", "busybox", "echo", "ran", check=None)
    if fails == "nothing":
        assert (done.returncode, done.stdout) == (0, b"ran\n")
    else:
        assert done.returncode in (125, 126, 127)
        assert f"hooks.{fails}[0] /bin/sh: exit status 1" in done.stderr.decode()
    wait_until(files["poststop"].exists, "poststop has run")
    ran = ["createRuntime", "poststop"] if fails == "createRuntime" else list(files)
    assert [moment for moment, file in files.items() if file.exists()] == ran
    states = {moment: json.loads(files[moment].read_text()) for moment in ran}  # which is one object: each ran once
    assert {state["id"] for state in states.values()} == {states["poststop"]["id"]}
    assert Path(states["poststop"]["bundle"]).is_relative_to(daemon.root)
    check_nothing_left(daemon)


def test_events_are_heard_and_a_failing_listener_stops_nothing(hooked: tuple[Daemon, Path]) -> None:
    daemon, heard = hooked
    daemon.docker("run", "--rm", "--name", "loud", "--network", "none", "busybox", "true")
    daemon.docker("run", "--rm", "--name", "loud", "--network", "none", "busybox", "true")
    lines = heard.read_text().splitlines()
    assert lines.count("container start loud") == 2
    assert "a sampan_event hook failed" in daemon.log


def test_a_plugin_has_routes_of_its_own(hooked: tuple[Daemon, Path]) -> None:
    daemon, _ = hooked
    assert daemon.api("GET", "/v1.44/hooks/you") == {"Hello": "you"}


def test_a_plugin_has_commands_of_its_own(hooked: tuple[Daemon, Path]) -> None:
    daemon, heard = hooked
    done = daemon.run("env", f"PYTHONPATH={heard.parent}", daemon.python, "-m", "sampan.cli", "greet", "you")
    assert done.stdout == b"hello you\n"


def test_a_plugin_is_blocked_by_its_name(tmp_path: Path) -> None:
    install(tmp_path / "site", "raise SystemExit('never to be imported')\n")
    with new_daemon(environment={"PYTHONPATH": str(tmp_path / "site"), "SAMPAN_DISABLED_PLUGINS": "hooks-example"}) as daemon:
        daemon.start()
        assert "hooks-example" not in json.dumps(daemon.api("GET", "/sampan/plugins"))
        assert daemon.api_raw("GET", "/hooks/you")[0] == 404
        daemon.stop()


def test_a_misspelt_hook_is_reported(tmp_path: Path) -> None:
    install(
        tmp_path / "site",
        """
        from sampan.api.hookspecs import hookimpl
        @hookimpl
        def sampan_register_storage_driver():
            return []
        """,
    )
    with new_daemon(environment={"PYTHONPATH": str(tmp_path / "site")}) as daemon:
        daemon.start()
        entry = next(entry for entry in daemon.api("GET", "/sampan/plugins") if entry["Name"] == "hooks-example")
        assert (entry["State"], entry["Reason"]) == ("broken", "unknown hooks: sampan_register_storage_driver")
        daemon.stop()
