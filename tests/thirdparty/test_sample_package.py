"""A third party's drivers, from the outside: built, installed in a clean environment, proved and used like ours."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ground.daemon import Daemon, new_daemon
from ground.leaks import check_nothing_left

ROOT = Path(__file__).resolve().parents[2]
STORAGE = Path(__file__).parent / "sampan-storage-example"
NETWORK = Path(__file__).parent / "sampan-network-example"
RUNTIME = Path(__file__).parent / "sampan-runtime-example"
BROKEN = Path(__file__).parent / "sampan-network-broken"
CACHE = ROOT / ".cache" / "thirdparty"

SOURCES = [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", ROOT / "core", ROOT / "plugins", STORAGE, NETWORK, RUNTIME, BROKEN]
"""All that the wheels are made of."""

EXAMPLES = ("sampan_storage_example", "sampan_network_example", "sampan_runtime_example")

QUIETLY = ("-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Installation:
    """A virtual environment with Sampan and the examples, and a directory that has the broken plugin on top."""

    python: Path
    broken: Path


@pytest.fixture(scope="module")
def installation() -> Installation:
    """Each part is made anew only when what it is made of has changed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    projects = [source / "pyproject.toml" for source in (ROOT, STORAGE, NETWORK, RUNTIME, BROKEN)]
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keep("builder", content_key([]), make_builder)
        keep("wheels", content_key(SOURCES), make_wheels)
        keep("venv", content_key(projects), make_venv)
        keep("installed", content_key(SOURCES), install_wheels)
    return Installation(CACHE / "venv" / "bin" / "python", CACHE / "broken")


