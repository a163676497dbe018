"""`logs`."""

from __future__ import annotations

import re
import subprocess

from compat.conftest import Client

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


def test_both_streams_come_back_apart(client: Client) -> None:
    client("run", "--name", "ll", "busybox", "sh", "-c", "echo one; echo bad >&2; printf two")
    done = client("logs", "ll")
    assert (done.stdout, done.stderr) == (b"one\ntwo", b"bad\n")


def test_tail_timestamps_since_and_until(client: Client) -> None:
    client("run", "--name", "ll", "busybox", "sh", "-c", "for i in 1 2 3; do echo line $i; usleep 50000; done")
    assert client.out("logs", "-n", "2", "ll") == "line 2\nline 3"
    assert client.out("logs", "--tail", "0", "ll") == ""
    lines = client.out("logs", "-t", "ll").splitlines()
    assert all(STAMP.match(line) for line in lines)
    second = lines[1].split()[0]
    assert client.out("logs", "--since", second, "ll") == "line 2\nline 3"
    assert client.out("logs", "--until", second, "ll") == "line 1\nline 2"
    assert client.out("logs", "--since", "1h", "ll") == "line 1\nline 2\nline 3"


def test_following_ends_with_the_container(client: Client) -> None:
    client("run", "-d", "-i", "--name", "ll", "busybox", "sh", "-c", "echo first; read word; echo $word; echo last")
    with client.start("logs", "-f", "ll") as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"first\n"
        client("attach", "ll", stdin=b"middle\n")
        out, err = following.communicate(timeout=20)
        assert (out, err, following.returncode) == (b"middle\nlast\n", b"", 0)


def test_a_reader_may_leave(client: Client) -> None:
    client("run", "-d", "--name", "ll", "busybox", "sh", "-c", "echo ready; sleep 60")
    with client.start("logs", "-f", "ll") as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"ready\n"
        following.terminate()
        following.communicate(timeout=20)
    assert client.out("logs", "ll") == "ready"


def test_long_lines_and_odd_bytes_come_back_as_they_were(client: Client) -> None:
    script = r"head -c 40000 /dev/zero | tr '\0' z; echo; printf 'caf\303\251 \001\n'"
    client("run", "--name", "ll", "busybox", "sh", "-c", script)
    assert client("logs", "ll").stdout == b"z" * 40_000 + b"\ncaf\xc3\xa9 \x01\n"


def test_a_terminals_log(client: Client) -> None:
    client("run", "-t", "--name", "ll", "busybox", "echo", "hi")
    assert client("logs", "ll").stdout == b"hi\r\n"


def test_no_such_container(client: Client) -> None:
    assert b"No such container: nothing" in client("logs", "nothing", check=1).stderr


def test_attach_replays_nothing_and_gets_what_follows(client: Client) -> None:
    client("run", "-d", "-i", "--name", "ll", "busybox", "sh", "-c", "echo before; read x; echo got $x; exit 3")
    attached: subprocess.CompletedProcess[bytes] = client("attach", "ll", stdin=b"this\n", check=3)
    assert attached.stdout == b"got this\n"
