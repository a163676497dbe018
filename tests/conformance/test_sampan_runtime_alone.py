"""What is sampan-runtime's own: its state on disk over crashes, two commands at once, and what it refuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ground.runtime_program import RuntimeProgram
from ground.waiting import wait_until
from sampan.linux import capabilities
from sampan.testing.containers import subreaper
from sampan.testing.rootfs import build_rootfs
from sampan_runtime_native import hooks
from sampan_runtime_native.init import import_no_more


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rootfs(tmp_path_factory.mktemp("runtime") / "rootfs")


@pytest.fixture
def runtime(tmp_path: Path, rootfs: Path) -> Iterator[RuntimeProgram]:
    program = RuntimeProgram("sampan-runtime", tmp_path, rootfs)
    with subreaper():
        yield program
        program.close()


def change_record(runtime: RuntimeProgram, **changes: Any) -> None:
    path = runtime.root / runtime.id / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("exec", "--user", "root", "one", "true"), "--user/-u: 'root' is not a number from 0 on"),
        (("create", "--preserve-fds", "-1", "one"), "'-1' is not a number"),
        (("create", "--bundle", "/nowhere", "one"), "read /nowhere/config.json: No such file or directory\n"),
        (("update", "--resources", "/nowhere", "one"), "read /nowhere: No such file or directory\n"),
        (("spec", "--bundle", "/nowhere"), "write /nowhere/config.json: No such file or directory\n"),
    ],
)  # fmt: skip
def test_lines_that_are_wrong_are_told_so(runtime: RuntimeProgram, line: tuple[str, ...], words: str) -> None:
    done = runtime(*line, check=None)
    assert done.returncode in (1, 255)
    assert words in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"a":' * 100_000, ": maximum recursion depth exceeded"), ('{"ociVersion": "1.2.0", "process": true}', " has no process")],
    ids=["too deep", "no process"],
)
def test_a_configuration_that_is_none_is_told_so(runtime: RuntimeProgram, text: str, words: str) -> None:
    runtime.write("true")
    (runtime.bundle / "config.json").write_text(text)
    done = runtime("create", "--bundle", str(runtime.bundle), runtime.id, check=1)
    assert f"config.json{words}" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------- crashes


def test_create_that_is_killed_halfway_leaves_what_delete_takes_away(runtime: RuntimeProgram) -> None:
    """A hook holds `create` up; the process that it is for has its cgroup by then."""
    fifo = runtime.base / "fifo"
    os.mkfifo(fifo)

    def hold(spec: dict[str, Any]) -> None:
        script = f"cat >/dev/null; echo $$ > {fifo}; exec sleep 1000"
        spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    runtime.write("exec sleep 1000", hold)
    command = [*runtime.command, "create", "--bundle", str(runtime.bundle), runtime.id]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as creating:
        hook = int(fifo.read_text())
        assert runtime.state()["status"] == "creating"
        assert "already exists" in runtime.create(check=1).stderr
        creating.kill()
    runtime("delete", "--force", runtime.id)
    os.kill(hook, signal.SIGKILL)  # a program of the host's, which goes on
    assert runtime.cgroups() == []
    assert "does not exist" in runtime("state", runtime.id, check=1).stderr


def test_directory_without_a_record_is_taken(runtime: RuntimeProgram) -> None:
    """`create` was killed between its first two steps."""
    (runtime.root / runtime.id).mkdir(parents=True)
    assert "does not exist" in runtime("state", runtime.id, check=1).stderr
    assert runtime("list", "--quiet").stdout == ""
    assert runtime.start().state()["status"] == "running"


@pytest.mark.parametrize("change", [{"born": 1}, {"boot": "another"}], ids=["pid of another process", "another boot"])
def test_state_that_is_stale(runtime: RuntimeProgram, change: dict[str, Any]) -> None:
    runtime.start()
    change_record(runtime, **change)
    assert runtime.state()["status"] == "stopped"
    assert runtime.state()["pid"] == 0
    runtime("delete", runtime.id)
    assert runtime.cgroups() == []


def test_state_of_another_version_is_refused(runtime: RuntimeProgram) -> None:
    runtime.start()
    change_record(runtime, version=99)
    assert "version 99" in runtime("state", runtime.id, check=1).stderr
    assert "version 99" in runtime("list").stderr
    change_record(runtime, version=1)


# ---------------------------------------------------------------------- two at once


def test_of_two_that_create_one_is_refused(runtime: RuntimeProgram) -> None:
    runtime.write("exec sleep 1000")
    command = [*runtime.command, "create", "--bundle", str(runtime.bundle), runtime.id]
    nowhere = subprocess.DEVNULL
    both = [subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere) for _ in range(2)]
    assert sorted(each.wait(60) for each in both) == [0, 1]
    assert runtime.state()["status"] == "created"


def test_of_two_that_start_one_is_refused(runtime: RuntimeProgram) -> None:
    runtime.write("exec sleep 1000")
    runtime.create()
    nowhere = subprocess.DEVNULL
    both = [subprocess.Popen([*runtime.command, "start", runtime.id], stderr=nowhere) for _ in range(2)]
    assert sorted(each.wait(60) for each in both) == [0, 1]
    assert runtime.state()["status"] == "running"


def test_command_waits_for_another_and_a_question_does_not(runtime: RuntimeProgram) -> None:
    runtime.start()
    directory = os.open(runtime.root / runtime.id, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with subprocess.Popen([*runtime.command, "pause", runtime.id]) as pausing:
        wait_until(lambda: _waits_for_lock(pausing.pid), "that it waits")
        assert runtime.state()["status"] == "running"
        os.close(directory)
        assert pausing.wait(20) == 0
    assert runtime.state()["status"] == "paused"
    runtime("resume", runtime.id)


def _waits_for_lock(pid: int) -> bool:
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


# ---------------------------------------------------------------------- what it refuses and what it says


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--systemd-cgroup", "state", "x"), "native.cgroupdriver=cgroupfs"),
        (("create", "--no-pivot", "x"), "pivot_root"),
        (("create", "--no-new-keyring", "x"), "keyring"),
        (("exec", "--cgroup", "a", "x", "true"), "--cgroup"),
        (("spec", "--rootless"), "without root"),
        (("checkpoint", "x"), "not a command"),
        (("update", "x"), "nothing to change"),
        (("kill", "x", "NOSUCH"), "unknown signal"),
    ],
)
def test_what_it_cannot_do_is_refused(runtime: RuntimeProgram, options: tuple[str, ...], words: str) -> None:
    done = runtime(*options, check=None)
    assert done.returncode in (1, 255)
    assert words in done.stderr


def test_without_root_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", _AS_NOBODY], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "run sampan-runtime as root" in done.stderr


_AS_NOBODY = """
import locale, os, sys  # while they can be read
from sampan_runtime_native.cli.main import run
os.setuid(65534)
sys.exit(run(["state", "x"]))
"""


def test_configuration_to_start_from_runs(runtime: RuntimeProgram) -> None:
    runtime.bundle.mkdir()
    runtime("spec", "--bundle", str(runtime.bundle))
    assert "exists" in runtime("spec", "--bundle", str(runtime.bundle), check=1).stderr
    config = runtime.bundle / "config.json"
    spec = json.loads(config.read_text())
    (runtime.bundle / "rootfs").symlink_to(runtime.rootfs)
    spec["process"] |= {"terminal": False, "args": ["sh", "-c", "echo x > /dev/null; cat /proc/self/cgroup; touch /x"]}
    config.write_text(json.dumps(spec))
    done = runtime("run", "--bundle", str(runtime.bundle), runtime.id, check=1)
    assert f":/sampan-runtime/{runtime.id}\n" in done.stdout
    for parent in Path("/sys/fs/cgroup").glob("*/sampan-runtime"):
        with contextlib.suppress(OSError):  # another's container is in it
            parent.rmdir()
    assert "Read-only file system" in done.stderr


def test_sources_and_root_are_relative_to_the_bundle(runtime: RuntimeProgram) -> None:
    def relative(spec: dict[str, Any]) -> None:
        spec["root"]["path"] = "tree"
        spec["mounts"].append({"destination": "/mnt", "type": "bind", "source": "shared", "options": ["bind"]})

    runtime.write("cat /mnt/file", relative)
    shutil.copytree(runtime.rootfs, runtime.bundle / "tree", symlinks=True)
    (runtime.bundle / "shared").mkdir()
    (runtime.bundle / "shared/file").write_text("here")
    assert runtime("run", "--bundle", str(runtime.bundle), runtime.id, cwd="/").stdout == "here"


def test_features(runtime: RuntimeProgram) -> None:
    found = json.loads(runtime("features").stdout)
    assert tuple(found["hooks"]) == tuple(hooks.MOMENTS)
    assert set(found["linux"]["capabilities"]) == set(capabilities.NAMES)
    assert {"user", "time", "cgroup", "mount"} <= set(found["linux"]["namespaces"])
    assert {"rro", "idmap", "rslave", "bind", "nosymfollow"} <= set(found["mountOptions"])
    assert "SCMP_ACT_NOTIFY" in found["linux"]["seccomp"]["actions"]
    assert "SCMP_CMP_MASKED_EQ" in found["linux"]["seccomp"]["operators"]


def test_version_as_dockerd_reads_it(runtime: RuntimeProgram) -> None:
    first, second = runtime("--version").stdout.splitlines()
    assert first.startswith("sampan-runtime version ")
    assert second == "spec: 1.2.0"


def test_kills_for_want_of_memory_are_told(runtime: RuntimeProgram) -> None:
    def limit(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}

    runtime.write("read line; head -c 64m /dev/zero | tail; exec sleep 1000", limit)
    fifo = runtime.base / "fifo"
    os.mkfifo(fifo)
    gate = os.open(fifo, os.O_RDWR)
    with subprocess.Popen(
        [*runtime.command, "run", "--bundle", str(runtime.bundle), runtime.id], stdin=gate, stderr=subprocess.DEVNULL
    ) as running:
        wait_until(
            lambda: (runtime.root / runtime.id).exists() and runtime.state()["status"] == "running", "the program"
        )
        with subprocess.Popen(
            [*runtime.command, "events", "--interval", "1h", runtime.id], stdout=subprocess.PIPE, text=True
        ) as told:
            assert told.stdout
            assert json.loads(told.stdout.readline())["type"] == "stats"
            os.write(gate, b"go\n")
            assert json.loads(told.stdout.readline()) == {"type": "oom", "id": runtime.id}
            runtime("kill", runtime.id, "KILL")
            assert running.wait(20) == 128 + signal.SIGKILL
            assert told.wait(20) == 0
    os.close(gate)


def test_the_interpreter_cannot_be_written_to_from_inside(runtime: RuntimeProgram) -> None:
    """CVE-2019-5736: whatever gets at the executable of a process that enters gets it through a read-only mount."""
    done = subprocess.run([sys.executable, "-c", _FLAGS_OF_ITSELF], capture_output=True, text=True, check=True)
    assert int(done.stdout) & os.ST_RDONLY


_FLAGS_OF_ITSELF = """
import os
from sampan_runtime_native.cli.executable import run_from_readonly_mount
run_from_readonly_mount()
print(os.statvfs("/proc/self/exe").f_flag)
"""


def test_nothing_is_imported_from_a_containers_root() -> None:
    pid = os.fork()
    if pid == 0:
        import_no_more()
        try:
            import colorsys  # noqa: F401, one that nothing here uses
        except (ImportError, ImportWarning):
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
