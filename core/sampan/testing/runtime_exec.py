"""The runtime suite: more processes in a container."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from sampan.api.errors import Conflict, Forbidden, NotFound, SampanError
from sampan.api.runtime import RuntimeCapability
from sampan.testing.runtime_ground import DOCKER_CAPABILITIES, MiB, Workshop, shell, status_fields
from sampan.testing.selection import needs
from sampan.testing.spec import process_spec


class ExecCases:
    """A further process is confined like the first."""

    @needs(RuntimeCapability.EXEC)
    def test_exec(self, workshop: Workshop) -> None:
        """A further process lives in the namespaces and the cgroup of the first, and leaves its own exit
        code."""
        container = workshop.idle()
        kinds = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
        process = container.start_exec(shell("read line; echo $line; exit 7"))
        for kind in kinds:
            assert os.readlink(f"/proc/{process.pid}/ns/{kind}") == os.readlink(f"/proc/{container.main.pid}/ns/{kind}")
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
        """User, groups, directory, environment, capabilities, limits and flags are those of the process object."""
        process = shell(
            "id -u; id -g; pwd; echo $GREETING; ulimit -Hn; cat /proc/self/status",
            user={"uid": 1000, "gid": 1001, "additionalGids": [5]},
            rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
            cwd="/home",
            env=["PATH=/bin", "GREETING=hello"],
            noNewPrivileges=True,
        )
        output = workshop.idle().exec(process)
        assert output.lines[:5] == ["1000", "1001", "/home", "hello", "200"]
        assert next(line for line in output.lines if line.startswith("Groups:")).split()[1:] == ["5"]
        assert status_fields(output, "NoNewPrivs") == {"NoNewPrivs": 1}
        assert status_fields(output, "Cap")["CapBnd"] == DOCKER_CAPABILITIES
        assert status_fields(output, "Cap")["CapEff"] == 0

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
    @pytest.mark.parametrize(("args", "error"), [(["no-such-program"], NotFound), (["/etc/passwd"], Forbidden)])
    def test_exec_of_what_cannot_run(self, workshop: Workshop, args: list[str], error: type[SampanError]) -> None:
        """Errors as of `create`, and the container goes on."""
        container = workshop.idle()
        with pytest.raises(error):
            container.exec(process_spec(args))
        assert container.processes() == (container.main.pid,)
        assert container.exec(shell("true")).code == 0

    @needs(RuntimeCapability.EXEC)
    def test_exec_makes_no_directory(self, workshop: Workshop) -> None:
        """The first process's cwd is made if it is missing, that of a further one must be there."""
        container = workshop.idle(workshop.spec("sleep 1000", cwd="/made/for/it"))
        assert container.exec(shell("pwd", cwd="/made/for/it")).text == "/made/for/it"
        with pytest.raises(SampanError, match="/missing"):
            container.exec(shell("pwd", cwd="/missing"))
        assert container.exec(shell("test -e /missing")).code == 1

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
