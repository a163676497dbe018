"""The runtime suite: what becomes of a system call under each action of a seccomp profile, and who answers those left to others."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from sampan.api.errors import SampanError, Unsupported
from sampan.api.runtime import RuntimeCapability, Spec
from sampan.testing.runtime_ground import Workshop, shell
from sampan.testing.selection import needs, needs_refusal

__all__ = ["SeccompCases", "agent_in", "profile_of"]

# include/uapi/linux/seccomp.h: struct seccomp_notif is an id, a pid, flags and the call; _resp an id, a value, an errno, flags
_NOTIF_RECV: Final = 0xC0502100
_NOTIF_SEND: Final = 0xC0182101
_ERRNO: Final = 18
"""EXDEV: nobody else answers a mkdir so."""


def profile_of(action: str, **fields: Any) -> Spec:
    """Give one that does `action` with mkdir and lets all else pass."""
    rule = {"names": ["mkdir", "mkdirat"], "action": action, **fields}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


class SeccompCases:
    """Profiles beyond a plain refusal."""

    @pytest.mark.parametrize(
        ("action", "fields", "code", "words"),
        [
            ("SCMP_ACT_ALLOW", {}, 0, b""),
            ("SCMP_ACT_LOG", {}, 0, b""),
            ("SCMP_ACT_ERRNO", {}, 1, b"Operation not permitted"),
            ("SCMP_ACT_ERRNO", {"errnoRet": _ERRNO}, 1, b"Invalid cross-device link"),
            ("SCMP_ACT_TRACE", {}, 1, b"Function not implemented"),  # nobody traces
            ("SCMP_ACT_TRAP", {}, 128 + signal.SIGSYS, b""),
            ("SCMP_ACT_KILL", {}, 128 + signal.SIGSYS, b""),
            ("SCMP_ACT_KILL_THREAD", {}, 128 + signal.SIGSYS, b""),
            ("SCMP_ACT_KILL_PROCESS", {}, 128 + signal.SIGSYS, b""),
        ],
    )
    def test_seccomp_action(self, workshop: Workshop, action: str, fields: Spec, code: int, words: bytes) -> None:
        """The kernel does with a call what its action says."""
        spec = workshop.spec("mkdir /dev/shm/made; echo $?")
        spec["linux"]["seccomp"] = profile_of(action, **fields)
        output = workshop.container(spec).run()
        assert output.text == str(code)
        assert words in output.stderr

    @needs(RuntimeCapability.SECCOMP_NOTIFY, RuntimeCapability.EXEC)
    def test_seccomp_listener(self, workshop: Workshop, tmp_path: Path) -> None:
        """Who listens gets the descriptor with the container's state, for each process that is under the profile anew."""
        with agent_in(tmp_path) as agent:
            spec = workshop.spec("mkdir /dev/shm/made; echo $?; exec sleep 1000")
            spec["annotations"] = {"org.example.key": "a value"}
            spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | {
                "listenerPath": str(agent.path), "listenerMetadata": "for the agent",
            }  # fmt: skip
            container = workshop.idle(spec)
            assert container.main.read_until(b"\n") == b"1\n"
            first = agent.heard()[0]
            assert first["fds"] == ["seccompFd"]
            assert first["pid"] in (container.main.pid, 0)  # crun 1.8 says 0 of all
            assert first["metadata"] == "for the agent"
            assert first["state"]["id"] == container.id
            assert first["state"]["bundle"] == str(container.directory / "bundle")
            assert first["state"]["annotations"].items() >= spec["annotations"].items()
            process = container.start_exec(shell("mkdir /dev/shm/made"))
            output = process.finish()
            assert output.code == 1
            assert b"Invalid cross-device link" in output.stderr
            second = agent.heard()[1]
            assert second["pid"] in (process.pid, 0)
            assert second["state"]["id"] == container.id
            container.delete()

    @needs(RuntimeCapability.SECCOMP_NOTIFY)
    def test_seccomp_without_its_listener(self, workshop: Workshop, tmp_path: Path) -> None:
        """A container whose calls nobody would answer does not start."""
        spec = workshop.spec("mkdir /dev/shm/made")
        spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | {"listenerPath": str(tmp_path / "nobody")}
        with pytest.raises(SampanError, match="nobody|listener"):
            workshop.container(spec).create().start()

    @needs_refusal(RuntimeCapability.SECCOMP_NOTIFY)
    def test_seccomp_listener_is_refused(self, workshop: Workshop, tmp_path: Path) -> None:
        """A driver that tells no listener refuses a profile with one."""
        spec = workshop.spec("true")
        spec["linux"]["seccomp"] = profile_of("SCMP_ACT_NOTIFY") | {"listenerPath": str(tmp_path / "agent")}
        with pytest.raises(Unsupported):
            workshop.container(spec).create()


class Agent:
    """One who listens: answers every call with EXDEV, and writes down what came with the descriptors."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent"
        self._heard = directory / "heard"
        self._heard.touch()
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{place}/agent")  # the path may be longer than an address
            os.close(place)
            listener.listen()
            self._pid = os.fork()  # a process: the suite's own must have one thread
            if self._pid == 0:
                self._serve(listener)

    def heard(self) -> list[dict[str, Any]]:
        """Give the messages so far."""
        return [json.loads(line) for line in self._heard.read_text().splitlines()]

    def end(self) -> None:
        """Stop listening."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _serve(self, listener: socket.socket) -> NoReturn:
        try:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            while True:
                for fd, event in poll.poll():
                    if fd == listener.fileno():
                        poll.register(self._accept(listener), select.POLLIN)
                    elif event & select.POLLIN:
                        _refuse(fd)
                    else:
                        poll.unregister(fd)
        finally:
            os._exit(1)

    def _accept(self, listener: socket.socket) -> int:
        connection, _ = listener.accept()
        with connection:
            message, (fd, *_), _, _ = socket.recv_fds(connection, 1 << 16, 1)
            while more := connection.recv(1 << 16):
                message += more
        with self._heard.open("ab") as heard:
            heard.write(json.dumps(json.loads(message)).encode() + b"\n")
        return fd


def _refuse(fd: int) -> None:
    notification = bytearray(80)
    try:
        fcntl.ioctl(fd, _NOTIF_RECV, notification)
        fcntl.ioctl(fd, _NOTIF_SEND, struct.pack("=Qqi4x", *struct.unpack_from("=Q", notification), 0, -_ERRNO))
    except FileNotFoundError:
        pass  # who called has ended meanwhile


@contextmanager
def agent_in(directory: Path) -> Iterator[Agent]:
    """Have one listen at `directory`/agent meanwhile."""
    agent = Agent(directory)
    try:
        yield agent
    finally:
        agent.end()
