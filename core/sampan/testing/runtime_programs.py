"""The runtime suite: how a program runs and ends."""

from __future__ import annotations

import os
import signal

import pytest

from sampan.api.errors import Forbidden, NotFound, SampanError
from sampan.testing.runtime_ground import Workshop


class ProgramCases:
    """What the process object says is what the program gets; how it ends is what is told."""

    @pytest.mark.parametrize(("script", "code"), [("true", 0), ("false", 1), ("exit 3", 3), ("exit 255", 255)])
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
    def test_program_that_cannot_run(self, workshop: Workshop, args: list[str], error: type[SampanError]) -> None:
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
        threads_own = 3 << 31  # 32 and 33, which the C library keeps from programs: its callers can't reset them
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

    def test_oom_score(self, workshop: Workshop) -> None:
        """The spec's value is the process's."""
        assert workshop.run("cat /proc/self/oom_score_adj", oomScoreAdj=321).text == "321"

    def test_resource_limits(self, workshop: Workshop) -> None:
        """The limits of the process are the spec's."""
        rlimits = [
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]
        output = workshop.run("ulimit -Sn; ulimit -Hn; ulimit -Hc", rlimits=rlimits)
        assert output.lines == ["100", "200", "0"]
