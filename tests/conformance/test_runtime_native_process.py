"""What the native driver makes of an OCI `process` that older runtimes pass over, and what it refuses."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest

from sampan.api.errors import InvalidArgument, System, Unsupported
from sampan.api.runtime import Spec
from sampan.linux.syscalls import syscall
from sampan.testing.runtime_ground import RuntimeGround, Workshop, shell
from sampan_runtime_native.driver import NativeRuntime


def scheduling_of(pid: int) -> tuple[int, int, str]:
    """Policy, nice value, class and level of disk access."""
    disk = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout.strip()
    return os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid), disk


class TestNativeProcess(RuntimeGround):
    driver_class = NativeRuntime
    require_supported = True

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            ({}, (os.SCHED_OTHER, 0, "none: prio 0")),
            ({"scheduler": {"policy": "SCHED_BATCH", "nice": 7}}, (os.SCHED_BATCH, 7, "none: prio 0")),
            ({"scheduler": {"policy": "SCHED_OTHER", "nice": 3}, "user": {"uid": 9, "gid": 9}}, (os.SCHED_OTHER, 3, "none: prio 0")),
            ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}}, (os.SCHED_OTHER, 0, "best-effort: prio 6")),
            ({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}, (os.SCHED_OTHER, 0, "idle")),
        ],
    )
    def test_scheduling(self, workshop: Workshop, changes: Spec, found: tuple[int, int, str]) -> None:
        """Of the first process and of an exec each its own."""
        container = workshop.idle(workshop.spec("exec sleep 1000", **changes))
        assert scheduling_of(container.main.pid) == found
        assert scheduling_of(container.start_exec(shell("exec sleep 1000", **changes)).pid) == found
        assert scheduling_of(container.start_exec(shell("exec sleep 1000")).pid) == (os.SCHED_OTHER, 0, "none: prio 0")

    def test_umask_and_score_of_an_exec(self, workshop: Workshop) -> None:
        """As of a first process; runc passes over the one, crun over the other."""
        process = shell("umask; cat /proc/self/oom_score_adj", user={"uid": 0, "gid": 0, "umask": 0o027}, oomScoreAdj=321)
        assert workshop.idle().exec(process).lines == ["0027", "321"]

    def test_processors_of_an_exec(self, workshop: Workshop) -> None:
        """`final` is what it has in the container; the first process has all that the cgroup allows."""
        container = workshop.idle()
        allowed = sorted(os.sched_getaffinity(container.main.pid))
        script = "sed -n 's/Cpus_allowed_list:.//p' /proc/self/status"
        for cpu in allowed[:2]:
            affinity = {"initial": str(allowed[0]), "final": str(cpu)}
            assert container.exec(shell(script, execCPUAffinity=affinity)).text == str(cpu)
        assert workshop.run(script, execCPUAffinity={"final": str(allowed[-1])}).text != str(allowed[-1]) or len(allowed) == 1
        with pytest.raises(System, match="Invalid argument"):
            container.exec(shell("true", execCPUAffinity={"final": "4000"}))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"scheduler": {"policy": "SCHED_DANCE"}}, "unknown policy 'SCHED_DANCE'"),
            ({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, "nice 20"),
            ({"scheduler": {"policy": "SCHED_OTHER", "priority": 1}}, "SCHED_OTHER has no priority"),
            ({"scheduler": {"policy": "SCHED_FIFO", "runtime": 1}}, "SCHED_FIFO has no runtime"),
            ({"scheduler": {"policy": "SCHED_OTHER", "flags": ["X"]}}, "unknown flag 'X'"),
            ({"ioPriority": {"class": "X", "priority": 0}}, "unknown class 'X'"),
            ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, "priority 8"),
            ({"execCPUAffinity": {"final": "3-1"}}, "not a list of processors"),
            ({"execCPUAffinity": {"initial": "one"}}, "not a list of processors"),
            ({"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2}, "RLIMIT_CORE is there twice"),
            ({"oomScoreAdj": 1001}, "oomScoreAdj 1001"),
            ({"user": {"uid": 0, "gid": 0, "umask": 0o1000}}, "umask 512"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, workshop: Workshop, changes: Spec, words: str) -> None:
        with pytest.raises(InvalidArgument, match=words):
            workshop.container(workshop.spec("true", **changes)).create()

    @pytest.mark.parametrize(
        ("path", "junk"),
        [
            (("process",), [1]), (("process", "user"), "root"), (("process", "capabilities"), {"bounding": 5}), (("process", "env"), [7]),
            (("process", "rlimits"), [{}]), (("process", "scheduler"), {"policy": ["x"]}), (("linux", "seccomp"), 5), (("hooks",), [1]),
            (("linux", "seccomp"), {"syscalls": []}), (("hooks",), {"prestart": ["x"]}), (("mounts",), 5), (("linux", "namespaces"), [{}]),
            (("linux", "resources"), {"pids": {"limit": "x"}}), (("process", "args"), [1]), (("linux", "devices"), [{}]),
        ],
    )  # fmt: skip
    def test_junk_in_a_spec_is_told_so(self, workshop: Workshop, path: tuple[str, ...], junk: object) -> None:
        """It is a user's text: whatever is in it, it is refused by name, and nothing is left."""
        spec = workshop.spec("true")
        place = spec
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = junk
        container = workshop.container(workshop.spec("true"))
        container.spec = spec
        with pytest.raises((InvalidArgument, Unsupported)):
            container.create()

    def test_what_the_host_lets_nobody_have_is_an_error(self, workshop: Workshop) -> None:
        """SCHED_DEADLINE with times that can't be met; the kernel says so before the program runs."""
        times = {"runtime": 2_000_000, "deadline": 1_000_000, "period": 1_000_000}
        with pytest.raises(System, match="sched_setattr: Invalid argument"):
            workshop.container(workshop.spec("true", scheduler={"policy": "SCHED_DEADLINE", **times})).create()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [({"apparmorProfile": "mine"}, "AppArmor profile 'mine'"), ({"selinuxLabel": "a:b:c:d"}, "SELinux label 'a:b:c:d'")],
    )
    def test_labels_without_their_security_module_are_refused(self, workshop: Workshop, changes: Spec, words: str) -> None:
        """By whichever of the two is missing here: a label that confines nobody is not set silently."""
        enabled = Path("/sys/kernel/security/lsm")
        loaded = enabled.read_text().split(",") if enabled.exists() else []
        if {"apparmorProfile": "apparmor", "selinuxLabel": "selinux"}[next(iter(changes))] in loaded:
            words = ".*"  # then it is the name that is not loaded
        with pytest.raises(System, match=f"set {words}"):
            workshop.container(workshop.spec("true", **changes)).run()

    def test_capabilities_that_are_unknown_are_left_out_with_a_warning(self, workshop: Workshop, tmp_path: Path) -> None:
        """As the spec has it: an older kernel runs a newer spec."""
        log = logging.FileHandler(tmp_path / "shim.log")
        loggers = [logging.getLogger(f"sampan_runtime_native.{name}") for name in ("creation", "filters")]
        for logger in loggers:
            logger.addHandler(log)
        sets = dict.fromkeys(("bounding", "effective", "permitted"), ["CAP_KILL", "CAP_FLY"])
        container = workshop.idle(workshop.spec("sleep 1000", capabilities=sets))
        assert container.exec(shell("grep CapEff /proc/self/status", capabilities=sets)).text.endswith("20")
        for logger in loggers:
            logger.removeHandler(log)
        log.close()
        told = (tmp_path / "shim.log").read_text().splitlines()
        assert [line.split(":")[0] for line in told if "CAP_FLY" in line] == ["create", "exec"]

    def test_an_exec_has_none_of_the_callers_keys(self, workshop: Workshop) -> None:
        syscall("keyctl", 1, None)
        name = f"{workshop.mark}-secret"
        key = syscall("add_key", "user", name, b"secret", 6, -3)
        syscall("keyctl", 5, key, 0x3F000000)
        assert name in Path("/proc/keys").read_text()
        spec = workshop.spec("exec sleep 1000")
        spec["linux"]["maskedPaths"].remove("/proc/keys")
        output = workshop.idle(spec).exec(shell("cat /proc/keys"))
        assert output.code == 0
        assert name not in output.text
