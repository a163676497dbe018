"""Seccomp of the native driver: flags, refusals, and how a filter that notifies is put on."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from sampan.api.errors import InvalidArgument, System
from sampan.api.runtime import Mount, Spec
from sampan.engine.seccomp_profile import default_seccomp
from sampan.testing.runtime_ground import RuntimeGround, Workshop, copy_on_write, shell
from sampan.testing.runtime_seccomp import agent_in, profile_of
from sampan_runtime_native.driver import NativeRuntime

OTHER_DOORS = r"""
#include <stdio.h>
static long by_int80(long number) {
    long answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(0L), "c"(0L), "d"(0L), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
    return (int)answer;
}
static long by_x32(long number) {
    long answer;
    __asm__ volatile("syscall" : "=a"(answer) : "a"(number | 0x40000000), "D"(0L), "S"(0L), "d"(0L) : "memory", "rcx", "r11");
    return answer;
}
int main(void) {
    /* mount, keyctl and add_key of x86, a call beyond all; mount and add_key of x32 */
    printf("%ld %ld %ld %ld ", by_int80(21), by_int80(288), by_int80(286), by_int80(499));
    printf("%ld %ld\n", by_x32(165), by_x32(248));
    fflush(stdout);
    printf("%d\n", by_int80(20) > 0);
    return 0;
}
"""
"""Calls by x86's 32-bit entry and by x32's numbers: the classic ways around a filter that knows x86_64 alone."""


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("doors")
    (directory / "doors.c").write_text(OTHER_DOORS)
    subprocess.run(["gcc", "-static", "-O1", "-o", "doors", "doors.c"], cwd=directory, check=True)
    return (directory / "doors").read_bytes()


class TestNativeSeccomp(RuntimeGround):
    driver_class = NativeRuntime
    require_supported = True

    @pytest.mark.parametrize("flag", ["LOG", "SPEC_ALLOW", "TSYNC"])
    def test_flags(self, workshop: Workshop, flag: str) -> None:
        spec = workshop.spec("mkdir /dev/shm/made; echo $?")
        spec["linux"]["seccomp"] = profile_of("SCMP_ACT_ERRNO") | {"flags": [f"SECCOMP_FILTER_FLAG_{flag}"]}
        assert workshop.container(spec).run().text == "1"

    @pytest.mark.parametrize("user", [0, 1000])
    @pytest.mark.parametrize("no_new_privileges", [False, True])
    def test_listener_of_any_user(self, workshop: Workshop, tmp_path: Path, user: int, no_new_privileges: bool) -> None:
        """With every flag that goes with a listener; the path may be longer than a socket's address."""
        deep = tmp_path / ("d" * 100)
        deep.mkdir()
        with agent_in(deep) as agent:
            process = {"user": {"uid": user, "gid": user}, "noNewPrivileges": no_new_privileges}
            spec = workshop.spec("mkdir /dev/shm/made; echo $?", **process)
            spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | {
                "listenerPath": str(agent.path), "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            }  # fmt: skip
            container = workshop.container(spec)
            output = container.run()
            assert (output.text, b"Invalid cross-device link" in output.stderr) == ("1", True)
            (heard,) = agent.heard()
            pid = container.main.pid
            assert (heard["pid"], heard["state"]["pid"], heard["state"]["status"]) == (pid, pid, "created")
            assert "metadata" not in heard

    def test_listener_of_a_container_with_a_user_namespace(self, workshop: Workshop, tmp_path: Path) -> None:
        with agent_in(tmp_path) as agent:
            spec = workshop.spec("mkdir /dev/shm/made; echo $?; exec sleep 1000")
            spec["linux"]["namespaces"].append({"type": "user"})
            for key in ("uidMappings", "gidMappings"):
                spec["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
            spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | {"listenerPath": str(agent.path)}
            container = workshop.idle(spec, rootfs=(Mount("bind", str(workshop.tree), ("rbind", "idmap")),))
            assert container.main.read_until(b"\n") == b"1\n"
            assert container.exec(shell("mkdir /dev/shm/made")).code == 1
            assert [heard["state"]["pid"] for heard in agent.heard()] == [container.main.pid] * 2

    def test_calls_between_the_filter_and_the_program_are_answered_too(self, workshop: Workshop, tmp_path: Path) -> None:
        """Even the read by which the process waits for the listener, and the exec itself."""
        with agent_in(tmp_path) as agent:
            spec = workshop.spec("true")
            spec["linux"]["seccomp"] = {
                "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(agent.path),
                "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_NOTIFY"}],
            }  # fmt: skip
            with pytest.raises(System, match="exec /bin/sh: invalid cross-device link"):
                workshop.container(spec).create().start()

    def test_listener_that_goes_away_between(self, workshop: Workshop, tmp_path: Path) -> None:
        """An exec fails for want of it, and leaves no process; the container goes on."""
        with agent_in(tmp_path) as agent:
            spec = workshop.spec("sleep 1000")
            spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | {"listenerPath": str(agent.path)}
            container = workshop.idle(spec)
            process = container.start_exec(shell("true"))
            assert process.wait() == 0
            heard = agent.heard()[1]
            assert (heard["pid"], heard["state"]["pid"], heard["state"]["status"]) == (process.pid, container.main.pid, "running")
        with pytest.raises(System, match=r"tell seccomp listener .*: Connection refused"):
            container.exec(shell("true"))
        assert container.processes() == (container.main.pid,)

    def test_a_listener_that_only_takes_the_connection_does_not_hold_the_start(self, workshop: Workshop, tmp_path: Path) -> None:
        """What was sent waits for it; the program runs meanwhile, as far as its calls let it."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "agent"))
            listener.listen()
            spec = workshop.spec("echo runs; exec sleep 1000")
            spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | {"listenerPath": str(tmp_path / "agent")}
            container = workshop.idle(spec)
            assert container.main.read_until(b"runs\n")
            connection, _ = listener.accept()
            with connection:
                message, (fd,), _, _ = socket.recv_fds(connection, 1 << 16, 4)
                os.close(fd)
                assert connection.recv(1) == b""  # one state a connection
            assert json.loads(message)["fds"] == ["seccompFd"]

    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="other machines have no such doors")
    @pytest.mark.parametrize("confined", [True, False])
    def test_other_doors_of_x86(self, workshop: Workshop, tmp_path: Path, doors: bytes, confined: bool) -> None:
        """Docker's profile holds there as well. Bites: without it the kernel says something else of each."""
        rootfs = copy_on_write(workshop.tree, tmp_path)
        program = tmp_path / "upper/doors"
        program.write_bytes(doors)
        program.chmod(0o755)
        spec = workshop.spec("/doors")
        if confined:
            spec["linux"]["seccomp"] = default_seccomp(["CAP_CHOWN"], "x86_64")
        first, second = workshop.container(spec, rootfs=rootfs).run().lines
        answers = [int(word) for word in first.split()]
        refused = [-errno.EPERM, -errno.EPERM, -errno.EPERM, -errno.ENOSYS, -errno.EPERM, -errno.EPERM]
        assert second == "1"
        if confined:
            assert answers == refused
        else:
            assert not [got for got, no in zip(answers, refused, strict=True) if got == no == -errno.EPERM]

    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="other machines have no such doors")
    def test_a_door_that_the_profile_does_not_name_kills(self, workshop: Workshop, tmp_path: Path, doors: bytes) -> None:
        rootfs = copy_on_write(workshop.tree, tmp_path)
        program = tmp_path / "upper/doors"
        program.write_bytes(doors)
        program.chmod(0o755)
        spec = workshop.spec("/doors; echo $?")
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]}
        assert workshop.container(spec, rootfs=rootfs).run().lines == [str(128 + signal.SIGSYS)]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({}, "needs an absolute listenerPath"),
            ({"listenerPath": "agent"}, "needs an absolute listenerPath"),
            ({"listenerMetadata": "x"}, "listenerPath is not"),
            ({"syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}], "listenerPath": "/x"}, "'write'"),
            ({"listenerPath": "/x", "defaultAction": "SCMP_ACT_NOTIFY"}, "as the default action"),
        ],
    )
    def test_what_could_never_be_answered_is_refused(self, workshop: Workshop, change: Spec, words: str) -> None:
        spec = workshop.spec("true")
        spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | change
        with pytest.raises(InvalidArgument, match=words):
            workshop.container(spec).create()
