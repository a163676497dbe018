"""Seccomp of the native driver: flags, refusals, and how a filter that notifies is put on."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from sampan.api.errors import InvalidArgument, System
from sampan.api.runtime import Spec
from sampan.testing.runtime_ground import RuntimeGround, Workshop, shell
from sampan.testing.runtime_seccomp import agent_in, profile_of
from sampan_runtime_native.driver import NativeRuntime


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