def content_key(sources: list[Path]) -> str:
    hashed = hashlib.sha256(sys.version.encode())
    for source in sources:
        for path in sorted([source] if source.is_file() else source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                hashed.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
                hashed.update(path.read_bytes())
    return hashed.hexdigest()


def keep(name: str, key: str, make: Callable[[], None]) -> None:
    """Make the part unless it was made, wholly, of the same things."""
    stamp = CACHE / f"{name}.key"
    if stamp.is_file() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_text(key)


def make_builder() -> None:
    checked(sys.executable, "-m", "venv", "--clear", CACHE / "builder")
    checked(*pip("builder"), "install", "hatchling>=1.27")


def make_wheels() -> None:
    shutil.rmtree(CACHE / "wheels", ignore_errors=True)
    checked(*pip("builder"), "wheel", "--no-build-isolation", "--no-deps", "-w", CACHE / "wheels", ROOT, STORAGE, NETWORK, RUNTIME, BROKEN)


def make_venv() -> None:
    checked(sys.executable, "-m", "venv", "--clear", CACHE / "venv")
    checked(*pip("venv"), "install", wheel("sampan"), *(f"{wheel(name)}[testing]" for name in EXAMPLES))


def install_wheels() -> None:
    checked(*pip("venv"), "install", "--no-deps", "--force-reinstall", *map(wheel, ("sampan", *EXAMPLES)))
    shutil.rmtree(CACHE / "broken", ignore_errors=True)
    checked(*pip("venv"), "install", "--no-deps", "--target", CACHE / "broken", wheel("sampan_network_broken"))


def pip(environment: str) -> list[str | Path]:
    return [CACHE / environment / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]


def wheel(name: str) -> Path:
    return next((CACHE / "wheels").glob(f"{name}-*.whl"))


def checked(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def their_daemon(installation: Installation) -> Iterator[Daemon]:
    with new_daemon() as daemon:
        daemon.python = str(installation.python)
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon
        daemon.stop()


def test_the_engine_comes_from_the_wheel(installation: Installation) -> None:
    """And not from this checkout, or the tests below would show nothing."""
    script = "import sampan as a, sampan_runtime_native as b, sampan_storage_example as c, sampan_network_example as d\n"
    script += "import sampan_runtime_example as e\nprint(*(m.__file__ for m in (a, b, c, d, e)))"
    for path in checked(installation.python, "-c", script, cwd=Path("/")).split():
        assert Path(path).is_relative_to(CACHE / "venv"), path


@pytest.mark.timeout(400)  # a whole suite each, with its kills, beside other tests
@pytest.mark.parametrize(
    ("example", "cases"),
    [(STORAGE, ""), (NETWORK, ""), (RUNTIME, "recover or delete or signal or exec or output or terminal or cannot_run")],
    ids=["storage", "network", "runtime"],
)
def test_its_own_conformance_test_passes(installation: Installation, tmp_path: Path, example: Path, cases: str) -> None:
    """As its author runs it: pytest in the environment, nothing of this project's tests beside it. Of the runtime's, the cases
    that its own lines have to do with: runc has all of them among our conformance tests.
    """
    shutil.copytree(example / "tests", tmp_path / "tests")
    arguments = (*QUIETLY, "--basetemp", tmp_path / "t", "-k", cases, "tests")
    output = checked(installation.python, "-m", "pytest", *arguments, cwd=tmp_path)
    passed = int(output.rpartition(" passed")[0].split()[-1])
    assert passed > 20
    assert " skipped" not in output


def test_a_wrong_driver_fails_its_conformance_test(installation: Installation, tmp_path: Path) -> None:
    """One that forgets to copy the parent is found out, and the failing assert shows its values."""
    (tmp_path / "test_wrong.py").write_text(
        "from sampan.testing.storage import StorageDriverSuite\n"
        "from sampan_storage_example.driver import ExampleDriver\n"
        "class Forgetful(ExampleDriver):\n"
        "    def _copy(self, key, source, target):\n"
        "        target.mkdir(mode=0o755)\n"
        "class TestWrong(StorageDriverSuite):\n"
        "    driver_class = Forgetful\n"
    )
    done = subprocess.run(
        [installation.python, "-m", "pytest", *QUIETLY, "-x", "--basetemp", tmp_path / "t", "-k", "a_key_is_opaque", tmp_path],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "AssertionError: assert [] == ['file']" in done.stdout


def test_the_list_of_plugins_names_driver_and_distribution(their_daemon: Daemon) -> None:
    entries = {(entry["Kind"], entry["Name"]): entry for entry in their_daemon.api("GET", "/sampan/plugins")}
    assert entries["network", "example"]["Distribution"] == "sampan-network-example"
    assert set(entries["network", "example"]["Capabilities"]) == {"addresses", "multiple"}
    assert entries["storage", "example"] == {
        "Kind": "storage", "Name": "example", "Distribution": "sampan-storage-example", "Version": "1.0.0",
        "State": "ready", "Reason": "", "Capabilities": [], "Default": False,
    }  # fmt: skip
    lines = their_daemon.sampan("plugins").stdout.decode().splitlines()
    assert any(line.split()[:5] == ["storage", "example", "sampan-storage-example", "1.0.0", "ready"] for line in lines)


def test_docker_runs_a_container_on_it(their_daemon: Daemon) -> None:
    output = their_daemon.docker("run", "--name", "sample", "--storage-opt", "driver=example", "--network", "none", "busybox",
                                 "sh", "-c", "echo written > /file && cat /file")  # fmt: skip
    assert output.stdout == b"written\n"
    container = their_daemon.api("GET", "/containers/sample/json")
    assert container["GraphDriver"]["Name"] == "example"
    trees = their_daemon.root / "storage" / "example" / "snapshots"
    assert [path.read_text() for path in trees.glob("*/file")] == ["written\n"]
    spans = their_daemon.api("GET", "/containers/sample/trace")["Spans"]
    assert "example" in {span["Driver"] for span in spans}
    their_daemon.docker("rm", "sample")
    assert list(trees.glob("*/file")) == []
    check_nothing_left(their_daemon)


def test_docker_joins_containers_by_it(their_daemon: Daemon) -> None:
    """By name; the one that is outside, and the world, are not reached."""
    their_daemon.docker("network", "create", "--driver", "example", "island")
    their_daemon.docker("run", "--detach", "--name", "friday", "--network", "island", "busybox", "sleep", "1000")
    ping = ("ping", "-c", "1", "-W", "5", "friday")
    assert b"1 packets received" in their_daemon.docker("run", "--rm", "--network", "island", "busybox", *ping).stdout
    gateway = their_daemon.api("GET", "/networks/island")["IPAM"]["Config"][0]["Gateway"]
    nobody = ("sh", "-c", f"ping -c 1 -W 1 {gateway} || echo nobody")
    assert b"nobody" in their_daemon.docker("run", "--rm", "--network", "island", "busybox", *nobody).stdout
    assert their_daemon.api("GET", "/sampan/system/fsck")["Damage"] == []
    their_daemon.docker("rm", "--force", "friday")
    their_daemon.docker("network", "rm", "island")
    check_nothing_left(their_daemon)


def test_it_can_be_the_default_with_settings_of_its_own(installation: Installation) -> None:
    with new_daemon("--storage-driver", "example") as daemon:
        daemon.python = str(installation.python)
        config = daemon.base / "config.toml"
        config.write_text('[storage.example]\nreflink = "never"\n')
        daemon.start("--config", str(config))
        daemon.sampan("image", "bootstrap")
        assert daemon.sampan("run", "--rm", "--network", "none", "busybox", "echo", "hi").stdout == b"hi\n"
        assert daemon.api("GET", "/info")["Driver"] == "example"
        check_nothing_left(daemon)
        daemon.stop()
        config.write_text("[storage.example]\nreflnk = 1\n")
        with pytest.raises(AssertionError, match=r"settings \[storage\.example\]: reflnk"):
            daemon.start("--config", str(config))


def test_a_root_made_with_it_says_what_is_missing_without_it(installation: Installation) -> None:
    """The default of a root is never switched in silence: its images would seem to be gone."""
    with new_daemon() as daemon:
        daemon.python = str(installation.python)
        daemon.start("--storage-driver", "example")
        daemon.stop()
        daemon.environment["SAMPAN_DISABLED_PLUGINS"] = "sampan-storage-example"
        with pytest.raises(AssertionError, match="unknown storage driver 'example'"):
            daemon.start()


def test_a_broken_plugin_is_listed_and_breaks_nothing(installation: Installation) -> None:
    with new_daemon(environment={"PYTHONPATH": str(installation.broken)}) as daemon:
        daemon.python = str(installation.python)
        daemon.start()
        broken = [entry for entry in daemon.api("GET", "/sampan/plugins") if entry["State"] == "broken"]
        assert [(entry["Name"], entry["Distribution"], entry["Version"]) for entry in broken] == [
            ("sampan-network-broken", "sampan-network-broken", "0.3.0")
        ]
        assert "No module named 'library_that_is_not_installed'" in broken[0]["Reason"]
        assert any("sampan-network-broken" in warning for warning in daemon.api("GET", "/info")["Warnings"])
        line = next(line for line in daemon.sampan("plugins").stdout.decode().splitlines() if "sampan-network-broken" in line)
        assert "broken" in line.split()
        daemon.sampan("image", "bootstrap")
        assert daemon.docker("run", "--rm", "--storage-opt", "driver=example", "busybox", "echo", "hi").stdout == b"hi\n"
        refused = daemon.api_raw("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "sampan-driver:broken"}})
        assert refused[0] == 400
        assert "is installed but broken" in json.loads(refused[1])["message"]
        check_nothing_left(daemon)
        daemon.stop()


def test_a_container_outlives_its_shim(their_daemon: Daemon) -> None:
    """The shim is killed: the container goes on, its output is whole, and what it ends with is known; then the daemon, too."""
    script = "trap 'echo end; exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"
    their_daemon.docker("run", "--detach", "--name", "cat", "--network", "none", "--runtime", "example", "busybox", "sh", "-c", script)
    found = their_daemon.api("GET", "/containers/cat/json")
    log = their_daemon.state / "containers" / found["Id"] / "shim.log"
    kill_shim(log)
    wait_for_lines(their_daemon, "cat")
    their_daemon.kill()
    kill_shim(log)
    their_daemon.start()
    wait_for_lines(their_daemon, "cat")
    state = their_daemon.api("GET", "/containers/cat/json")["State"]
    assert (state["Status"], state["Pid"]) == ("running", found["State"]["Pid"])
    assert their_daemon.docker("exec", "cat", "echo", "hi").stdout == b"hi\n"
    their_daemon.docker("stop", "cat")
    state = their_daemon.api("GET", "/containers/cat/json")["State"]
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 7, "")
    *lines, last = their_daemon.docker("logs", "cat").stdout.decode().splitlines()
    assert lines == [str(number) for number in range(len(lines))]
    assert last == "end"
    their_daemon.docker("rm", "cat")
    check_nothing_left(their_daemon)


def test_a_handle_of_another_release_is_refused_and_the_container_removed(their_daemon: Daemon) -> None:
    their_daemon.docker("run", "--detach", "--name", "old", "--network", "none", "--runtime", "example", "busybox", "sleep", "1000")
    found = their_daemon.api("GET", "/containers/old/json")
    state_directory = their_daemon.state / "containers" / found["Id"]
    handle = state_directory / "handle.json"
    handle.write_text(json.dumps(json.loads(handle.read_text()) | {"version": 99}))
    kill_shim(state_directory / "shim.log")
    their_daemon.docker("wait", "old")
    state = their_daemon.api("GET", "/containers/old/json")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 255)
    assert "its handle has version 99, and this release knows 1" in state["Error"]
    process = Path(f"/proc/{found['State']['Pid']}")
    assert not process.exists() or " Z " in (process / "stat").read_text()  # init may be slow to collect it
    their_daemon.docker("rm", "old")
    check_nothing_left(their_daemon)


def kill_shim(log: Path) -> None:
    """Kill the shim that holds its `shim.log` open, and wait for its end."""
    found = {int(p.name): p for p in Path("/proc").iterdir() if p.name.isdigit() and holds_as_stderr(p, log)}
    (pid,) = (pid for pid, process in found.items() if parent_of(process) not in found)  # the others are its children
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)


def holds_as_stderr(process: Path, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return (process / "fd/2").readlink() == path and (process / "comm").read_text().startswith("shim ")
    return False


def parent_of(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def wait_for_lines(daemon: Daemon, name: str) -> None:
    """Wait until the log has grown by a few lines: the container writes, and somebody reads."""
    before = len(daemon.docker("logs", name).stdout.splitlines())
    deadline = time.monotonic() + 20
    while len(daemon.docker("logs", name).stdout.splitlines()) < before + 5:
        assert time.monotonic() < deadline, "the log does not grow"
        time.sleep(0.05)


@pytest.mark.parametrize("example", [STORAGE, NETWORK], ids=["storage", "network"])
def test_the_example_is_within_the_public_contract(example: Path) -> None:
    """It imports `sampan.api` and `sampan.linux`, and nothing else of ours."""
    import ast

    imported = set()
    for path in (example / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    ours = {name for name in imported if name.split(".")[0] == "sampan"}
    assert ours
    assert all(name.startswith(("sampan.api", "sampan.linux")) for name in ours), ours
