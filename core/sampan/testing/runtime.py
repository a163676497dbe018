"""What every runtime driver must do. A driver's author subclasses the suite in a test file and is done:

    from sampan.testing.runtime import RuntimeDriverSuite

    class TestMine(RuntimeDriverSuite):
        driver_class = MyRuntime
        driver_config = {"binary": "mine"}
        require_supported = True

It needs root, a static busybox on the host and pytest. Every test ends with a look for what the driver
has left behind. A test of an optional part of the contract is taken out for a driver whose probe does not
claim that part, and the refusal is tested in its place.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.errors import Conflict, Forbidden, NotFound, SampanError, Unsupported
from sampan.api.runtime import Mount, RuntimeCapability, RuntimeDriver, Spec
from sampan.linux.namespaces import new_netns
from sampan.testing.containers import Container, Output, subreaper
from sampan.testing.leaks import Leaks
from sampan.testing.rootfs import build_rootfs
from sampan.testing.selection import DriverSuite, needs, needs_refusal
from sampan.testing.spec import container_spec, process_spec

__all__ = ["RuntimeDriverSuite"]

MiB = 1 << 20
_numbers = count(1)

# include/uapi/linux/capability.h: the bits of spec.DEFAULT_CAPABILITIES
_DOCKER_CAPABILITIES = 0x00000000A80425FB
_CAP_NET_BIND_SERVICE = 1 << 10

_SIZE = "until stty size 2>/dev/null; do sleep 0.01; done"
"""Prints the terminal's size once it has one: some runtimes (crun 1.8) set it when the program runs already."""


def shell(script: str, **changes: Any) -> Spec:
    """Give a process that runs `script`."""
    return process_spec(["/bin/sh", "-c", script], **changes)


class Workshop:
    """Makes containers for one test, and removes them after it."""

    def __init__(
        self, driver_class: type[RuntimeDriver], config: Mapping[str, Any], tree: Path, directory: Path
    ) -> None:
        self.driver_class, self.config, self.tree, self.directory = driver_class, config, tree, directory
        self.mark = f"sampan-suite-{os.getpid()}-{next(_numbers)}"
        self.made: list[Container] = []

    def spec(self, script: str, **process: Any) -> Spec:
        """Give the configuration of a container that runs `script`; process fields by name."""
        return container_spec(["/bin/sh", "-c", script], cgroup=f"/{self._id()}", **process)

    def container(self, spec: Spec, *, rootfs: tuple[Mount, ...] | None = None, netns: int = -1) -> Container:
        """Give a container that is still to be created. Its root is a bind mount of the shared tree
        unless told."""
        name = self._id()
        made = Container(
            self.driver_class, self.config, name, self.directory / name, spec,
            (Mount("bind", str(self.tree), ("rbind",)),) if rootfs is None else rootfs, netns,
        )  # fmt: skip
        self.made.append(made)
        return made

    def run(self, script: str, stdin: bytes = b"", **process: Any) -> Output:
        """Run `script` in a container of its own to the end."""
        return self.container(self.spec(script, **process)).run(stdin)

    def idle(self, spec: Spec | None = None, **options: Any) -> Container:
        """Give a running container that does nothing until it is told to end."""
        container = self.container(spec or self.spec("sleep 1000"), **options)
        return container.create().start()

    def close(self) -> None:
        """Delete all containers."""
        for container in self.made:
            container.close()

    def _id(self) -> str:
        return f"{self.mark}-{len(self.made)}"


