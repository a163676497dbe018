"""The runtime suite: programs of the spec's author at moments of a container's life.

Each hook here writes what it is given to a directory of the host, which the container sees as /log.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sampan.api.errors import SampanError, Unsupported
from sampan.api.runtime import RuntimeCapability, Spec
from sampan.testing.runtime_ground import Workshop, copy_on_write
from sampan.testing.selection import needs, needs_refusal

__all__ = ["HookCases", "Ledger"]

_MOMENTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_BEFORE_PROGRAM = _MOMENTS[:4]
_RECORD = 'echo "$0 $(readlink /proc/self/ns/mnt) $(tr -d "\\n")" >> "$LOG"/log'


@dataclass(frozen=True, slots=True)
class Call:
    """What a hook has recorded: its name, its mount namespace, and the state it was given."""

    name: str
    mount_namespace: str
    state: dict[str, Any]


class Ledger:
    """A directory in which hooks write down that they were called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "ledger"
        self.directory.mkdir()

    def spec(self, workshop: Workshop, script: str = "echo program >> /log/log", **hooks: list[Spec]) -> Spec:
        """Give a container that records its own start and that of `hooks`."""
        spec = workshop.spec(script)
        bind = {"destination": "/log", "type": "bind", "source": str(self.directory), "options": ["bind"]}
        spec["mounts"].append(bind)
        spec["hooks"] = hooks
        return spec

    def hook(self, moment: str, name: str = "", then: str = "true", **fields: Any) -> Spec:
        """Give a hook that records its call and then does what it is told."""
        log = "/log" if moment == "startContainer" else str(self.directory)
        return {
            "path": "/bin/sh", "args": ["sh", "-c", f"{_RECORD}; {then}", name or moment],
            "env": [f"LOG={log}", "PATH=/usr/bin:/bin"], **fields,
        }  # fmt: skip

    def calls(self) -> list[Call]:
        """Read what is recorded; the program's own start is the call `program`."""
        file = self.directory / "log"
        lines = file.read_text().splitlines() if file.exists() else []
        words = [line.split(" ", 2) for line in lines]
        return [Call(word[0], word[1], json.loads(word[2])) if len(word) == 3 else Call(word[0], "", {}) for word in words]

    def names(self) -> list[str]:
        """Give the names of all calls in order."""
        return [call.name for call in self.calls()]


class HookCases:
    """Hooks run at their moments, in their namespaces, and can end a container."""

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        """Give an empty one."""
        return Ledger(tmp_path)

    @needs(RuntimeCapability.HOOKS)
    def test_hooks_run_at_their_moments(self, workshop: Workshop, ledger: Ledger, tmp_path: Path) -> None:
        """Each at its own, several of one in order, with the state as it is then."""
        hooks: dict[str, Any] = {moment: [ledger.hook(moment), ledger.hook(moment, f"{moment}2")] for moment in _MOMENTS}
        spec = ledger.spec(workshop, **hooks)
        spec["annotations"] = {"org.example.key": "a value"}
        container = workshop.container(spec, rootfs=copy_on_write(workshop.tree, tmp_path))
        container.create()
        assert ledger.names()[:6] == [name for moment in _MOMENTS[:3] for name in (moment, f"{moment}2")]
        assert "program" not in ledger.names()
        container.start()
        container.main.wait()
        container.delete()
        names = ledger.names()
        assert [name for name in names if name.startswith("start")] == ["startContainer", "startContainer2"]
        assert names.index("startContainer2") < names.index("program")  # which then goes its own way
        assert [name for name in names if name.startswith("poststart")] == ["poststart", "poststart2"]
        assert names[-2:] == ["poststop", "poststop2"]
        calls = {call.name: call for call in ledger.calls()}
        inside = calls["startContainer"].mount_namespace
        for name in _MOMENTS[:5]:  # the last may be called when the namespace's number is somebody else's
            assert (calls[name].mount_namespace == inside) == (name in ("createContainer", "startContainer")), name
        for call in calls.values():
            if call.name != "program":
                assert call.state["id"] == container.id
                assert call.state["annotations"].items() >= spec["annotations"].items()
        for name in _MOMENTS[:3]:  # crun 1.8 forgets it for the last
            assert calls[name].state["bundle"] == str(container.directory / "bundle")
        pid = container.main.pid
        for name in ("prestart", "createRuntime", "poststart"):
            assert calls[name].state["pid"] == pid, name
        assert calls["poststop"].state["status"] == "stopped"

    @needs(RuntimeCapability.HOOKS)
    def test_hooks_get_what_they_are_given(self, workshop: Workshop, ledger: Ledger) -> None:
        """Arguments and environment are the hook's, and nothing else is."""
        script = f'cd {ledger.directory} && echo "$0,$1" > arguments && env > environment'
        hook = {"path": "/bin/sh", "args": ["other", "-c", script, "zero", "a b"], "env": ["ONE=1", "TWO=a b", "PATH=/usr/bin:/bin"]}
        workshop.container(ledger.spec(workshop, createRuntime=[hook])).create()
        assert (ledger.directory / "arguments").read_text() == "zero,a b\n"
        environment = set((ledger.directory / "environment").read_text().splitlines())
        assert {"ONE=1", "TWO=a b"} <= environment
        assert not [line for line in environment if line.startswith(("HOME=", "USER="))]

    @needs(RuntimeCapability.HOOKS)
    @pytest.mark.parametrize("moment", _BEFORE_PROGRAM)
    def test_a_hook_that_fails_ends_the_container(self, workshop: Workshop, ledger: Ledger, moment: str, tmp_path: Path) -> None:
        """Later ones don't run, nor does the program. Some runtimes tell of `startContainer` only by the container's end."""
        hooks: dict[str, Any] = {moment: [ledger.hook(moment, then="exit 3"), ledger.hook(moment, "later")]}
        container = workshop.container(ledger.spec(workshop, **hooks), rootfs=copy_on_write(workshop.tree, tmp_path))
        try:
            container.create().start()
        except SampanError:
            pass
        else:
            assert moment == "startContainer"
            assert container.main.wait() != 0
        if container.handle is not None:
            container.delete()
        assert ledger.names() == [moment]

    @needs(RuntimeCapability.HOOKS)
    def test_a_hook_that_fails_at_the_end_stops_nothing(self, workshop: Workshop, ledger: Ledger) -> None:
        """The container is gone all the same, and asked to delete it again nobody runs hooks again."""
        container = workshop.container(ledger.spec(workshop, "true", poststop=[ledger.hook("poststop", then="exit 1")]))
        container.run()
        container.delete()
        container.delete()
        assert ledger.names() == ["poststop"]

    @needs(RuntimeCapability.HOOKS)
    def test_a_hook_that_takes_too_long_is_killed(self, workshop: Workshop, ledger: Ledger) -> None:
        """Its timeout is in seconds; the container has ended with it."""
        hook = ledger.hook("createRuntime", then="exec sleep 1000", timeout=1)
        container = workshop.container(ledger.spec(workshop, createRuntime=[hook]))
        with pytest.raises(SampanError, match="timeout|timed out|killed|signal"):
            container.create()

    @needs_refusal(RuntimeCapability.HOOKS)
    def test_hooks_are_refused(self, workshop: Workshop, ledger: Ledger) -> None:
        """A driver that runs none says so before anything else."""
        with pytest.raises(Unsupported):
            workshop.container(ledger.spec(workshop, prestart=[ledger.hook("prestart")])).create()
        assert ledger.names() == []
