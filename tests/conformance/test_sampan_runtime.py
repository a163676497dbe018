"""The command line of OCI runtimes, of ours and of runc: what callers rely on is the same.

Source: the OCI runtime spec's `runtime.md` (Operations, State), the "OCI Runtime Command Line Interface" of the OCI's runtime-tools.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ground.runtime_program import RuntimeProgram
from ground.terminal import Terminal
from ground.waiting import wait_until
from sampan.testing.containers import subreaper
from sampan.testing.rootfs import build_rootfs
from sampan.testing.runtime_ground import PRINT_SIZE


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rootfs(tmp_path_factory.mktemp("runtime") / "rootfs")


@pytest.fixture(params=["sampan-runtime", "runc"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> Iterator[RuntimeProgram]:
    program = RuntimeProgram(request.param, tmp_path, rootfs)
    with subreaper():
        yield program
        program.close()


# ---------------------------------------------------------------------- life and death


def test_life_of_a_container(runtime: RuntimeProgram) -> None:
    runtime.write("echo $0 started; exec sleep 1000", lambda spec: spec.update(annotations={"org.example": "yes"}))
    runtime.create()
    created = runtime.state()
    assert created["status"] == "created"
    assert created["id"] == runtime.id
    assert Path(f"/proc/{created['pid']}").exists()
    assert created["bundle"] == str(runtime.bundle)
    assert created["annotations"] == {"org.example": "yes"}
    assert created["ociVersion"].startswith("1.")
    assert runtime.output == ""
    runtime("start", runtime.id)
    assert runtime.state() == {**created, "status": "running"}
    wait_until(lambda: runtime.output == "sh started\n", "the program's output")
    runtime("kill", runtime.id, "KILL")
    runtime.wait_for("stopped")
    assert runtime.state()["pid"] == 0
    runtime("delete", runtime.id)
    assert "does not exist" in runtime("state", runtime.id, check=1).stderr


def test_states_forbid(runtime: RuntimeProgram) -> None:
    runtime.start("trap '' TERM; exec sleep 1000")
    assert "cannot start an already running container" in runtime("start", runtime.id, check=1).stderr
    assert "cannot delete container" in runtime("delete", runtime.id, check=1).stderr
    assert "not paused" in runtime("resume", runtime.id, check=1).stderr
    assert "already exists" in runtime.create(check=1).stderr
    assert runtime.state()["status"] == "running"
    runtime("kill", runtime.id, "9")
    runtime.wait_for("stopped")
    assert "stopped" in runtime("start", runtime.id, check=1).stderr
    assert "container not running" in runtime("kill", runtime.id, "TERM", check=1).stderr
    runtime("exec", runtime.id, "true", check=255)


def test_created_container_is_deleted_without_force(runtime: RuntimeProgram) -> None:
    runtime.write("true")
    runtime.create()
    runtime("delete", runtime.id)
    assert "does not exist" in runtime("state", runtime.id, check=1).stderr


def test_what_is_not_there(runtime: RuntimeProgram) -> None:
    for command in ("state", "start", "kill", "pause", "resume", "delete", "ps"):
        assert "does not exist" in runtime(command, "nobody", check=1).stderr, command
    runtime("delete", "--force", "nobody")
    runtime("state", "../etc", check=1)
    runtime("nothing-of-the-kind", check=None)
    assert runtime("create", "--bundle", str(runtime.base), runtime.id, check=1).stderr


@pytest.mark.parametrize("name", ["SIGTERM", "term"])
def test_signals_by_every_name(runtime: RuntimeProgram, name: str) -> None:
    runtime.start("trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    wait_until(lambda: "ready" in runtime.output, "the trap")
    runtime("kill", runtime.id, name)
    runtime.wait_for("stopped")
    assert runtime.output == "ready\ntold\n"


def test_everyone_is_killed_where_the_first_process_has_gone(runtime: RuntimeProgram) -> None:
    """Without a pid namespace of its own; containerd asks for that after each end."""

    def share(spec: dict[str, object]) -> None:
        linux = spec["linux"]
        assert isinstance(linux, dict)
        linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "pid"]

    runtime.write("sleep 1000 & echo $!", share)
    runtime.create()
    runtime("start", runtime.id)
    runtime.wait_for("stopped")
    (left,) = json.loads(runtime("ps", "--format", "json", runtime.id).stdout)
    runtime("kill", "--all", runtime.id, "KILL")
    wait_until(lambda: _has_ended(left), "the end of the other process")
    runtime("delete", runtime.id)


def _has_ended(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_program_that_is_not_there(runtime: RuntimeProgram) -> None:
    runtime.write("")
    path = runtime.bundle / "config.json"
    spec = json.loads(path.read_text())
    spec["process"]["args"] = ["no-such-program"]
    path.write_text(json.dumps(spec))
    log = runtime.base / "log.json"
    done = runtime(
        "--log", str(log), "--log-format", "json", "create", "--bundle", str(runtime.bundle), runtime.id, check=1
    )
    told = 'exec: "no-such-program": executable file not found in $PATH'
    assert told in done.stderr
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert told in last["msg"]
    assert last["time"]
    runtime("state", runtime.id, check=1)


# ---------------------------------------------------------------------- in a running container


def test_exec(runtime: RuntimeProgram) -> None:
    runtime.start()
    done = runtime("exec", runtime.id, "sh", "-c", "echo out; echo err >&2; exit 3", check=3)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert runtime("exec", runtime.id, "cat", stdin=None, input="given").stdout == "given"
    told = runtime(
        "exec", "--user", "1000:100", "-g", "7", "--env", "A=b c", "--cwd", "/tmp", runtime.id,
        "sh", "-c", "id -u; id -G; echo $A; pwd; test -t 0 || echo no terminal",
    ).stdout  # fmt: skip
    assert told.splitlines() == ["1000", "100 0 7 10", "b c", "/tmp", "no terminal"]
    runtime("exec", runtime.id, "sh", "-c", "kill -9 $$", check=137)
    assert "no-such-program" in runtime("exec", runtime.id, "no-such-program", check=255).stderr


def test_exec_of_a_process_file_that_goes_on_alone(runtime: RuntimeProgram) -> None:
    runtime.start()
    process = json.loads((runtime.bundle / "config.json").read_text())["process"]
    process["args"] = ["sleep", "1000"]
    file, pid_file = runtime.base / "process.json", runtime.base / "pid"
    file.write_text(json.dumps(process))
    command = [*runtime.command, "exec", "--detach", "--process", str(file), "--pid-file", str(pid_file), runtime.id]
    nowhere = subprocess.DEVNULL
    subprocess.run(command, stdin=nowhere, stdout=nowhere, check=True)
    pid = int(pid_file.read_text())
    assert pid in json.loads(runtime("ps", "--format", "json", runtime.id).stdout)
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # it came to us; a zombie would hold up the end of its pid namespace


def test_capability_for_one_process(runtime: RuntimeProgram) -> None:
    runtime.start()
    read = "grep CapEff /proc/self/status"
    without = int(runtime("exec", runtime.id, "sh", "-c", read).stdout.split()[1], 16)
    given = int(runtime("exec", "--cap", "CAP_SYS_TIME", runtime.id, "sh", "-c", read).stdout.split()[1], 16)
    assert given == without | 1 << 25


def test_pause_and_resume(runtime: RuntimeProgram) -> None:
    runtime.start()
    runtime("pause", runtime.id)
    assert runtime.state()["status"] == "paused"
    assert "paused" in runtime("exec", runtime.id, "true", check=255).stderr
    runtime("resume", runtime.id)
    assert runtime.state()["status"] == "running"
    runtime("pause", runtime.id)
    runtime("delete", "--force", runtime.id)


def test_ps(runtime: RuntimeProgram) -> None:
    runtime.start("sleep 1000 & sleep 1001; true")
    wait_until(lambda: len(json.loads(runtime("ps", "--format", "json", runtime.id).stdout)) == 3, "three processes")
    head, *lines = runtime("ps", runtime.id).stdout.splitlines()
    assert head.split()[:3] == ["UID", "PID", "PPID"]
    assert len(lines) == 3
    assert len(runtime("ps", runtime.id, "-o", "pid,args").stdout.splitlines()) == 4


def test_list(runtime: RuntimeProgram) -> None:
    runtime.start()
    (found,) = json.loads(runtime("list", "--format", "json").stdout)
    assert {**runtime.state(), "owner": "root"} == found
    assert runtime("list", "--quiet").stdout == f"{runtime.id}\n"
    head, line = runtime("list").stdout.splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert line.split()[:3] == [runtime.id, str(found["pid"]), "running"]


def test_update_and_statistics(runtime: RuntimeProgram) -> None:
    runtime.start()
    runtime("update", "--memory", "64M", "--memory-swap", "96M", "--pids-limit", "33", runtime.id)
    runtime("update", "--resources", "-", runtime.id, stdin=None, input=json.dumps({"cpu": {"shares": 77}}))
    event = json.loads(runtime("events", "--stats", runtime.id).stdout)
    assert (event["type"], event["id"]) == ("stats", runtime.id)
    data = event["data"]
    assert data["memory"]["usage"]["limit"] == 64 << 20
    assert data["pids"] == {"current": 1, "limit": 33}
    assert data["cpu"]["usage"]["total"] > 0
    (shares,) = (each for each in runtime.cgroups() if (each / "cpu.shares").exists())
    assert (shares / "cpu.shares").read_text() == "77\n"


# ---------------------------------------------------------------------- what a new process gets


def test_foreground_run(runtime: RuntimeProgram) -> None:
    runtime.write("cat; echo done; exit 5")
    done = runtime("run", "--bundle", str(runtime.bundle), runtime.id, check=5, stdin=None, input="through\n")
    assert done.stdout == "through\ndone\n"
    runtime("state", runtime.id, check=1)


def test_signals_to_a_foreground_run_go_on(runtime: RuntimeProgram) -> None:
    runtime.write("trap 'echo told; exit 6' USR1; echo ready; while :; do sleep 0.05; done")
    command = [*runtime.command, "run", "--bundle", str(runtime.bundle), runtime.id]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == b"told\n"
    assert process.returncode == 6


def test_foreground_run_on_a_terminal(runtime: RuntimeProgram) -> None:
    runtime.write(f"{PRINT_SIZE}; read line; stty size; echo got $line; exit 7", terminal=True)
    command = [*runtime.command, "run", "--bundle", str(runtime.bundle), runtime.id]
    with Terminal(command, dict(os.environ), (), rows=31, columns=91) as terminal:
        terminal.expect(b"31 91\r\n")
        terminal.resize(41, 101)
        wait_until(lambda: _size_in(runtime) == "41 101", "the new size")
        terminal.type(b"word\r")
        terminal.expect(b"word\r\n41 101\r\ngot word\r\n")
        assert terminal.end() == 7


def _size_in(runtime: RuntimeProgram) -> str:
    return runtime("exec", runtime.id, "sh", "-c", "stty size < /dev/pts/0").stdout.strip()


def test_terminal_for_an_exec(runtime: RuntimeProgram) -> None:
    runtime.start()
    command = [
        *runtime.command,
        "exec",
        "--tty",
        runtime.id,
        "sh",
        "-c",
        "tty; trap 'echo told; exit 8' INT; echo ready; while :; do sleep 0.1; done",  # a trap waits for what runs
    ]
    with Terminal(command, dict(os.environ), ()) as terminal:
        terminal.expect(b"/dev/pts/")
        terminal.expect(b"ready")
        wait_until(lambda: terminal.is_raw, "raw mode, which runc enters when the program runs already")
        terminal.type(b"\x03")
        terminal.expect(b"told")
        assert terminal.end() == 8


def test_terminal_for_the_caller(runtime: RuntimeProgram) -> None:
    runtime.write("tty; exec sleep 1000", terminal=True)
    path = runtime.base / "console.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        runtime.create("--console-socket", str(path))
        connection, _ = listener.accept()
        with connection:
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    (master,) = array.array("i", ancillary[0][2])
    runtime("start", runtime.id)
    assert os.read(master, 100) == b"/dev/pts/0\r\n"
    os.close(master)


def test_terminal_without_a_taker_is_refused(runtime: RuntimeProgram) -> None:
    runtime.write("true", terminal=True)
    assert "console socket" in runtime.create(check=1).stderr
    runtime.write("true")
    assert "console socket" in runtime.create("--console-socket", "/nowhere", check=1).stderr


def test_descriptors_are_passed_on(runtime: RuntimeProgram) -> None:
    runtime.write("cat <&3; cat <&4; test -e /proc/self/fd/5 || echo no more")
    shell = 'exec 3<<"A" 4<<"B" 5</dev/null\nthree\nA\nfour\nB\nexec "$@"'
    command = [
        "bash",
        "-c",
        shell,
        "-",
        *runtime.command,
        "run",
        "--preserve-fds",
        "2",
        "--bundle",
        str(runtime.bundle),
        runtime.id,
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    assert done.stdout == "three\nfour\nno more\n"
    runtime("run", "--preserve-fds", "9", "--bundle", str(runtime.bundle), runtime.id, check=1)


def test_sockets_of_systemd_are_passed_on(runtime: RuntimeProgram) -> None:
    runtime.write('echo "$LISTEN_FDS $LISTEN_PID"; cat <&3')
    shell = 'exec 3<<"A"\nthree\nA\nexport LISTEN_FDS=1 LISTEN_PID=$$\nexec "$@"'
    command = ["bash", "-c", shell, "-", *runtime.command, "run", "--bundle", str(runtime.bundle), runtime.id]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    assert done.stdout == "1 1\nthree\n"


def test_pid_file_and_parent(runtime: RuntimeProgram) -> None:
    """The first process comes to the caller's subreaper, which waits for it."""
    pid_file = runtime.base / "pid"
    runtime.start("exit 9", "--pid-file", str(pid_file))
    pid = int(pid_file.read_text())
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9