class RuntimeDriverSuite(DriverSuite):
    """The suite; see the module's text."""

    driver_class: ClassVar[type[RuntimeDriver]]
    driver_config: ClassVar[Mapping[str, Any]] = {}
    require_supported: ClassVar[bool] = False
    """Fail, and don't skip, on a host that can't run the driver."""

    @pytest.fixture(scope="class")
    @classmethod
    def tree(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A root file system that the class's tests share; they write to it under /tmp only."""
        return build_rootfs(tmp_path_factory.mktemp("tree") / "rootfs")

    @pytest.fixture(scope="class")
    @classmethod
    def capabilities(cls, tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
        """What the driver claims on this host."""
        probe = cls.driver_class.probe(tmp_path_factory.mktemp("root"))
        if not probe.supported:
            (pytest.fail if cls.require_supported else pytest.skip)(probe.reason)
        return probe.capabilities

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> Mapping[str, Any]:
        """`driver_config` as the daemon hands it to a shim: checked by the driver's model, and plain."""
        return cls.driver_class.config_model().model_validate(dict(cls.driver_config)).model_dump(mode="json")

    @pytest.fixture
    def workshop(
        self,
        capabilities: frozenset[str],
        settings: Mapping[str, Any],
        tree: Path,
        tmp_path: Path,
    ) -> Iterator[Workshop]:
        """Make containers in the test; afterwards they are deleted and nothing of them is left on the
        host."""
        workshop = Workshop(self.driver_class, settings, tree, tmp_path)
        leaks = Leaks.before(mark=workshop.mark)
        with subreaper():
            try:
                yield workshop
            finally:
                workshop.close()
        leaks.check()
        for container in workshop.made:
            state = container.directory / "state"
            assert not state.exists() or list(state.iterdir()) == [], (
                "delete leaves files in the state directory"
            )

    # How a program runs and ends

    @pytest.mark.parametrize(
        ("script", "code"), [("true", 0), ("false", 1), ("exit 3", 3), ("exit 255", 255)]
    )
    def test_exit_code(self, workshop: Workshop, script: str, code: int) -> None:
        """The exit code is the program's."""
        assert workshop.run(script).code == code

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
    def test_exit_by_signal(self, workshop: Workshop, signum: int) -> None:
        """A signal reaches the first process. As pid 1 it takes only those that it handles, and SIGKILL."""
        script = "trap 'exit 42' TERM USR1; echo ready; while :; do sleep 0.01; done"
        container = workshop.idle(workshop.spec(script))
        container.main.read_until(b"ready")
        container.signal(signum)
        assert container.main.wait() == (137 if signum == signal.SIGKILL else 42)

    def test_streams_are_apart_and_exact(self, workshop: Workshop) -> None:
        """Every byte of stdin, stdout and stderr arrives where it belongs."""
        data = bytes(range(256)) * 16
        output = workshop.run("cat; printf 'to\\0stderr' >&2", stdin=data)
        assert (output.stdout, output.stderr) == (data, b"to\0stderr")

    def test_program_without_a_shell_or_a_path(self, workshop: Workshop) -> None:
        """The program is looked up in the PATH of the process, not of the host."""
        spec = workshop.spec("")
        spec["process"]["args"] = ["echo", "found"]
        assert workshop.container(spec).run().text == "found"

    @pytest.mark.parametrize(
        ("args", "error"),
        [
            (["no-such-program"], NotFound),
            (["/no/such/program"], NotFound),
            (["/etc/passwd"], Forbidden),
            (["/etc"], Forbidden),
        ],
    )
    def test_program_that_cannot_run(
        self, workshop: Workshop, args: list[str], error: type[SampanError]
    ) -> None:
        """A missing program is `NotFound`, one that can't be run `Forbidden`, by `create` or by `start`."""
        spec = workshop.spec("")
        spec["process"]["args"] = args
        container = workshop.container(spec)
        with pytest.raises(error) as caught:
            container.create().start()
        assert args[0] in caught.value.message

    def test_signals_are_as_at_boot(self, workshop: Workshop) -> None:
        """No signal is ignored or blocked, whatever the caller has ignored and blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
        usr2 = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        try:
            output = workshop.run("exec grep -E '^Sig(Blk|Ign)' /proc/self/status")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            signal.signal(signal.SIGUSR2, usr2)
        threads_own = (
            3 << 31
        )  # 32 and 33, which the C library keeps from programs: its callers can't reset them
        assert [int(line.split()[1], 16) & ~threads_own for line in output.lines] == [0, 0]

    def test_environment_and_directory(self, workshop: Workshop) -> None:
        """The environment is what the spec says and no more; so is the directory."""
        spec = workshop.spec("")
        spec["process"] |= {"args": ["/bin/env"], "env": ["A=1", "B=two words"], "cwd": "/home"}
        assert sorted(workshop.container(spec).run().lines) in (
            ["A=1", "B=two words"],
            [
                "A=1",
                "B=two words",
                "HOME=/root",
            ],  # runc sets HOME where it is missing, as Docker's users expect
        )
        assert workshop.run("pwd", cwd="/home").text == "/home"

    def test_user_and_groups(self, workshop: Workshop) -> None:
        """Uid, gid and additional gids are the spec's, and the caller's own groups are gone."""
        output = workshop.run(
            "id -u; id -g; grep Groups /proc/self/status",
            user={"uid": 1000, "gid": 1001, "additionalGids": [7, 8]},
        )
        uid, gid, groups = output.lines
        assert (uid, gid, sorted(groups.split()[1:])) == ("1000", "1001", ["7", "8"])

    @pytest.mark.parametrize(("field", "umask"), [({}, "0022"), ({"umask": 0o027}, "0027")])
    def test_umask(self, workshop: Workshop, field: dict[str, int], umask: str) -> None:
        """The umask is the spec's, or 0022 whatever the caller's is."""
        before = os.umask(0o077)
        try:
            assert workshop.run("umask", user={"uid": 0, "gid": 0, **field}).text == umask
        finally:
            os.umask(before)

    def test_only_three_descriptors(self, workshop: Workshop, tmp_path: Path) -> None:
        """Nothing but 0, 1 and 2 is open in the container, though the caller leaks what it can
        (CVE-2024-21626)."""
        container = workshop.container(workshop.spec("ls /proc/self/fd; sleep 1000"))
        with _tempting_descriptors(tmp_path):
            container.create().start()
            # `ls` holds one more: the directory that it lists.
            assert container.main.read_until(b"3\n").split() == [b"0", b"1", b"2", b"3"]
            if RuntimeCapability.EXEC in self.driver_class.probe(tmp_path).capabilities:
                assert container.exec(shell("ls /proc/self/fd")).stdout.split() == [b"0", b"1", b"2", b"3"]

    @pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 64])
    def test_directory_of_a_descriptor(self, workshop: Workshop, tmp_path: Path, number: int) -> None:
        """A working directory in /proc/self/fd is refused or inside the root (CVE-2024-21626)."""
        with _tempting_descriptors(tmp_path):
            try:
                output = workshop.run(_WHERE, cwd=f"/proc/self/fd/{number}")
            except SampanError:
                return
            _assert_inside(output)

    @needs(RuntimeCapability.EXEC)
    def test_exec_in_directory_of_a_descriptor(self, workshop: Workshop, tmp_path: Path) -> None:
        """The same for `exec`, at every number up to 64."""
        container = workshop.idle()
        with _tempting_descriptors(tmp_path):
            for number in range(3, 65):
                try:
                    output = container.exec(shell(_WHERE, cwd=f"/proc/self/fd/{number}"))
                except SampanError:
                    continue
                _assert_inside(output)

    # What it sees

    def test_namespaces(self, workshop: Workshop) -> None:
        """Each namespace that the spec names is a new one, and the others are the caller's."""
        kinds = ("mnt", "pid", "net", "uts", "ipc", "user", "cgroup")
        output = workshop.run(f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done")
        ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
        assert [a != b for a, b in zip(output.lines, ours, strict=True)] == [True] * 5 + [False] * 2

    def test_first_process_is_init(self, workshop: Workshop) -> None:
        """The program itself is pid 1, sees no other process, and takes over orphans."""
        output = workshop.run(
            "echo $$; (sh -c 'sleep 0.05; echo $PPID' &) ; ls -d /proc/[0-9]* | wc -l; sleep 0.3"
        )
        assert output.lines[0] == "1"
        assert int(output.lines[1]) <= 5
        container = workshop.idle(workshop.spec("sleep 1000 & exec sleep 1001"))
        assert os.readlink(f"/proc/{container.main.pid}/exe").endswith("busybox")

    def test_end_of_init_is_the_end_of_all(self, workshop: Workshop) -> None:
        """Whatever else runs in the pid namespace ends with its first process, and streams end with it."""
        output = workshop.run("sleep 1000 & sleep 1000 & exit 5")
        assert output.code == 5

    def test_hostname(self, workshop: Workshop) -> None:
        """The host's own name stays as it is."""
        before = os.uname().nodename
        assert workshop.run("hostname").text == "suite"
        assert os.uname().nodename == before

    def test_file_systems(self, workshop: Workshop) -> None:
        """The spec's mounts are there with their options, and none of the host's."""
        lines = [line.split() for line in workshop.run("cat /proc/mounts").lines]
        mounts = {target: (kind, set(options.split(","))) for _, target, kind, options, *_ in lines}
        kinds = {
            "/proc": "proc",
            "/dev": "tmpfs",
            "/dev/pts": "devpts",
            "/sys": "sysfs",
            "/dev/shm": "tmpfs",
            "/dev/mqueue": "mqueue",
        }
        assert {target: mounts[target][0] for target in kinds} == kinds
        assert {"ro", "nosuid", "nodev", "noexec"} <= mounts["/sys"][1]
        assert {"rw", "nosuid", "nodev", "noexec"} <= mounts["/proc"][1]
        assert not [target for target in mounts if target.startswith(str(workshop.directory))]
        assert [target for _, target, *_ in lines].count("/") == 1

    def test_devices(self, workshop: Workshop) -> None:
        """The default nodes are there with their numbers; links to the process's own streams; nothing of
        the host's."""
        names = ("null", "zero", "full", "random", "urandom", "tty")
        output = workshop.run(
            f"cd /dev; stat -c '%n %t:%T %a' {' '.join(names)}; "
            "for name in fd stdin stdout stderr ptmx; do readlink $name; done; echo x > null; ls"
        )
        lines = output.lines
        numbers = ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0")
        assert lines[:6] == [f"{name} {number} 666" for name, number in zip(names, numbers, strict=True)]
        assert lines[6:10] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"]
        assert lines[10] in ("pts/ptmx", "/dev/pts/ptmx")
        known = {*names, "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue", "core", "console"}
        assert set(lines[11:]) <= known

    def test_device_rules(self, workshop: Workshop) -> None:
        """A node can be made, but opened only if the rules allow its device."""
        output = workshop.run(
            "mknod /dev/kmsg c 1 11 && head -c 1 /dev/kmsg; "
            "mknod /dev/again c 1 5 && head -c 3 /dev/again | wc -c"
        )
        assert b"Operation not permitted" in output.stderr
        assert output.lines[-1] == "3"

    def test_masked_and_readonly_paths(self, workshop: Workshop) -> None:
        """Masked files are empty, masked directories too; read-only paths can't be written."""
        output = workshop.run(
            "wc -c < /proc/interrupts; ls -A /sys/firmware | wc -l; echo 0 > /proc/sys/kernel/panic; echo $?"
        )
        assert output.lines == ["0", "0", "1"]
        assert b"Read-only file system" in output.stderr

    def test_readonly_root(self, workshop: Workshop) -> None:
        """A read-only root refuses writes; mounts inside it don't."""
        spec = workshop.spec("touch /tmp/file; echo $?; touch /dev/shm/file; echo $?")
        spec["root"]["readonly"] = True
        output = workshop.container(spec).run()
        assert output.lines == ["1", "0"]
        assert b"Read-only file system" in output.stderr

    def test_overlay_root(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        """An overlay as data: what the container writes is in the upper directory, and the lower ones
        stay."""
        upper, work, extra = (tmp_path / name for name in ("upper", "work", "extra"))
        for directory in (upper, work, extra):
            directory.mkdir()
        (extra / "layer").write_text("of the second layer")
        options = (f"lowerdir+={extra}", f"lowerdir+={tree}", f"upperdir={upper}", f"workdir={work}")
        container = workshop.container(
            workshop.spec("cat /layer; echo new > /written"), rootfs=(Mount("overlay", "overlay", options),)
        )
        assert container.run().text == "of the second layer"
        assert (upper / "written").read_text() == "new\n"
        assert not (tree / "written").exists()
        container.delete()
        assert list(work.glob("work/*")) == []

    def test_volumes(self, workshop: Workshop, tmp_path: Path) -> None:
        """Binds read-write and read-only, of a directory and a file, and a tmpfs with a size."""
        shared = tmp_path / "shared"
        shared.mkdir()
        (shared / "file").write_text("from the host")
        spec = workshop.spec(
            "cat /rw/file /file; echo; echo inside > /rw/new; touch /ro/new; echo $?; "
            "df -k /scratch | tail -1"
        )
        spec["mounts"] += [
            {"destination": "/rw", "type": "bind", "source": str(shared), "options": ["rbind", "rprivate"]},
            {
                "destination": "/ro",
                "type": "bind",
                "source": str(shared),
                "options": ["rbind", "ro", "rprivate"],
            },
            {
                "destination": "/file",
                "type": "bind",
                "source": str(shared / "file"),
                "options": ["bind", "ro"],
            },
            {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
        ]
        output = workshop.container(spec, rootfs=_copy_on_write(workshop.tree, tmp_path)).run()
        assert output.lines[:2] == ["from the hostfrom the host", "1"]
        assert output.lines[2].split()[1] == "1024"
        assert (shared / "new").read_text() == "inside\n"

    @pytest.mark.parametrize("link", ["/dev", "/proc", "/volume"])
    def test_links_in_the_root_stay_in_it(self, workshop: Workshop, tmp_path: Path, link: str) -> None:
        """An image whose mount points are links to the host's directories changes nothing there, and
        mounts nothing there."""
        victim = tmp_path / "victim"
        victim.mkdir()
        rootfs = _copy_on_write(workshop.tree, tmp_path)
        upper = tmp_path / "upper"
        os.mknod(upper / link[1:], stat.S_IFCHR)  # overlay's whiteout: hide the tree's own directory
        (upper / link[1:]).unlink()
        os.symlink(victim, upper / link[1:])
        spec = workshop.spec("true")
        spec["mounts"].append({"destination": "/volume", "type": "tmpfs", "source": "tmpfs", "options": []})
        try:
            workshop.container(spec, rootfs=rootfs).run()
        except SampanError:
            pass  # to refuse is as good
        assert list(victim.iterdir()) == []

    # What it may do

    def test_capability_sets(self, workshop: Workshop) -> None:
        """Root has the spec's sets and no more."""
        assert _status(workshop.run("cat /proc/self/status"), "Cap") == {
            "CapInh": 0,
            "CapPrm": _DOCKER_CAPABILITIES,
            "CapEff": _DOCKER_CAPABILITIES,
            "CapBnd": _DOCKER_CAPABILITIES,
            "CapAmb": 0,
        }

    def test_capabilities_of_a_user(self, workshop: Workshop) -> None:
        """A user has none but the ambient ones; the bounding set is the spec's."""
        user = {"uid": 1000, "gid": 1000}
        sets = _status(workshop.run("cat /proc/self/status", user=user), "Cap")
        assert (sets["CapEff"], sets["CapPrm"], sets["CapBnd"]) == (0, 0, _DOCKER_CAPABILITIES)
        kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
        given = {kind: ["CAP_NET_BIND_SERVICE"] for kind in kinds}
        sets = _status(workshop.run("cat /proc/self/status", user=user, capabilities=given), "Cap")
        assert set(sets.values()) == {_CAP_NET_BIND_SERVICE}

    def test_no_capabilities(self, workshop: Workshop) -> None:
        """Empty sets are empty, for root too."""
        output = workshop.run("cat /proc/self/status; chown 1 /dev/shm", capabilities={"bounding": []})
        assert set(_status(output, "Cap").values()) == {0}
        assert b"Operation not permitted" in output.stderr

    @pytest.mark.parametrize("wanted", [False, True])
    def test_no_new_privileges(self, workshop: Workshop, wanted: bool) -> None:
        """The flag is set if asked, and not set if not."""
        output = workshop.run("cat /proc/self/status", noNewPrivileges=wanted)
        assert _status(output, "NoNewPrivs") == {"NoNewPrivs": int(wanted)}

    @pytest.mark.parametrize("user", [{"uid": 0, "gid": 0}, {"uid": 1000, "gid": 1000}])
    @pytest.mark.parametrize("no_new_privileges", [False, True])
    def test_seccomp(self, workshop: Workshop, user: Spec, no_new_privileges: bool) -> None:
        """A profile blocks what it names, by name and by argument, and nothing else; with any user and
        flag."""
        script = (
            "grep Seccomp: /proc/self/status; mkdir /tmp/blocked; trap '' USR1 USR2; "
            "kill -USR1 $$ && echo usr1; kill -USR2 $$ || echo no usr2"
        )
        spec = workshop.spec(script, user=user, noNewPrivileges=no_new_privileges)
        kill_usr2 = {"index": 1, "value": int(signal.SIGUSR2), "op": "SCMP_CMP_EQ"}
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [kill_usr2]},
            ],
        }
        output = workshop.container(spec).run()
        assert output.lines == ["Seccomp:\t2", "usr1", "no usr2"]
        assert b"Function not implemented" in output.stderr

    def test_resource_limits(self, workshop: Workshop) -> None:
        """The limits of the process are the spec's."""
        rlimits = [
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]
        output = workshop.run("ulimit -Sn; ulimit -Hn; ulimit -Hc", rlimits=rlimits)
        assert output.lines == ["100", "200", "0"]

    def test_sysctl(self, workshop: Workshop) -> None:
        """Kernel parameters of the container's own namespaces are set, and the host's are not."""
        host = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
        spec = workshop.spec("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax")
        spec["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "123", "kernel.msgmax": "4321"}
        assert workshop.container(spec).run().lines == ["123", "4321"]
        assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == host

    def test_oom_score(self, workshop: Workshop) -> None:
        """The spec's value is the process's."""
        assert workshop.run("cat /proc/self/oom_score_adj", oomScoreAdj=321).text == "321"

    # Limits

    def test_limits_in_the_kernel(self, workshop: Workshop) -> None:
        """The kernel's own files have the spec's numbers."""
        spec = workshop.spec("sleep 1000")
        spec["linux"]["resources"] |= {
            "memory": {"limit": 64 * MiB, "swap": 64 * MiB, "reservation": 32 * MiB},
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0"},
            "pids": {"limit": 32},
        }
        container = workshop.idle(spec)
        limits = _KernelLimits(container.main.pid)
        assert limits.memory() == 64 * MiB
        assert limits.cpu() == (50_000, 100_000)
        assert limits.pids() == 32
        assert limits.cpus() == "0"

    def test_pids_limit(self, workshop: Workshop) -> None:
        """Forks beyond the limit fail."""
        spec = workshop.spec("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; echo all")
        spec["linux"]["resources"]["pids"] = {"limit": 6}
        output = workshop.container(spec).run()
        assert b"all" not in output.stdout
        assert b"fork" in output.stderr

    def test_out_of_memory(self, workshop: Workshop) -> None:
        """The kernel kills what takes too much, and the driver can tell that it was that."""
        spec = workshop.spec("exec tail /dev/zero")
        spec["linux"]["resources"]["memory"] = {"limit": 32 * MiB, "swap": 32 * MiB}
        container = workshop.container(spec)
        assert container.run().code == 137
        assert container.oom_killed() is True

    def test_an_ordinary_kill_is_not_out_of_memory(self, workshop: Workshop) -> None:
        """SIGKILL alone is not mistaken for it."""
        container = workshop.idle()
        container.signal(signal.SIGKILL)
        assert container.main.wait() == 137
        assert container.oom_killed() is False

    @needs(RuntimeCapability.UPDATE)
    def test_update(self, workshop: Workshop) -> None:
        """New limits are in force, those not named stay."""
        spec = workshop.spec("sleep 1000")
        spec["linux"]["resources"] |= {"memory": {"limit": 64 * MiB, "swap": 64 * MiB}, "pids": {"limit": 32}}
        container = workshop.idle(spec)
        limits = _KernelLimits(container.main.pid)
        container.update({"memory": {"limit": 96 * MiB, "swap": 96 * MiB}})
        assert (limits.memory(), limits.pids()) == (96 * MiB, 32)
        container.update({"cpu": {"quota": 20_000, "period": 100_000}, "pids": {"limit": 48}})
        assert (limits.memory(), limits.cpu(), limits.pids()) == (96 * MiB, (20_000, 100_000), 48)

    def test_stats(self, workshop: Workshop) -> None:
        """Readings are the kernel's: time grows with work, memory and processes are counted, the limit is
        the limit."""
        spec = workshop.spec(
            "sleep 1000 & while read line; do i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo; done"
        )
        spec["linux"]["resources"]["memory"] = {"limit": 64 * MiB}
        container = workshop.idle(spec)
        before = container.stats()
        container.main.write(b"\n")
        container.main.read_until(b"\n")
        after = container.stats()
        assert after.cpu_ns > before.cpu_ns > 0
        assert 0 < after.memory_bytes < 64 * MiB
        assert after.memory_limit_bytes == 64 * MiB
        assert after.pids == 2
        assert after.raw

    # Life

    def test_created_is_not_started(self, workshop: Workshop) -> None:
        """`create` runs nothing of the program's; `delete` without a start leaves nothing."""
        container = workshop.container(workshop.spec("echo ran")).create()
        assert container.main.is_silent(0.1)
        assert os.readlink(f"/proc/{container.main.pid}/ns/pid_for_children") != os.readlink(
            "/proc/self/ns/pid"
        )
        container.delete()
        assert container.main.read_to_end() == b""

    def test_delete_kills(self, workshop: Workshop) -> None:
        """`delete` of a running container kills every process, in whatever session, and is done twice
        without an error."""
        container = workshop.idle(workshop.spec("setsid sleep 1000 & exec sleep 1001"))
        pids = container.processes()
        container.delete()
        container.delete()
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []

    def test_delete_kills_in_the_hosts_pid_namespace(self, workshop: Workshop) -> None:
        """Without a pid namespace of its own nothing but the cgroup tells what belongs to a container."""
        spec = workshop.spec("setsid sleep 1000 & echo ready; exec sleep 1001")
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
        container = workshop.idle(spec)
        container.main.read_until(b"ready")
        container.delete()
        assert container.main.wait() == 137

    def test_signal_everyone(self, workshop: Workshop) -> None:
        """Every process gets the signal, not the first alone."""
        container = workshop.idle(workshop.spec("sleep 1000 & echo ready; wait $!; echo $?; exec sleep 1000"))
        container.main.read_until(b"ready\n")
        container.signal(signal.SIGTERM, everyone=True)
        assert container.main.read_until(b"\n") == b"143\n"

    def test_signal_to_what_has_ended(self, workshop: Workshop) -> None:
        """There is no one to signal: `NotFound`."""
        container = workshop.container(workshop.spec("true"))
        container.run()
        with pytest.raises(NotFound):
            container.signal(signal.SIGTERM)

    def test_processes(self, workshop: Workshop) -> None:
        """The pids are those of the caller's pid namespace, the first process among them."""
        container = workshop.idle(workshop.spec("sleep 1000 & sleep 1001 & echo ready; wait"))
        container.main.read_until(b"ready")
        pids = container.processes()
        assert container.main.pid in pids
        assert sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids) == [
            "sh",
            "sleep",
            "sleep",
        ]

    @needs(RuntimeCapability.PAUSE)
    def test_pause_and_resume(self, workshop: Workshop) -> None:
        """A paused container does nothing, and takes up where it was."""
        container = workshop.idle(workshop.spec("exec cat"))
        container.main.write(b"one\n")
        container.main.read_until(b"one\n")
        container.pause()
        container.main.write(b"two\n")
        assert container.main.is_silent(0.2)
        container.resume()
        container.main.read_until(b"two\n")

    @needs(RuntimeCapability.PAUSE)
    def test_delete_while_paused(self, workshop: Workshop) -> None:
        """A frozen process can be killed."""
        container = workshop.idle()
        container.pause()
        container.delete()
        assert container.main.wait() == 137

    @needs(RuntimeCapability.OWN_NETWORK)
    def test_given_network(self, workshop: Workshop) -> None:
        """The network namespace of the request is joined, and outlives the container."""
        netns = new_netns()
        try:
            container = workshop.container(workshop.spec("readlink /proc/self/ns/net"), netns=netns)
            assert container.run().text == f"net:[{os.fstat(netns).st_ino}]"
        finally:
            os.close(netns)

    def test_many_at_once(self, workshop: Workshop) -> None:
        """Containers don't know of each other."""
        containers = [workshop.idle(workshop.spec("hostname; exec sleep 1000")) for _ in range(3)]
        containers[1].delete()
        assert containers[0].main.read_until(b"suite")
        assert len(containers[2].processes()) == 1

    # Terminals

    def test_terminal(self, workshop: Workshop) -> None:
        """With a console the program has a terminal of its own as 0, 1, 2, of the size asked for."""
        script = f"tty; {_SIZE}; test -t 0 && test -t 1 && test -t 2 && echo tty; read line; stty size"
        size = {"height": 31, "width": 97}
        container = workshop.idle(workshop.spec(script, terminal=True, consoleSize=size))
        assert container.main.read_until(b"tty\r\n").split() == [b"/dev/pts/0", b"31", b"97", b"tty"]
        container.main.resize(50, 132)
        container.main.write(b"\n")
        output = container.main.finish()
        assert output.stdout.split() == [b"50", b"132"]
        assert output.code == 0

    def test_terminal_controls(self, workshop: Workshop) -> None:
        """It is the controlling terminal: ^C is a signal."""
        container = workshop.idle(
            workshop.spec(
                "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.01; done", terminal=True
            )
        )
        container.main.read_until(b"ready")
        container.main.write(b"\x03")
        assert container.main.finish().code == 9

    # More processes

    @needs(RuntimeCapability.EXEC)
    def test_exec(self, workshop: Workshop) -> None:
        """A further process lives in the namespaces and the cgroup of the first, and leaves its own exit
        code."""
        container = workshop.idle()
        kinds = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
        process = container.start_exec(shell("read line; echo $line; exit 7"))
        for kind in kinds:
            assert os.readlink(f"/proc/{process.pid}/ns/{kind}") == os.readlink(
                f"/proc/{container.main.pid}/ns/{kind}"
            )
        theirs, first = (Path(f"/proc/{pid}/cgroup").read_text() for pid in (process.pid, container.main.pid))
        assert theirs == first
        assert sorted(container.processes()) == sorted((process.pid, container.main.pid))
        output = process.finish(b"a line\n")
        assert (output.code, output.text) == (7, "a line")

    @needs(RuntimeCapability.EXEC)
    def test_exec_takes_every_byte(self, workshop: Workshop) -> None:
        """A mebibyte of stdin arrives whole, and so does what comes back."""
        data = os.urandom(MiB)
        container = workshop.idle()
        assert container.exec(shell("sha256sum"), data).text.split()[0] == hashlib.sha256(data).hexdigest()
        assert container.exec(shell("cat"), data).stdout == data

    @needs(RuntimeCapability.EXEC)
    def test_exec_as_asked(self, workshop: Workshop) -> None:
        """User, groups, directory, environment, capabilities and flags are those of the process object."""
        process = shell(
            "id -u; id -g; pwd; echo $GREETING; cat /proc/self/status",
            user={"uid": 1000, "gid": 1001, "additionalGids": [5]},
            cwd="/home",
            env=["PATH=/bin", "GREETING=hello"],
            noNewPrivileges=True,
        )
        output = workshop.idle().exec(process)
        assert output.lines[:4] == ["1000", "1001", "/home", "hello"]
        assert _status(output, "NoNewPrivs") == {"NoNewPrivs": 1}
        assert _status(output, "Cap")["CapBnd"] == _DOCKER_CAPABILITIES
        assert _status(output, "Cap")["CapEff"] == 0

    @needs(RuntimeCapability.EXEC)
    def test_exec_is_under_the_profile(self, workshop: Workshop) -> None:
        """The container's seccomp profile holds for further processes."""
        spec = workshop.spec("sleep 1000")
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }
        output = workshop.idle(spec).exec(shell("mkdir /tmp/blocked"))
        assert output.code == 1
        assert b"Operation not permitted" in output.stderr

    @needs(RuntimeCapability.EXEC)
    @pytest.mark.parametrize(
        ("args", "error"), [(["no-such-program"], NotFound), (["/etc/passwd"], Forbidden)]
    )
    def test_exec_of_what_cannot_run(
        self, workshop: Workshop, args: list[str], error: type[SampanError]
    ) -> None:
        """Errors as of `create`, and the container goes on."""
        container = workshop.idle()
        with pytest.raises(error):
            container.exec(process_spec(args))
        assert container.processes() == (container.main.pid,)
        assert container.exec(shell("true")).code == 0

    @needs(RuntimeCapability.EXEC)
    def test_exec_with_a_terminal(self, workshop: Workshop) -> None:
        """A further process has a terminal of its own."""
        size = {"height": 20, "width": 70}
        process = workshop.idle().start_exec(
            shell(f"tty; {_SIZE}; read line; stty size", terminal=True, consoleSize=size)
        )
        assert process.read_until(b"20 70\r\n").startswith(b"/dev/pts/")
        process.resize(21, 71)
        process.write(b"\n")
        assert process.finish().stdout.split() == [b"21", b"71"]

    @needs(RuntimeCapability.EXEC)
    def test_exec_by_signal_and_with_the_container(self, workshop: Workshop) -> None:
        """A further process ends by signals, and with the container."""
        container = workshop.idle()
        process = container.start_exec(shell("exec sleep 1000"))
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 143
        other = container.start_exec(shell("sleep 1000"))
        container.delete()
        assert other.wait() == 137

    @needs(RuntimeCapability.EXEC)
    def test_exec_in_what_has_ended(self, workshop: Workshop) -> None:
        """There is no container to enter."""
        container = workshop.container(workshop.spec("true"))
        container.run()
        with pytest.raises((NotFound, Conflict)):
            container.exec(shell("true"))

    # What is not claimed

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


_WHERE = (
    "stat -L -c %d:%i / ../../../../../../../../../../..; cat secret ../secret ../../secret 2>/dev/null; pwd"
)


def _assert_inside(output: Output) -> None:
    root, top, *rest = output.lines
    assert root == top, "the working directory is outside of the container's root"
    assert "the host's" not in rest


@contextmanager
def _tempting_descriptors(directory: Path) -> Iterator[None]:
    """Hold descriptors of a directory of the host at all free numbers from 3 to 64, open across exec."""
    (directory / "secret").write_text("the host's\n")
    source = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    free = [
        number for number in range(3, 65) if number != source and not Path(f"/proc/self/fd/{number}").exists()
    ]
    try:
        for number in free:
            os.dup2(source, number, inheritable=True)
        yield
    finally:
        for number in (source, *free):
            os.close(number)


def _copy_on_write(tree: Path, directory: Path) -> tuple[Mount, ...]:
    """Give a root over `tree` with `directory`/upper for what is written."""
    for name in ("upper", "work"):
        (directory / name).mkdir()
    options = (f"lowerdir+={tree}", f"upperdir={directory / 'upper'}", f"workdir={directory / 'work'}")
    return (Mount("overlay", "overlay", options),)


def _status(output: Output, prefix: str) -> dict[str, int]:
    """Pick fields of /proc/self/status from an output; their values are hexadecimal or small."""
    pairs = (line.split(":\t") for line in output.lines if ":\t" in line)
    return {name: int(value, 16) for name, value in pairs if name.startswith(prefix)}


class _KernelLimits:
    """Reads limits of a process's cgroup where the kernel keeps them: v1 files where v1 has the
    controller, else v2's."""

    def __init__(self, pid: int) -> None:
        lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        self._paths = {name: path for _, names, path in lines for name in names.split(",")}
        hierarchies = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        self._roots: dict[str, str] = {}
        for _, target, kind, options, *_ in hierarchies:
            if kind == "cgroup":
                self._roots |= {option: target for option in options.split(",") if option in self._paths}
            elif kind == "cgroup2":
                self._roots.setdefault("", target)

    def memory(self) -> int:
        return int(self._read("memory", "memory.limit_in_bytes", "memory.max"))

    def pids(self) -> int:
        return int(self._read("pids", "pids.max", "pids.max"))

    def cpus(self) -> str:
        return self._read("cpuset", "cpuset.cpus", "cpuset.cpus")

    def cpu(self) -> tuple[int, int]:
        """Quota and period in microseconds."""
        if "cpu" in self._roots:
            return (
                int(self._read("cpu", "cpu.cfs_quota_us", "")),
                int(self._read("cpu", "cpu.cfs_period_us", "")),
            )
        quota, period = self._read("cpu", "", "cpu.max").split()
        return int(quota), int(period)

    def _read(self, controller: str, v1: str, v2: str) -> str:
        name, file = (controller, v1) if controller in self._roots else ("", v2)
        return Path(f"{self._roots[name]}{self._paths[name]}/{file}").read_text().strip()
