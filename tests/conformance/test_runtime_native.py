"""The suite on the native driver, and what is the native driver's own: attacks on how it builds a root, and refusals."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

from sampan.api.errors import Forbidden, InvalidArgument, System, Unsupported
from sampan.api.runtime import Mount
from sampan.linux.cgroups import Cgroup, detect, favor_moves, leave_moves
from sampan.linux.readonly_file import open_readonly_file
from sampan.testing.rootfs import build_rootfs
from sampan.testing.runtime import RuntimeDriverSuite, Workshop
from sampan.testing.spec import process_spec
from sampan_runtime_native.driver import NativeRuntime

TERMINAL_SIZE = {"height": 25, "width": 80}


@pytest.fixture(scope="module", autouse=True)
def quick_moves(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As the daemon has it: moves between v1 cgroups don't wait."""
    place = tmp_path_factory.mktemp("moves") / "name=sampan"  # runc mounts a hierarchy by the last part of its path
    favor_moves(place)
    yield
    leave_moves(place)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A root file system to put traps in."""
    return build_rootfs(tmp_path / "hostile")


def bound(tree: Path) -> tuple[Mount, ...]:
    return (Mount("bind", str(tree), ("rbind",)),)


class TestNative(RuntimeDriverSuite):
    driver_class = NativeRuntime
    require_supported = True

    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_engine_is_not_run_from_a_container(self, workshop: Workshop, hostile: Path, depth: int) -> None:
        """A02: the entrypoint is a link to the engine's executable, or a script that has it run, or a script of such."""
        (hostile / "entry0").symlink_to("/proc/self/exe")
        for number in (1, 2):
            target = "/proc/self/exe" if number == 1 else "/entry1"
            (hostile / f"entry{number}").write_text(f"#!{target}\n")
            (hostile / f"entry{number}").chmod(0o755)
        container = workshop.idle(rootfs=bound(hostile))
        with pytest.raises(Forbidden, match="engine's own executable"):
            container.exec(process_spec([f"/entry{depth}"]))
        spec = workshop.spec("true")
        spec["process"]["args"] = [f"/entry{depth}"]
        with pytest.raises(Forbidden, match="engine's own executable"):
            workshop.container(spec, rootfs=bound(hostile)).run()

    def test_executable_from_a_readonly_mount_cannot_be_written(self, tmp_path: Path) -> None:
        program = tmp_path / "program"
        program.write_bytes(b"x")
        fd = open_readonly_file(program)
        try:
            with pytest.raises(OSError, match="Read-only") as caught:
                os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
            assert caught.value.errno == errno.EROFS
        finally:
            os.close(fd)

    def test_null_device_of_the_image_is_not_trusted(self, workshop: Workshop, hostile: Path) -> None:
        """A03: without a tmpfs at /dev, the image's own /dev/null would be what masks paths."""
        (hostile / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
        spec = workshop.spec("true")
        spec["mounts"] = [each for each in spec["mounts"] if not each["destination"].startswith("/dev")]
        with pytest.raises(Forbidden, match="/dev/null"):
            workshop.container(spec, rootfs=bound(hostile)).run()

    def test_console_of_the_image_is_not_used(self, workshop: Workshop, hostile: Path) -> None:
        """A04: /dev/console in the image leads to procfs; the terminal's mount lands on a new file."""
        (hostile / "dev/console").symlink_to("/proc/self/mem")
        (hostile / "dev/pts").mkdir()
        spec = workshop.spec("test ! -L /dev/console && tty && mount | grep -c console", terminal=True)
        spec["process"]["consoleSize"] = TERMINAL_SIZE
        spec["mounts"] = [each for each in spec["mounts"] if each["destination"] not in ("/dev", "/dev/mqueue", "/dev/shm")]
        assert workshop.container(spec, rootfs=bound(hostile)).run().lines == ["/dev/pts/0", "1"]

    def test_terminal_has_its_size_from_the_first_moment(self, workshop: Workshop) -> None:
        """Stricter than the suite, which lets a runtime set it a little later."""
        container = workshop.idle(workshop.spec("stty size; exec sleep 1000", terminal=True, consoleSize=TERMINAL_SIZE))
        assert container.main.read_until(b"\r\n") == b"25 80\r\n"
        process = container.start_exec(process_spec(["stty", "size"], terminal=True, consoleSize=TERMINAL_SIZE))
        assert process.finish().text == "25 80"

    def test_sysctls_do_not_pass_through_the_image(self, workshop: Workshop, hostile: Path) -> None:
        """A05: the container's /proc is a volume with a trap in it; the parameter is set in the kernel all the same."""
        trap = hostile / "trap"
        (trap / "sys/net/ipv4").mkdir(parents=True)
        (trap / "sys/net/ipv4/ip_forward").symlink_to("/etc/passwd")
        before = (hostile / "etc/passwd").read_text()
        spec = workshop.spec("mount -t proc proc /run; cat /run/sys/net/ipv4/ip_forward")
        spec["mounts"] = [each for each in spec["mounts"] if each["destination"] != "/proc"]
        spec["mounts"].append({"destination": "/proc", "type": "bind", "source": str(trap), "options": ["bind"]})
        spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
        assert workshop.container(spec, rootfs=bound(hostile)).run().text == "1"
        assert (hostile / "etc/passwd").read_text() == before

    def test_cgroup_of_another_container_is_refused_and_left_alone(self, workshop: Workshop) -> None:
        first = workshop.idle()
        spec = workshop.spec("true")
        spec["linux"]["cgroupsPath"] = first.spec["linux"]["cgroupsPath"]
        with pytest.raises(System, match="has processes"):
            workshop.container(spec).create()
        assert first.exec(process_spec(["true"])).code == 0

    def test_cgroup_that_takes_no_processes_is_told(self, workshop: Workshop) -> None:
        """v2 has cgroups of threads alone, and what is below them takes nothing at all."""
        spec = workshop.spec("true")
        above = spec["linux"]["cgroupsPath"] + "-threads"
        spec["linux"]["cgroupsPath"] = above + "/container"
        parent = Cgroup(above)
        parent.create()
        try:
            Path(parent.directory(), "cgroup.type").write_text("threaded")
            with pytest.raises(Unsupported, match="what is above it is threaded"):
                workshop.container(spec).create()
            assert not Cgroup(above + "/container").exists()
        finally:
            parent.remove()

    def test_cgroups_that_a_hostile_container_leaves(self, workshop: Workshop) -> None:
        """Too deep for any path, threaded, frozen: all goes with the container."""
        place = "/sys/fs/cgroup" if detect().version == "v2" else "/sys/fs/cgroup/pids"
        name = "d" * 200
        script = (
            f"cd {place}; for i in $(seq 40); do mkdir {name} && cd {name}; done; echo $$ >cgroup.procs; echo done; "
            f"mkdir {place}/other && echo threaded >{place}/other/cgroup.type; sleep 1000"
        )
        spec = workshop.spec(script)
        for mount in spec["mounts"]:
            if mount["destination"] == "/sys/fs/cgroup":
                mount["options"].remove("ro")
        container = workshop.idle(spec)
        container.main.read_until(b"done")
        assert container.main.pid in container.processes()
        container.delete()
        assert not Cgroup(spec["linux"]["cgroupsPath"]).exists()

    def test_missing_working_directory_is_made(self, workshop: Workshop, hostile: Path) -> None:
        (hostile / "dangling").symlink_to("/made/by/link")
        spec = workshop.spec("pwd", cwd="/dangling/deep")
        assert workshop.container(spec, rootfs=bound(hostile)).run().text == "/made/by/link/deep"
        assert (hostile / "made/by/link/deep").is_dir()
        assert not Path("/made").exists()

    def test_limit_above_the_engines_own_is_cut(self, workshop: Workshop) -> None:
        """Without CAP_SYS_RESOURCE the kernel refuses; with it the limit is what was asked for."""
        ceiling = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        limits = [{"type": "RLIMIT_NOFILE", "soft": 1 << 19, "hard": 1 << 19}]
        found = int(workshop.run("ulimit -Hn", rlimits=limits).text)
        assert found in (ceiling, 1 << 19)

    @pytest.mark.parametrize(
        ("change", "kind", "words"),
        [
            ({"namespaces": [{"type": kind} for kind in ("mount", "uts", "user")]}, InvalidArgument, "needs linux.uidMappings"),
            ({"namespaces": [{"type": "pid"}]}, Unsupported, "mount namespace"),
            ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, InvalidArgument, "come together"),
            ({"sysctl": {"kernel.core_pattern": "x"}}, InvalidArgument, "not in a separate kernel namespace"),
            ({"sysctl": {"net.nothing.here": "1"}}, InvalidArgument, "does not exist"),
            ({"cgroupsPath": "/a/../../b"}, InvalidArgument, "cgroup path"),
            ({"cgroupsPath": "system.slice:sampan:one"}, Unsupported, "slices and scopes of systemd"),
            ({"resources": {"network": {"classID": 1}}}, Unsupported, "no cgroup controller net_cls"),
            ({"resources": {"memory": {"kernel": 1 << 30}}}, Unsupported, "kernel memory"),
            ({"resources": {"cpu": {"cpus": "4000"}}}, System, "cpuset.cpus"),
            ({"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}}, InvalidArgument, "SCMP_ACT_NOTIFY"),
            ({"seccomp": {"defaultAction": "SCMP_ACT_DANCE"}}, InvalidArgument, "SCMP_ACT_DANCE"),
        ],
    )
    def test_what_it_cannot_do_is_refused(
        self, workshop: Workshop, change: dict[str, Any], kind: type[Exception], words: str
    ) -> None:
        spec = workshop.spec("true")
        spec["linux"].update(change)
        with pytest.raises(kind, match=words):
            workshop.container(spec).run()

    def test_call_has_one_thread(self) -> None:
        """What the driver's clone relies on, and what the shim gives it."""
        assert threading.active_count() == 1
