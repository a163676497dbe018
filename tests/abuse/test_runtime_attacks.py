"""Images, peers and containers that attack the native runtime while it builds a container or joins one (A01–A07 and beyond).

What the attacker reaches for is always something of the test's own. That each attack gets through where its guard is
missing is shown by `test_broken_builds`.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sampan.api.errors import Forbidden, SampanError
from sampan.api.runtime import Mount, Spec
from sampan.linux.syscalls import AT_FDCWD, libc
from sampan.testing.containers import Output
from sampan.testing.rootfs import build_rootfs
from sampan.testing.runtime import RuntimeGround, Workshop
from sampan.testing.spec import process_spec
from sampan_runtime_native.driver import NativeRuntime

EXECS = 12
STARTS = 40
RENAME_EXCHANGE = 2

HUNT = (
    "echo ready; while :; do for p in /proc/[0-9]*; do l=$(readlink $p/exe) && case \"$l\" in '' | /bin/*) ;;"
    ' *) echo "found $l"; ls -l $p/fd;; esac; done; done 2>/dev/null'
)
"""Look for processes that run something else than the container's own program."""

LOADER = r"""
#include <fcntl.h>
#include <sys/syscall.h>
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
void _start(void) {
    char path[256];
    long size = call(SYS_readlink, (long)"/proc/self/exe", (long)path, sizeof path);
    if (call(SYS_open, (long)"/proc/self/exe", O_RDONLY, 0) >= 0) call(SYS_write, 1, (long)path, size);
    call(SYS_exit, 0, 0, 0);
}
"""


def bound(tree: Path) -> tuple[Mount, ...]:
    return (Mount("bind", str(tree), ("rbind",)),)


def without_mounts(spec: Spec, *below: str) -> Spec:
    spec["mounts"] = [each for each in spec["mounts"] if not each["destination"].startswith(below)]
    return spec


def allow(spec: Spec, *capabilities: str) -> Spec:
    for kind in ("bounding", "effective", "permitted"):
        spec["process"]["capabilities"][kind] += capabilities
    return spec


def shell(script: str, **changes: object) -> Spec:
    return process_spec(["/bin/sh", "-c", script], **changes)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A root file system to put traps in."""
    return build_rootfs(tmp_path / "hostile")


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program that says who it runs as. Not busybox, which gives up by itself what a setuid bit gives it."""
    directory = tmp_path_factory.mktemp("helper")
    (directory / "helper.c").write_text('#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%d\\n", geteuid()); return 0; }\n')
    subprocess.run(["gcc", "-static", "-Os", "-o", "helper", "helper.c"], cwd=directory, check=True)
    return (directory / "helper").read_bytes()


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Stands where a dynamic program's loader is, and says which program it is to load."""
    directory = tmp_path_factory.mktemp("loader")
    (directory / "loader.c").write_text(LOADER)
    options = ("-static-pie", "-nostdlib", "-fno-stack-protector", "-Os")
    subprocess.run(["gcc", *options, "-o", "loader", "loader.c"], cwd=directory, check=True)
    return (directory / "loader").read_bytes()


def _interpreter_of(program: str) -> str:
    """Give the loader that an ELF file asks for, as a path below a root."""
    found = re.search(rb"/lib[-\w/.]*/ld-linux[-\w.]*", Path(program).read_bytes()[:4096])
    assert found is not None
    return found[0].decode().lstrip("/")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """An empty directory of the host that nobody gave to a container."""
    (tmp_path / "victim").mkdir()
    return tmp_path / "victim"


@contextmanager
def flipping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names all the while, by a process: the suite's own must have one thread when it forks."""
    pid = os.fork()
    if pid == 0:
        while os.getppid() != 1:
            libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def run(workshop: Workshop, spec: Spec, root: Path) -> Output | None:
    """Run a container to its end; None if it is refused, which is as good as what the caller wants to see."""
    try:
        return workshop.container(spec, rootfs=bound(root)).run()
    except SampanError:
        return None


