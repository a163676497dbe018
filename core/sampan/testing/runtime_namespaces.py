"""The runtime suite: user namespaces, and namespaces that are there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.api.runtime import Mount, RuntimeCapability, Spec
from sampan.linux.namespaces import IdRange, new_netns, new_userns
from sampan.testing.containers import Container
from sampan.testing.runtime_ground import Workshop, shell
from sampan.testing.selection import needs

__all__ = ["NamespaceCases"]

OUTSIDE, COUNT = 200000, 65536
"""What id 0 of a container is on the host, and how many ids it has."""


class NamespaceCases:
    """A container's root is nobody on the host, and shares only what it is given."""

    @needs(RuntimeCapability.USER_NAMESPACE)
    def test_user_namespace_given(self, workshop: Workshop) -> None:
        """The engine's user namespace is joined, and owns all others; the container's root is root there, and nobody outside."""
        with _given(workshop, "cat; sleep 1000") as (container, userns):
            namespaces = {kind: os.readlink(f"/proc/{container.main.pid}/ns/{kind}") for kind in ("user", "net", "pid")}
            assert namespaces["user"] == f"user:[{os.fstat(userns).st_ino}]"
            assert _owners(container.main.pid) == {OUTSIDE}
            found = container.exec(shell("id -u; id -g; cat /proc/self/uid_map"))
            assert (found.lines[:2], found.lines[2].split()) == (["0", "0"], ["0", str(OUTSIDE), str(COUNT)])

    @needs(RuntimeCapability.USER_NAMESPACE)
    def test_root_shown_through_a_user_namespace(self, workshop: Workshop) -> None:
        """Files of the root are the container's; what it writes belongs on disk to whom it would without a user namespace."""
        script = "stat -c %u:%g / /etc/passwd && chown 7:8 /tmp/made && stat -c %u:%g /tmp/made"
        made = workshop.tree / "tmp/made"
        made.touch()
        try:
            with _given(workshop, "sleep 1000") as (container, _):
                found = container.exec(shell(script))
                assert found.lines == ["0:0", "0:0", "7:8"], found.stderr
                status = made.stat()
            assert (status.st_uid, status.st_gid) == (7, 8)
        finally:
            made.unlink()

    @needs(RuntimeCapability.USER_NAMESPACE)
    @pytest.mark.parametrize("user", [0, 1000])
    def test_streams_in_a_user_namespace(self, workshop: Workshop, user: int) -> None:
        """Who the process is there can open its own streams by name, in exec too."""
        script = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin"
        ids = {"uid": user, "gid": user, "additionalGids": []}
        with _given(workshop, "sleep 1000") as (container, _):
            output = container.exec(shell(script, user=ids), b"in")
        assert (output.stdout, output.stderr) == (b"out\nin", b"err\n")

    @needs(RuntimeCapability.USER_NAMESPACE)
    def test_devices_in_a_user_namespace(self, workshop: Workshop) -> None:
        """The usual devices work though nobody in there may make a node; making one fails."""
        script = "head -c 3 /dev/zero | wc -c; echo gone >/dev/null; stat -c %t:%T /dev/null; mknod /tmp/null c 1 3 || echo refused"
        with _given(workshop, "sleep 1000") as (container, _):
            assert container.exec(shell(script)).lines == ["3", "1:3", "refused"]

    @needs(RuntimeCapability.USER_NAMESPACE)
    def test_user_namespace_of_the_spec(self, workshop: Workshop) -> None:
        """A new one is made with the maps of the spec, of several ranges, and nothing of it is left."""
        spec = workshop.spec("cat /proc/self/uid_map /proc/self/gid_map; id -u; id -G")
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"]["uidMappings"] = [_map(0, OUTSIDE, 10), _map(10, OUTSIDE + 100, 5)]
        spec["linux"]["gidMappings"] = [_map(0, OUTSIDE + 1, 20)]
        for mount in spec["mounts"]:
            mount["options"] = [each for each in mount["options"] if each != "gid=5"]
        spec["process"]["user"] = {"uid": 3, "gid": 4, "additionalGids": [5]}
        lines = [line.split() for line in workshop.container(spec).run().lines]
        assert lines == [
            ["0", str(OUTSIDE), "10"], ["10", str(OUTSIDE + 100), "5"], ["0", str(OUTSIDE + 1), "20"], ["3"], ["4", "5"],
        ]  # fmt: skip

    @needs(RuntimeCapability.USER_NAMESPACE)
    def test_score_and_limits_in_a_user_namespace(self, workshop: Workshop) -> None:
        """They are set though only the host's root may, in exec as well."""
        fields: Spec = {"oomScoreAdj": 321, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]}
        script = "cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn"
        with _given(workshop, f"{script}; sleep 1000", **fields) as (container, _):
            assert container.main.read_until(b"200\n").split() == [b"321", b"100", b"200"]
            assert container.exec(shell(script, **fields)).lines == ["321", "100", "200"]

    @needs(RuntimeCapability.USER_NAMESPACE)
    def test_terminal_in_a_user_namespace(self, workshop: Workshop) -> None:
        """It is the container's own: root in there may change its owner, and /dev/console shows it."""
        with _given(workshop, "sleep 1000", terminal=True) as (container, _):
            process = container.start_exec(shell("chown 5 $(tty) && stat -c %u $(tty); exit 3", terminal=True))
            assert process.read_until(b"5\r\n").split() == [b"5"]
            assert process.wait() == 3
            assert container.exec(shell("stat -c %t:%T:%u /dev/console")).text.endswith(":0")

    @pytest.mark.parametrize(("kind", "file"), [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid"), ("cgroup", "cgroup")])
    def test_namespace_of_another_container(self, workshop: Workshop, kind: str, file: str) -> None:
        """One at a path is joined, the others are new; what is in it stays as it is when the second container goes."""
        spec = workshop.spec("sleep 1000")
        if kind == "cgroup":
            spec["linux"]["namespaces"].append({"type": "cgroup"})
        first = workshop.idle(spec)
        joiner = workshop.spec("sleep 1000")
        joiner["linux"]["namespaces"] = [each for each in joiner["linux"]["namespaces"] if each["type"] != kind]
        joiner["linux"]["namespaces"].append({"type": kind, "path": f"/proc/{first.main.pid}/ns/{file}"})
        second = workshop.idle(joiner)
        namespaces = {_namespace(each.main.pid, file) for each in (first, second)}
        assert len(namespaces) == 1
        assert _namespace(os.getpid(), file) not in namespaces
        assert _namespace(first.main.pid, "mnt") != _namespace(second.main.pid, "mnt")
        second.delete()
        assert first.processes() == (first.main.pid,)

    @needs(RuntimeCapability.EXEC)
    def test_processes_of_a_shared_pid_namespace(self, workshop: Workshop) -> None:
        """Each sees the other's, exec too, and the end of the first is the end of both."""
        first = workshop.idle(workshop.spec("exec sleep 1001"))
        joiner = workshop.spec("exec sleep 1002")
        joiner["linux"]["namespaces"] = [each for each in joiner["linux"]["namespaces"] if each["type"] != "pid"]
        joiner["linux"]["namespaces"].append({"type": "pid", "path": f"/proc/{first.main.pid}/ns/pid"})
        second = workshop.idle(joiner)
        for each in (first, second):
            found = each.exec(shell("cat /proc/[0-9]*/cmdline")).stdout
            assert b"sleep\0001001\0" in found
            assert b"sleep\0001002\0" in found
        first.signal(9)
        assert second.main.wait() == 137

    @needs(RuntimeCapability.USER_NAMESPACE)
    def test_user_namespace_of_another_container(self, workshop: Workshop) -> None:
        """It is joined by its path with no map in the spec, and owns what is new."""
        first = workshop.idle(_in_user_namespace(workshop.spec("sleep 1000")))
        joiner = workshop.spec("cat /proc/self/uid_map; readlink /proc/self/ns/user; hostname other && hostname; sleep 1000")
        joiner["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{first.main.pid}/ns/user"})
        for kind in ("bounding", "effective", "permitted"):
            joiner["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
        second = workshop.idle(joiner)
        found = second.main.read_until(b"other\n").decode().split()
        assert found == ["0", str(OUTSIDE), str(COUNT), _namespace(first.main.pid, "user"), "other"]

    @needs(RuntimeCapability.TIME_NAMESPACE, RuntimeCapability.EXEC)
    def test_clocks_of_its_own(self, workshop: Workshop) -> None:
        """The clocks differ by what the spec says, for exec too; the host's go on as they were."""
        days = 1000 * 86400
        spec = workshop.spec("sleep 1000")
        spec["linux"]["namespaces"].append({"type": "time"})
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": days, "nanosecs": 5}, "monotonic": {"secs": 10}}
        container = workshop.idle(spec)
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        for text in (container.exec(shell("cat /proc/uptime")).text, container.exec(shell("cat /proc/1/root/proc/uptime")).text):
            assert 0 <= float(text.split()[0]) - days - uptime < 60
        assert float(Path("/proc/uptime").read_text().split()[0]) < uptime + 60


@contextmanager
def _given(workshop: Workshop, script: str, **process: Any) -> Iterator[tuple[Container, int]]:
    """Give a running container in a user namespace of the engine's, with a network of that one's, its root shown through it."""
    ranges = [IdRange(0, OUTSIDE, COUNT)]
    userns = new_userns(ranges, ranges)
    netns = new_netns(userns)
    try:
        root = (Mount("bind", str(workshop.tree), ("rbind", "idmap")),)
        yield workshop.idle(_in_user_namespace(workshop.spec(script, **process)), rootfs=root, netns=netns, userns=userns), userns
    finally:
        os.close(userns)
        os.close(netns)


def _in_user_namespace(spec: Spec) -> Spec:
    """Add what the engine writes of a user namespace that it gives."""
    spec["linux"]["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        spec["linux"][key] = [_map(0, OUTSIDE, COUNT)]
    return spec


def _map(inside: int, outside: int, count: int) -> Spec:
    return {"containerID": inside, "hostID": outside, "size": count}


def _namespace(pid: int, file: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{file}")


def _owners(pid: int) -> set[int]:
    """Give whose a process is, on the host: user and group, real to file system."""
    fields = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {int(number) for name, *numbers in fields if name in ("Uid:", "Gid:") for number in numbers}
