"""Hooks of the native driver, where the spec of 2026 says more than runtimes as of 2023 do."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path

import pytest

from sampan.api.errors import Forbidden, InvalidArgument, System
from sampan.api.runtime import Mount, Spec
from sampan.testing.runtime_ground import RuntimeGround, Workshop, copy_on_write
from sampan.testing.runtime_hooks import HookCases, Ledger
from sampan_runtime_native.driver import NativeRuntime


class TestNativeHooks(RuntimeGround):
    driver_class = NativeRuntime
    require_supported = True
    ledger = HookCases.ledger

    def test_states_and_order_to_the_letter(self, workshop: Workshop, ledger: Ledger, tmp_path: Path) -> None:
        hooks = {moment: [ledger.hook(moment)] for moment in _STATES}
        container = workshop.container(ledger.spec(workshop, "read line", **hooks), rootfs=copy_on_write(workshop.tree, tmp_path))
        container.create()
        assert ledger.names() == ["prestart", "createRuntime", "createContainer"]
        container.start()
        assert ledger.names()[3:] == ["startContainer", "poststart"]
        container.delete()
        pid = container.main.pid
        for call in ledger.calls():
            is_outside = call.mount_namespace == os.readlink("/proc/self/ns/mnt")
            assert is_outside == (call.name not in ("createContainer", "startContainer"))
        found = {call.name: (call.state["status"], call.state.get("pid")) for call in ledger.calls()}
        assert found == {moment: (status, {"host": pid, "inside": 1, "": None}[seen]) for moment, (status, seen) in _STATES.items()}

    @pytest.mark.parametrize("moment", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
    def test_a_failure_tells_what_and_why_and_comes_to_poststop(
        self, workshop: Workshop, ledger: Ledger, moment: str, tmp_path: Path
    ) -> None:
        hooks = {
            moment: [ledger.hook(moment, then="echo because >&2; exit 3"), ledger.hook(moment, "later")],
            "poststop": [ledger.hook("poststop")],
        }
        spec = ledger.spec(workshop, "exec sleep 1000", **hooks)
        container = workshop.container(spec, rootfs=copy_on_write(workshop.tree, tmp_path))
        with pytest.raises(System, match=rf"hooks.{moment}\[0\] /bin/sh: exit status 3: because"):
            container.create().start()
        if container.handle is not None:
            container.main.wait()
            container.delete()
        assert ledger.names() == [moment, "poststop"]

    def test_poststop_hooks_all_run_and_their_failure_is_told(
        self, workshop: Workshop, ledger: Ledger, tmp_path: Path
    ) -> None:
        log = logging.FileHandler(tmp_path / "shim.log")
        logging.getLogger("sampan_runtime_native.hooks").addHandler(log)
        hooks = [ledger.hook("poststop", then="echo because; exit 1"), {"path": "/no/such"}, ledger.hook("poststop", "later")]
        container = workshop.container(ledger.spec(workshop, "true", poststop=hooks))
        container.run()
        container.delete()
        logging.getLogger("sampan_runtime_native.hooks").removeHandler(log)
        log.close()
        assert ledger.names() == ["poststop", "later"]
        told = (tmp_path / "shim.log").read_text()
        assert "hooks.poststop[0] /bin/sh: exit status 1: because" in told
        assert "hooks.poststop[1] /no/such: no such file or directory" in told

    def test_hooks_of_a_container_with_a_user_namespace(self, workshop: Workshop, ledger: Ledger, tmp_path: Path) -> None:
        """Those inside are its root's, who is nobody on the host; the others are the host's."""
        for directory in (tmp_path, *tmp_path.parents[:-2]):
            directory.chmod(directory.stat().st_mode | 0o055)
        ledger.directory.chmod(0o777)
        log = ledger.directory / "log"
        log.touch()
        log.chmod(0o666)
        places = {moment: "/log" if moment == "startContainer" else ledger.directory for moment in _STATES}
        hooks = {moment: [ledger.hook(moment, then=f"touch {place}/{moment}")] for moment, place in places.items()}
        spec = ledger.spec(workshop, "true", **hooks)
        spec["linux"]["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            spec["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        container = workshop.container(spec, rootfs=(Mount("bind", str(workshop.tree), ("rbind", "idmap")),))
        container.run()
        container.delete()
        assert sorted(ledger.names()) == sorted(_STATES)
        calls = {call.name: call.state for call in ledger.calls()}
        assert calls["createRuntime"]["pid"] == container.main.pid
        owners = {moment: (ledger.directory / moment).stat().st_uid for moment in _STATES}
        inside = ("createContainer", "startContainer")
        assert owners == {moment: 100000 if moment in inside else 0 for moment in _STATES}

    def test_a_hook_that_leaves_someone_with_its_output_is_not_waited_for(self, workshop: Workshop, ledger: Ledger) -> None:
        """Nor is one that is killed for its lateness, with what it had said by then."""
        left = ledger.hook("createRuntime", then=f"sleep 1000 & echo $! > {ledger.directory}/left")
        late = ledger.hook("createRuntime", then="echo so far; exec sleep 1000", timeout=1)
        with pytest.raises(System, match=r"createRuntime\[1\] /bin/sh: it ran past its timeout of 1 s and was killed: so far"):
            workshop.container(ledger.spec(workshop, createRuntime=[left, late])).create()
        pid = int((ledger.directory / "left").read_text())
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    def test_what_a_hook_mounts_in_the_bundles_root_is_in_the_container(self, workshop: Workshop, ledger: Ledger) -> None:
        """And nowhere else: its namespace is the container's."""
        (ledger.directory / "file").write_text("from a hook\n")
        place = f"{workshop.tree}/tmp"
        then = f"mount --bind {ledger.directory} {place}"
        spec = ledger.spec(workshop, "cat /tmp/file", createContainer=[ledger.hook("createContainer", then=then)])
        spec["root"]["path"] = str(workshop.tree)
        assert workshop.container(spec, rootfs=()).run().text == "from a hook"
        assert not Path(place, "file").exists()

    @pytest.mark.parametrize("moment", ["prestart", "createContainer", "startContainer", "poststop"])
    def test_a_hook_has_three_descriptors_and_default_signals(
        self, workshop: Workshop, ledger: Ledger, tmp_path: Path, moment: str
    ) -> None:
        where = "/log" if moment == "startContainer" else str(ledger.directory)
        then = f"for fd in /proc/self/fd/*; do readlink $fd; done > {where}/fds; grep SigIgn /proc/self/status > {where}/signals"
        spec = ledger.spec(workshop, "true", **{moment: [ledger.hook(moment, then=then)]})
        container = workshop.container(spec, rootfs=copy_on_write(workshop.tree, tmp_path))
        container.run()
        container.delete()
        fds = (ledger.directory / "fds").read_text().splitlines()
        assert len([fd for fd in fds if "/proc/" not in fd and not fd.startswith(where)]) <= 3
        ignored = int((ledger.directory / "signals").read_text().split()[1], 16)
        assert ignored & ~_NOT_OURS == 0

    def test_a_hook_inside_is_under_the_rights_and_the_filter_of_the_container(
        self, workshop: Workshop, ledger: Ledger, tmp_path: Path
    ) -> None:
        """A `startContainer` hook is a file of the image: it gets what the image's program gets."""
        then = "grep -E '^(Seccomp|NoNewPrivs|CapEff|Uid)' /proc/self/status > /log/status"
        spec = ledger.spec(workshop, "true", startContainer=[ledger.hook("startContainer", then=then)])
        spec["process"] |= {"user": {"uid": 1000, "gid": 1000}, "noNewPrivileges": True}
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
        os.chmod(ledger.directory, 0o777)
        workshop.container(spec, rootfs=copy_on_write(workshop.tree, tmp_path)).run()
        found = dict(line.split(":\t") for line in (ledger.directory / "status").read_text().splitlines())
        assert found["Uid"].split() == ["1000"] * 4
        assert (found["NoNewPrivs"], found["Seccomp"], int(found["CapEff"], 16)) == ("1", "2", 0)

    def test_the_engine_is_not_run_by_a_hook_of_the_image(self, workshop: Workshop, ledger: Ledger, tmp_path: Path) -> None:
        """CVE-2019-5736 by another door: the hook's path is a link to the engine's executable."""
        rootfs = copy_on_write(workshop.tree, tmp_path)
        (tmp_path / "upper/hook").symlink_to("/proc/self/exe")
        container = workshop.container(ledger.spec(workshop, startContainer=[{"path": "/hook"}]), rootfs=rootfs)
        container.create()
        with pytest.raises(Forbidden, match="engine's own executable"):
            container.start()

    def test_a_container_that_fails_by_itself_waits_for_no_hook(self, workshop: Workshop, ledger: Ledger) -> None:
        spec = ledger.spec(workshop, prestart=[ledger.hook("prestart")], poststop=[ledger.hook("poststop")])
        spec["mounts"].append({"destination": "/x", "type": "no-such-type", "source": "x", "options": []})
        with pytest.raises(System, match="no-such-type"):
            workshop.container(spec).create()
        assert ledger.names() == ["poststop"]

    def test_a_state_larger_than_a_pipe_arrives(self, workshop: Workshop, ledger: Ledger) -> None:
        spec = ledger.spec(workshop, createRuntime=[ledger.hook("createRuntime")])
        spec["annotations"] = {"key": "x" * 100_000}
        workshop.container(spec).create()
        assert ledger.calls()[0].state["annotations"] == spec["annotations"]

    @pytest.mark.parametrize(
        ("hook", "words"),
        [
            ({"path": "bin/sh"}, "is not absolute"),
            ({"path": "/bin/sh", "timeout": 0}, "not greater than zero"),
            ({"path": "/bin/sh", "timeout": float("nan")}, "not greater than zero"),
            ({"path": "/bin/sh", "args": ["a\0b"]}, "NUL"),
            ({"path": "/bin/sh", "env": ["=x"]}, "no name"),
        ],
    )
    def test_what_is_no_hook_is_refused(self, workshop: Workshop, ledger: Ledger, hook: Spec, words: str) -> None:
        with pytest.raises(InvalidArgument, match=words):
            workshop.container(ledger.spec(workshop, poststop=[hook])).create()

    def test_a_timeout_without_end_is_none(self, workshop: Workshop, ledger: Ledger) -> None:
        spec = ledger.spec(workshop, createRuntime=[ledger.hook("createRuntime", timeout=2**63)])
        workshop.container(spec).create()
        assert ledger.names() == ["createRuntime"]

    def test_what_is_kept_is_plain(self, workshop: Workshop, ledger: Ledger) -> None:
        """`start` and `delete` of a later release read it."""
        spec = ledger.spec(workshop, "sleep 1000", poststop=[ledger.hook("poststop", timeout=7)])
        container = workshop.container(spec).create()
        kept = json.loads((container.directory / "state/hooks").read_text())
        assert kept["state"]["id"] == container.id
        assert kept["moments"]["poststop"][0]["timeout"] == 7


_NOT_OURS = 3 << 31 | 1 << signal.SIGQUIT - 1
"""32 and 33, which the C library's posix_spawn ignores, and what busybox's shell does."""

_STATES = {
    "prestart": ("creating", "host"), "createRuntime": ("creating", "host"), "createContainer": ("creating", "inside"),
    "startContainer": ("created", "inside"), "poststart": ("running", "host"), "poststop": ("stopped", ""),
}  # fmt: skip