class TestAttacks(RuntimeGround):
    driver_class = NativeRuntime
    require_supported = True

    # ------------------------------------------------------------ A03: what masks

    @pytest.mark.parametrize(
        "make",
        [
            lambda path: path.symlink_to("/proc/sys/kernel/hostname"),
            lambda path: path.symlink_to("/bin/busybox"),
            lambda path: os.mkfifo(path),
            lambda path: path.mkdir(),
            lambda path: path.write_text("of the image"),
            lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 11)),
            lambda path: os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(1, 3)),
        ],
        ids=["kernel file", "program", "fifo", "directory", "file", "kmsg", "block device"],
    )
    def test_image_does_not_choose_what_masks(self, workshop: Workshop, hostile: Path, make: Callable[[Path], None]) -> None:
        """CVE-2025-31133: what lies at the image's /dev/null would be bound, writable, where a file is to be hidden."""
        make(hostile / "dev/null")
        spec = without_mounts(workshop.spec("stat -c %t:%T /proc/keys /proc/kcore /proc/timer_list"), "/dev")
        output = run(workshop, spec, hostile)
        assert output is None or set(output.lines) == {"1:3"}

    def test_missing_null_device_does_not_leave_paths_bare(self, workshop: Workshop, hostile: Path) -> None:
        """The other half of CVE-2025-31133: without a /dev/null there was nothing to hide files with, and nobody said so."""
        spec = without_mounts(workshop.spec("stat -c %t:%T /proc/keys /proc/kcore"), "/dev")
        (hostile / "dev").rmdir()
        (hostile / "dev").write_text("no directory")
        output = run(workshop, spec, hostile)
        assert output is None or set(output.lines) == {"1:3"}

    # ------------------------------------------------------------ A04, A06, A07: places

    @pytest.mark.parametrize("what", ["device", "mount", "file", "terminal"])
    def test_nothing_is_made_through_a_link_that_leads_out(self, workshop: Workshop, hostile: Path, victim: Path, what: str) -> None:
        """CVE-2026-41579 and its family: a directory of the image is a link to a directory of the host."""
        (hostile / "place").symlink_to(victim)
        spec = workshop.spec("true", terminal=what == "terminal")
        if what == "device":
            spec["linux"]["devices"] = [{"path": "/place/node", "type": "c", "major": 1, "minor": 3}]
        elif what == "terminal":
            without_mounts(spec, "/dev")
            (hostile / "dev/pts").mkdir()
            (hostile / "dev/console").symlink_to(victim / "console")
            spec["mounts"].append({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]})
        else:
            source = "/etc/hostname" if what == "file" else "tmpfs"
            kind = "bind" if what == "file" else "tmpfs"
            options = ["bind"] if what == "file" else []
            spec["mounts"].append({"destination": "/place/deep/er", "type": kind, "source": source, "options": options})
        run(workshop, spec, hostile)
        assert list(victim.iterdir()) == []

    @pytest.mark.parametrize(
        ("place", "kind"), [("dev", "tmpfs"), ("sys", "sysfs"), ("proc", "proc"), ("dev/pts", "devpts"), ("dev/shm", "tmpfs")]
    )
    def test_no_file_system_of_the_kernel_lands_outside(
        self, workshop: Workshop, hostile: Path, victim: Path, place: str, kind: str
    ) -> None:
        """Attached through a link that leads out, a file system would be the host's for a moment, and missing inside."""
        if "/" not in place:
            (hostile / place).rmdir()
        (hostile / place).symlink_to(victim)
        spec = workshop.spec("cat /proc/self/mountinfo; ls /dev")
        spec["mounts"] = [each for each in spec["mounts"] if each["destination"] in (f"/{place}", "/proc")]
        output = run(workshop, spec, hostile)
        assert list(victim.iterdir()) == []
        assert output is None or f" - {kind} " in output.text

    def test_mount_stays_in_the_root_while_its_place_is_flipped(self, workshop: Workshop, hostile: Path, victim: Path) -> None:
        """CVE-2021-30465: a peer exchanges a directory of a shared volume and a link that leads out, without a pause."""
        shared = hostile / "shared"
        (shared / "real").mkdir(parents=True)
        (shared / "link").symlink_to(victim)
        spec = workshop.spec("true")
        spec["mounts"] += [
            {"destination": "/shared", "type": "bind", "source": str(shared), "options": ["bind"]},
            {"destination": "/shared/real/deep", "type": "tmpfs", "source": "tmpfs", "options": []},
        ]
        with flipping(shared / "real", shared / "link"):
            for _ in range(STARTS):
                run(workshop, spec, hostile)
                assert list(victim.iterdir()) == []
                for place in shared.iterdir():
                    with suppress(OSError):
                        (place / "deep").rmdir()

    # ------------------------------------------------------------ A05: the kernel's files

    @pytest.mark.parametrize("name", ["net/../kernel/hostname", "net.ipv4/../../kernel/hostname", "net//../kernel/hostname", "net/./../kernel/hostname"])
    def test_sysctl_stays_in_its_directory(self, workshop: Workshop, name: str) -> None:
        """The parameter is one of the container's own UTS namespace, so that a hole changes nothing outside."""
        spec = workshop.spec("hostname")
        spec["linux"]["sysctl"] = {name: "overwritten"}
        with pytest.raises(SampanError):
            workshop.container(spec).run()

    def test_exec_writes_to_no_procfs_of_the_container(self, workshop: Workshop) -> None:
        """CVE-2019-16884: the container covers /proc by files of its own, and what the runtime sets lands there."""
        cover = (
            "cat /proc/self/status > /dev/shm/status; mount -t tmpfs tmpfs /proc; cd /proc; mkdir self thread-self $(seq 1 200); "
            "for n in *; do echo untouched > $n/oom_score_adj; done; cat /dev/shm/status > self/status; echo > self/exe; "
            "echo ready; exec sleep 1000"
        )
        container = workshop.idle(allow(workshop.spec(cover), "CAP_SYS_ADMIN"))
        container.main.read_until(b"ready")
        process = container.start_exec(shell("cat /proc/self/oom_score_adj; read line", oomScoreAdj=123))
        assert process.read_until(b"\n") == b"untouched\n"
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "123\n"
        process.write(b"\n")
        assert process.wait() == 0

    @pytest.mark.parametrize("kind", ["tmpfs", "sysfs", "mqueue", "bind"])
    @pytest.mark.parametrize("place", ["/proc", "/proc/sys", "/proc/self/attr", "/way/attr"])
    def test_nothing_covers_a_part_of_proc(self, workshop: Workshop, hostile: Path, victim: Path, place: str, kind: str) -> None:
        """CVE-2019-19921: whoever looks there, the engine among them, would see the image's files and take them for the kernel's."""
        (hostile / "way").symlink_to("/proc/self")
        spec = workshop.spec("true")
        source, options = (str(victim), ["bind"]) if kind == "bind" else (kind, [])
        spec["mounts"].append({"destination": place, "type": kind, "source": source, "options": options})
        with pytest.raises(Forbidden, match="over a part of /proc|passes a symlink"):
            workshop.container(spec, rootfs=bound(hostile)).run()

    # ------------------------------------------------------------ terminals

    def test_session_is_its_own(self, workshop: Workshop) -> None:
        """Whoever shares a session with a terminal of the host could put words into it (TIOCSTI, CVE-2016-2568)."""
        fields = "cut -d' ' -f5-7 /proc/self/stat"
        group, session, terminal = workshop.run(f"exec {fields}").text.split()
        assert (session, terminal) == ("1", "0")
        assert group == "1"
        output = workshop.idle().exec(shell(f"exec {fields}"))
        _, session, terminal = output.text.split()
        assert session != "0"
        assert terminal == "0"

    # ------------------------------------------------------------ a process on its way to its program

    def test_process_on_its_way_cannot_be_looked_into(self, workshop: Workshop) -> None:
        """CVE-2016-9962: until its program runs, an exec's process has descriptors and the executable of the engine."""
        container = workshop.idle(workshop.spec(HUNT))
        container.main.read_until(b"ready\n")
        for _ in range(EXECS):
            assert container.exec(shell("true")).code == 0
        container.signal(signal.SIGKILL)
        assert container.main.read_to_end() == b""

    def test_right_to_trace_ends_at_the_user_namespace(self, workshop: Workshop) -> None:
        """SYS_PTRACE opens every process of its own user namespace. An exec's belongs to the host's until its program runs.

        Bites: in the host's user namespace, where the right is as good as root, the same hunter finds what it looks for.
        """
        free = workshop.idle(allow(workshop.spec(HUNT), "CAP_SYS_PTRACE"))
        free.main.read_until(b"ready\n")
        attempts = 0
        while free.main.is_silent(0):
            attempts += 1
            assert attempts < 40 * EXECS, "the hunter is too slow to find anything"
            free.exec(shell("true"))
        free.delete()
        spec = allow(workshop.spec(HUNT), "CAP_SYS_PTRACE")
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 1_000_000, "size": 65536}]
        container = workshop.idle(spec, rootfs=(Mount("bind", str(workshop.tree), ("rbind", "idmap")),))
        container.main.read_until(b"ready\n")
        for _ in range(max(EXECS, 2 * attempts)):
            assert container.exec(shell("true")).code == 0
        container.signal(signal.SIGKILL)
        assert container.main.read_to_end() == b""

    # ------------------------------------------------------------ rights

    @pytest.mark.parametrize("way", ["run", "exec"])
    def test_setuid_program_gains_nothing(self, workshop: Workshop, hostile: Path, helper: bytes, way: str) -> None:
        """With no-new-privileges a setuid program of the image runs as who started it."""
        (hostile / "helper").write_bytes(helper)
        (hostile / "helper").chmod(0o4755)
        process = process_spec(["/helper"], user={"uid": 1000, "gid": 1000}, noNewPrivileges=True)
        spec = workshop.spec("exec sleep 1000")
        if way == "run":
            spec["process"] = process
            output = workshop.container(spec, rootfs=bound(hostile)).run()
        else:
            output = workshop.idle(spec, rootfs=bound(hostile)).exec(process)
        assert output.text == "1000"

    @pytest.mark.parametrize("way", ["run", "exec"])
    def test_device_of_the_image_cannot_be_opened(self, workshop: Workshop, hostile: Path, way: str) -> None:
        """The node lies in the image, where /dev is not in its way."""
        os.mknod(hostile / "kmsg", stat.S_IFCHR | 0o666, os.makedev(1, 11))
        os.mknod(hostile / "tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
        look = "for node in /kmsg /tun; do (: < $node) 2>/dev/null && echo $node; done; true"
        if way == "run":
            output = workshop.container(workshop.spec(look), rootfs=bound(hostile)).run()
        else:
            output = workshop.idle(rootfs=bound(hostile)).exec(shell(look))
        assert output.text == ""

    def test_cgroups_of_the_container_are_read_only(self, workshop: Workshop) -> None:
        """CVE-2022-0492 and the release agent: nothing of the cgroup tree can be written, and none can be mounted."""
        output = workshop.run(
            "find /sys/fs/cgroup -name release_agent; for file in $(find /sys/fs/cgroup -type f); do (: >> $file) && echo $file; done;"
            "mkdir /tmp/mine; mount -t cgroup -o memory cgroup /tmp/mine && echo mounted; mkdir /sys/fs/cgroup/*/mine && echo made; true"
        )
        assert output.text == ""

    @pytest.mark.parametrize("entry", ["/proc/self/exe", "/proc/1/exe", "/link", "/way/exe", "/script"])
    def test_engine_does_not_become_the_program(self, workshop: Workshop, hostile: Path, loader: bytes, entry: str) -> None:
        """CVE-2019-5736: the engine's own executable is run in the container, and its loader is the image's: that one
        has the host's file in its hands."""
        place = hostile / _interpreter_of(sys.executable)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(loader)
        place.chmod(0o755)
        (hostile / "way").symlink_to("/proc/self")
        (hostile / "link").symlink_to("/way/exe")
        (hostile / "script").write_text("#!/link\n")
        (hostile / "script").chmod(0o755)
        spec = workshop.spec("true")
        spec["process"]["args"] = [entry]
        output = run(workshop, spec, hostile)
        assert output is None or output.stdout == b""
