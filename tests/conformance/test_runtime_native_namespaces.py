"""Namespaces of the native driver where it is stricter than the suite, or alone; and what root of a user namespace tries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sampan.api.errors import InvalidArgument, SampanError, Unsupported
from sampan.api.runtime import Mount, Spec
from sampan.linux.capabilities import names
from sampan.linux.namespaces import CLONE_NEWUSER, unshare
from sampan.testing.runtime_ground import RuntimeGround, Workshop, shell
from sampan_runtime_native.driver import NativeRuntime

OUTSIDE, COUNT = 210000, 65536

ATTACKS = {
    "write to a parameter of the kernel": ": >> /proc/sys/kernel/core_pattern",
    "read a file of the host's root": "cat /secret/file",
    "write to a file of the host's root": ": >> /secret/file",
    "make a device": "mknod /tmp/memory c 1 1 && rm /tmp/memory",
    "go on as who one is outside": "grep -q '^ *0 *0 *4294967295$' /proc/self/uid_map",
    "give a file to who is not there": "touch /tmp/gift && chown 70000 /tmp/gift",
}
"""What works for root of the host's user namespace that has all capabilities, and must not for root of another. Harmless where it does."""


class TestNativeNamespaces(RuntimeGround):
    driver_class = NativeRuntime
    require_supported = True

    @pytest.mark.parametrize("attack", ATTACKS)
    @pytest.mark.parametrize("own", [True, False], ids=["in a user namespace", "without"])
    def test_root_of_a_user_namespace_is_nobody(self, workshop: Workshop, tmp_path: Path, attack: str, own: bool) -> None:  # noqa: FBT001
        """Nothing protects the host but the user namespace: without it each attack bites."""
        secret = tmp_path / "secret"
        secret.mkdir(mode=0o700)
        (secret / "file").touch(mode=0o600)
        spec = _unconfined(workshop.spec(ATTACKS[attack]))
        spec["mounts"].append({"destination": "/secret", "type": "bind", "source": str(secret), "options": ["bind"]})
        root = (Mount("bind", str(workshop.tree), ("rbind", "idmap")),) if own else None
        output = workshop.container(_in_user_namespace(spec) if own else spec, rootfs=root).run()
        assert (output.code == 0) == (not own), output.stderr

    def test_processes_outside_are_out_of_reach(self, workshop: Workshop) -> None:
        """In the host's pid namespace too: with all capabilities root of a user namespace signals and looks into nobody outside."""
        spec = _in_user_namespace(_unconfined(workshop.spec(f"kill -0 {os.getpid()}; echo $?; ls /proc/{os.getpid()}/fd; echo $?")))
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]
        spec["mounts"] = [each for each in spec["mounts"] if each["destination"] != "/proc"]
        with pytest.raises(SampanError, match="mount proc: the container's user namespace does not own its pid namespace"):
            workshop.container(spec).create()

    def test_a_network_of_the_hosts_has_no_sysfs_in_a_user_namespace(self, workshop: Workshop) -> None:
        spec = _in_user_namespace(workshop.spec("true"))
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "network"]
        with pytest.raises(SampanError, match="mount sysfs at /sys") as caught:
            workshop.container(spec).create()
        assert "network namespace that this one owns" in caught.value.remedy

    def test_who_may_set_no_groups_has_none(self, workshop: Workshop) -> None:
        """A user namespace of a user's forbids setgroups(2) for good: the groups of the engine are dropped all the same."""
        userns = _userns_without_groups()
        before = os.getgroups()
        os.setgroups([7])
        try:
            container = workshop.idle(_joining(workshop, userns, []))
            assert container.main.read_until(b"\n") == b"0\n"
            nobody_else = {"uid": 0, "gid": 0, "additionalGids": []}
            assert container.exec(shell("grep Groups /proc/self/status", user=nobody_else)).text.split() == ["Groups:"]
            with pytest.raises(SampanError, match="not permitted"):
                workshop.container(_joining(workshop, userns, [0])).create()
        finally:
            os.setgroups(before)
            os.close(userns)

    def test_devices_of_any_kind_in_a_user_namespace(self, workshop: Workshop) -> None:
        spec = _in_user_namespace(workshop.spec("cd /dev/mine; stat -c '%F %t:%T %a %u:%g' null disk pipe; echo x > null; cat ../zero | head -c 1 | wc -c"))
        spec["linux"]["devices"] = [
            {"path": "/dev/mine/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o622, "uid": 7, "gid": 8},
            {"path": "/dev/mine/disk", "type": "b", "major": 7, "minor": 200, "fileMode": 0o600},
            {"path": "/dev/mine/pipe", "type": "p", "fileMode": 0o640, "uid": 9},
        ]
        output = workshop.container(spec, rootfs=(Mount("bind", str(workshop.tree), ("rbind", "idmap")),)).run()
        assert output.lines == [
            "character special file 1:3 622 7:8", "block special file 7:c8 600 0:0", "fifo 0:0 640 9:0", "1",
        ]  # fmt: skip
        assert output.stderr == b""

    def test_a_volume_shown_through_the_containers_user_namespace(self, workshop: Workshop, tmp_path: Path) -> None:
        volume = tmp_path / "volume"
        volume.mkdir()
        os.chown(volume, 5, 6)
        spec = _in_user_namespace(workshop.spec("stat -c %u:%g /volume; touch /volume/file"))
        spec["mounts"].append({"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", "idmap"]})
        output = workshop.container(spec, rootfs=(Mount("bind", str(workshop.tree), ("rbind", "idmap")),)).run()
        assert output.text == "5:6"
        assert ((volume / "file").stat().st_uid, (volume / "file").stat().st_gid) == (0, 0)

    def test_terminals_without_their_group(self, workshop: Workshop) -> None:
        """Group 5 owns terminals in every spec; where the map has no 5 they are the user's own."""
        spec = workshop.spec("stat -c %g /dev/pts/0", terminal=True, user={"uid": 0, "gid": 0})
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": OUTSIDE, "size": 1}]
        assert workshop.container(spec).run().text == "0"

    @pytest.mark.parametrize("own", [True, False], ids=["in a user namespace", "without"])
    def test_clocks_are_shared_by_path(self, workshop: Workshop, own: bool) -> None:  # noqa: FBT001
        """A time namespace is made with its offsets wherever it belongs, and another container has the same clocks by its path."""
        days = 2000 * 86400
        spec = workshop.spec("sleep 1000")
        spec["linux"]["namespaces"].append({"type": "time"})
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": days}}
        first = workshop.idle(_in_user_namespace(spec) if own else spec)
        joiner = workshop.spec("cat /proc/uptime")
        joiner["linux"]["namespaces"].append({"type": "time", "path": f"/proc/{first.main.pid}/ns/time"})
        for output in (first.exec(shell("cat /proc/uptime")), workshop.container(joiner).run()):
            assert float(output.text.split()[0]) > days

    def test_personality(self, workshop: Workshop) -> None:
        spec = workshop.spec("uname -m; sleep 1000")
        spec["linux"]["personality"] = {"domain": "LINUX32"}
        container = workshop.idle(spec)
        other = os.uname().machine
        assert container.main.read_until(b"\n").strip().decode() != other
        assert container.exec(shell("uname -m")).text != other

    @pytest.mark.parametrize(
        ("change", "kind", "words"),
        [
            ({"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "pid", "path": "/proc/self/ns/pid"}]}, InvalidArgument, "twice"),
            ({"namespaces": [{"type": "mount", "path": "/proc/self/ns/mnt"}]}, Unsupported, "new mount namespace"),
            ({"namespaces": [{"type": "mount"}, {"type": "dance"}]}, Unsupported, "no dance namespaces"),
            ({"+": {"type": "cgroup", "path": "/proc/self/ns/net"}}, InvalidArgument, "no cgroup namespace"),
            ({"+": {"type": "cgroup", "path": "/etc/passwd"}}, InvalidArgument, "no cgroup namespace"),
            ({"+": {"type": "cgroup", "path": "/no/where"}}, InvalidArgument, "No such file"),
            ({"+": {"type": "user"}, "uidMappings": [{"containerID": 1, "hostID": 1, "size": 1}],
              "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, InvalidArgument, "has no uid 0, gid 10"),
            ({"+": {"type": "user"}, "uidMappings": [{"containerID": 0, "hostID": 1, "size": 0}]}, InvalidArgument, "not positive"),
            ({"timeOffsets": {"boottime": {"secs": 1}}}, InvalidArgument, "new time namespace"),
            ({"+": {"type": "time"}, "timeOffsets": {"realtime": {"secs": 1}}}, InvalidArgument, "no clock that can differ"),
            ({"+": {"type": "time"}, "timeOffsets": {"boottime": {"secs": -(10**9)}}}, SampanError, "out of range"),
            ({"personality": {"domain": "HPUX"}}, InvalidArgument, "LINUX or LINUX32"),
            ({"intelRdt": {"closID": "x"}}, Unsupported, "no Intel RDT"),
            ({"mountLabel": "system_u:object_r:x"}, Unsupported, "SELinux"),
            ({"netDevices": {"eth0": {}}}, Unsupported, "network devices"),
            ({"rootfsPropagation": "sideways"}, InvalidArgument, "rootfsPropagation"),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, workshop: Workshop, change: dict[str, Any], kind: type[SampanError], words: str) -> None:
        spec = workshop.spec("true")
        del spec["hostname"]
        if more := change.pop("+", None):
            spec["linux"]["namespaces"].append(more)
        spec["linux"].update(change)
        with pytest.raises(kind, match=words):
            workshop.container(spec).create()


def _unconfined(spec: Spec) -> Spec:
    """Take away all that protects the host but namespaces: masks, read-only paths, device rules; give all capabilities."""
    spec["linux"] |= {"maskedPaths": [], "readonlyPaths": [], "resources": {"devices": [{"allow": True, "access": "rwm"}]}}
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), [*names((1 << 41) - 1)])
    return spec


def _in_user_namespace(spec: Spec) -> Spec:
    spec["linux"]["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        spec["linux"][key] = [{"containerID": 0, "hostID": OUTSIDE, "size": COUNT}]
    return spec


def _joining(workshop: Workshop, userns: int, groups: list[int]) -> Spec:
    spec = workshop.spec("id -G; sleep 1000", user={"uid": 0, "gid": 0, "additionalGids": groups})
    spec["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{os.getpid()}/fd/{userns}"})
    return spec


def _userns_without_groups() -> int:
    """Give a user namespace as a user without privileges makes it: of one id, and setgroups(2) forbidden."""
    ready, tell = os.pipe()
    done, finish = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(finish)
        unshare(CLONE_NEWUSER)
        os.write(tell, b"!")
        os.read(done, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        Path(f"/proc/{pid}/setgroups").write_text("deny")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {OUTSIDE} 1")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        for fd in (ready, tell, done, finish):
            os.close(fd)
        os.waitpid(pid, 0)
