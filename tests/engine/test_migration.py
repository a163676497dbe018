"""Containers moved between storage drivers: nothing is lost, whatever is in them and wherever the daemon is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ground.daemon import Daemon, new_daemon, processes_of
from ground.disks import new_disk
from ground.leaks import check_nothing_left
from sampan.linux.comparing import compare
from sampan.testing.trees import base, picture, random_changes, rework


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A root with one of each kind of thing, as a tar."""
    root = tmp_path_factory.mktemp("image")
    base(root)
    (root / "linked").mkdir()
    (root / "linked/a").write_text("three names")
    os.link(root / "linked/a", root / "linked/b")
    os.link(root / "linked/a", root / "linked/c")
    tar = ["tar", "--xattrs", "--xattrs-include=*", "--acls", "-C", str(root), "-cf", "-", "."]
    return subprocess.run(tar, check=True, capture_output=True).stdout


@contextmanager
def daemon_on(kind: str, environment: dict[str, str] | None = None) -> Iterator[Daemon]:
    """Give a daemon, not started, whose root is a disk of its own in memory: there it waits for nobody else's flushes."""
    with new_daemon(environment=environment) as daemon, new_disk(daemon.root, kind, 768 << 20):
        try:
            yield daemon
        finally:
            end(daemon)


def end(daemon: Daemon) -> None:
    """Kill the daemon and all of its processes, so that its disk can go."""
    for pid in processes_of(daemon):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if daemon.process is not None:
        daemon.process.wait(10)


def create(daemon: Daemon, image: bytes, *options: str) -> str:
    """Make a container of the image `image`, its files in vfs; give its id."""
    daemon.docker("import", "-c", 'CMD ["none"]', "-", "all:1", stdin=image)
    return daemon.docker("create", "--name", "cc", "--storage-opt", "driver=vfs", *options, "all:1").stdout.decode().strip()


def files(daemon: Daemon, container: str) -> Path:
    """Give where vfs has a container's files."""
    storage = daemon.root / "storage" / "vfs"
    with closing(sqlite3.connect(f"file:{storage}/index.db?mode=ro", uri=True)) as index:
        (number,) = index.execute("SELECT number FROM snapshot WHERE key = ?", (container,)).fetchone()
    return storage / "snapshots" / str(number)


def change_all(root: Path) -> None:
    """Change what the image has in every way that a container can."""
    rework(root)
    random_changes(7)(root)
    os.link(root / "linked/c", root / "new name of the image's file")
    with (root / "hole").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data")
    (root / "many").mkdir()
    for number in range(1500):
        (root / "many" / str(number)).write_bytes(b"%d" % number * (number % 50))
    (root / "wide").mkdir()
    os.setxattr(root / "wide", "user.note", b"x" * 200)
    acl = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000400ffffffff")
    os.setxattr(root / "etc/passwd", "system.posix_acl_access", acl)
    os.mknod(root / "device", 0o660 | 0o020000, os.makedev(7, 9))
    os.utime(root / "many", ns=(1, 111_222_333_444_555_666))
    os.utime(root, ns=(1, 222_333_444_555_666_777))


@contextmanager
def kept(root: Path, place: Path) -> Iterator[Path]:
    """Give a copy of a tree, made by cp."""
    subprocess.run(["cp", "-a", "--sparse=always", root, place / "kept"], check=True)
    yield place / "kept"
    subprocess.run(["rm", "-rf", place / "kept"], check=True)


def differences(old: Path, new: Path) -> list[Any]:
    """Tell all that differs in two trees, times and contents too."""
    before, after = os.open(old, os.O_RDONLY), os.open(new, os.O_RDONLY)
    try:
        found: list[Any] = list(compare(before, after))
    finally:
        os.close(before)
        os.close(after)
    then, now = picture(old), picture(new)
    return found + [path for path in then if then[path] != now.get(path)]


def migrate(daemon: Daemon, to: str, *, check: int = 200, name: str = "cc") -> bytes:
    status, answer = daemon.api_raw("POST", f"/sampan/containers/{name}/migrate?to={to}")
    assert status == check, answer
    return answer


def driver_of(daemon: Daemon) -> str:
    return str(daemon.api("GET", "/containers/cc/json")["GraphDriver"]["Name"])


def check_whole(daemon: Daemon, container: str, driver: str) -> None:
    """The container's snapshot is in one driver, and the engine finds no fault in any."""
    for state in daemon.api("GET", "/sampan/storage"):
        if state["State"] == "open":
            assert daemon.api("GET", f"/sampan/storage/{state['Name']}/check") == []
            found = daemon.api("GET", f"/sampan/storage/{state['Name']}/snapshots")
            assert [item["Key"] for item in found if item["Kind"] != "committed"] == [container] * (state["Name"] == driver)


def finish(daemon: Daemon) -> None:
    daemon.api("DELETE", "/containers/cc?force=1")
    check_nothing_left(daemon)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A running engine on an ext4 of its own, with busybox."""
    with daemon_on("ext4") as daemon:
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        yield daemon


@pytest.fixture
def moved(daemon: Daemon, image: bytes) -> Iterator[tuple[Daemon, str]]:
    """A daemon with a container on vfs that has changed all; removed afterwards, and nothing may be left."""
    container = create(daemon, image)
    change_all(files(daemon, container))
    yield daemon, container
    finish(daemon)


# ---------------------------------------------------------------------- all arrives


def test_everything_arrives_and_comes_back(moved: tuple[Daemon, str], tmp_path: Path) -> None:
    daemon, container = moved
    with kept(files(daemon, container), tmp_path) as before:
        migrate(daemon, "overlayfs")
        assert driver_of(daemon) == "overlayfs"
        check_whole(daemon, container, "overlayfs")
        migrate(daemon, "vfs")
        assert driver_of(daemon) == "vfs"
        check_whole(daemon, container, "vfs")
        after = files(daemon, container)
        assert differences(before, after) == []
        assert (after / "hole").stat().st_blocks < 1000
        assert (after / "new name of the image's file").stat().st_nlink == 4
    inspected = daemon.api("GET", "/containers/cc/json")
    assert inspected["HostConfig"]["StorageOpt"] == {"driver": "vfs"}
    lines = daemon.api_raw("GET", f"/events?since=0&until={time.time():.9f}")[1].splitlines()
    events = [event["Actor"]["Attributes"] for event in map(json.loads, lines) if event["Action"] == "migrate"]
    assert [(event["from"], event["to"]) for event in events] == [("vfs", "overlayfs"), ("overlayfs", "vfs")]


def test_btrfs_and_back(image: bytes, tmp_path: Path) -> None:
    with daemon_on("btrfs") as daemon:
        daemon.start("--storage-driver", "btrfs")
        container = create(daemon, image)
        change_all(files(daemon, container))
        with kept(files(daemon, container), tmp_path) as before:
            for driver in ("btrfs", "overlayfs", "btrfs", "vfs"):
                migrate(daemon, driver)
                check_whole(daemon, container, driver)
            assert differences(before, files(daemon, container)) == []
        finish(daemon)


def test_a_container_runs_on_from_where_it_was(daemon: Daemon) -> None:
    count = "n=$(cat /n 2>/dev/null || echo 0); echo $((n+1)) | tee /n; rm -f /etc/group"
    daemon.docker("run", "--name", "cc", "--network", "none", "-v", "/kept", "busybox", "sh", "-c", count)
    for number, driver in enumerate(("vfs", "overlayfs", "vfs"), start=2):
        migrate(daemon, driver)
        assert daemon.docker("start", "-a", "cc").stdout == b"%d\n" % number
        assert daemon.docker("diff", "cc").stdout.split() == b"C /etc D /etc/group A /kept A /n".split()
    daemon.api("DELETE", "/containers/cc?v=1")
    check_nothing_left(daemon)


def test_directories_that_no_layer_tells_the_times_of(daemon: Daemon) -> None:
    """They have those of the unpacking: others in each driver."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("implied/below/file"))
    daemon.docker("import", "-c", 'CMD ["none"]', "-", "implied:1", stdin=made.getvalue())
    container = daemon.docker("create", "--name", "cc", "--storage-opt", "driver=vfs", "implied:1").stdout.decode().strip()
    (files(daemon, container) / "implied/below/file").write_text("changed")
    for driver in ("overlayfs", "vfs"):
        migrate(daemon, driver)
        assert daemon.docker("diff", "cc").stdout.split() == b"C /implied C /implied/below C /implied/below/file".split()
    assert (files(daemon, container) / "implied/below/file").read_text() == "changed"
    finish(daemon)


def test_the_image_may_have_been_removed_by_force(moved: tuple[Daemon, str], tmp_path: Path) -> None:
    daemon, container = moved
    daemon.docker("rmi", "-f", "all:1")
    with kept(files(daemon, container), tmp_path) as before:
        migrate(daemon, "overlayfs")
        migrate(daemon, "vfs")
        assert differences(before, files(daemon, container)) == []


# ---------------------------------------------------------------------- refusals


def test_what_is_refused(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "cc", "--network", "none", "busybox", "sleep", "1000")
    assert b"stop it first" in migrate(daemon, "vfs", check=409)
    daemon.docker("pause", "cc")
    assert b"stop it first" in migrate(daemon, "vfs", check=409)
    daemon.docker("kill", "cc", check=None)
    daemon.docker("unpause", "cc", check=None)
    daemon.docker("stop", "-t", "0", "cc")
    migrate(daemon, "overlayfs", check=304)
    assert b"known ones are btrfs, overlayfs, vfs" in migrate(daemon, "zfs", check=400)
    assert b"is not on btrfs" in migrate(daemon, "btrfs", check=503)
    assert b"`to` is missing" in migrate(daemon, "", check=400)
    migrate(daemon, "vfs", check=404, name="absent")
    check_whole(daemon, daemon.api("GET", "/containers/cc/json")["Id"], "overlayfs")
    finish(daemon)


def test_a_size_is_kept_or_refused(image: bytes) -> None:
    with daemon_on("ext4") as daemon:
        config = daemon.base / "config.toml"
        config.write_text('[storage.overlayfs]\nquota = "loop"\n')
        daemon.start("--config", str(config))
        daemon.docker("import", "-c", 'CMD ["none"]', "-", "all:1", stdin=image)
        container = daemon.docker("create", "--name", "cc", "--storage-opt", "size=100M", "all:1").stdout.decode().strip()
        assert b"cannot limit" in migrate(daemon, "vfs", check=501)
        check_whole(daemon, container, "overlayfs")
        finish(daemon)


def test_what_no_layer_carries(moved: tuple[Daemon, str]) -> None:
    """It is named, and nothing is changed; but a socket has outlived its listener, and stays behind."""
    daemon, container = moved
    root = files(daemon, container)
    (root / "many/.wh.name").touch()
    assert b"many/.wh.name" in migrate(daemon, "overlayfs", check=501)
    check_whole(daemon, container, "vfs")
    (root / "many/.wh.name").unlink()
    os.mknod(root / "mark", 0o020600, 0)
    assert b"mark" in migrate(daemon, "overlayfs", check=501)
    (root / "mark").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/cwd/{os.path.relpath(root)}/s")
    assert b'"SocketsLeftOut":1' in migrate(daemon, "overlayfs")
    check_whole(daemon, container, "overlayfs")


def test_a_deep_tree_is_moved_or_refused_whole(moved: tuple[Daemon, str]) -> None:
    daemon, container = moved
    script = "import os\nfor _ in range(600):\n os.mkdir('d'*20)\n os.chdir('d'*20)\n"
    subprocess.run(["python3", "-c", script], cwd=files(daemon, container), check=True)
    assert b"path too long" in migrate(daemon, "overlayfs", check=501)
    check_whole(daemon, container, "vfs")


# ---------------------------------------------------------------------- others at the same time


def test_others_meanwhile(daemon: Daemon, image: bytes) -> None:
    """A start waits and then runs on the new driver; a second migration finds it done; looking does not wait."""
    fill = "mkdir /d; i=0; while [ $i -lt 3000 ]; do echo $i > /d/$i; i=$((i+1)); done"
    daemon.docker("run", "--name", "cc", "--network", "none", "busybox", "sh", "-c", f"[ -d /d ] || ({fill}); ls /d | wc -l")
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(daemon.api_raw, "POST", "/sampan/containers/cc/migrate?to=vfs")
        second = pool.submit(daemon.api_raw, "POST", "/sampan/containers/cc/migrate?to=vfs")
        started = pool.submit(daemon.docker, "start", "-a", "cc", timeout=60)
        looked = 0
        while not (first.done() or second.done()):
            assert daemon.api("GET", "/containers/cc/json")["Id"]
            assert not [f for f in daemon.api("GET", "/sampan/storage/overlayfs/check") if f["Problem"].startswith("no ")]
            looked += 1
        statuses = sorted((first.result()[0], second.result()[0]))
        assert looked and statuses in ([200, 304], [200, 409], [409, 409])
        assert started.result().stdout == b"3000\n"
    if statuses[0] == 200:
        assert driver_of(daemon) == "vfs"
    finish(daemon)


def test_what_was_read_while_the_files_went_is_not_taken_for_all(daemon: Daemon) -> None:
    """An export whose reader pauses until the container has moved: then there is nothing more to read, and it breaks off."""
    write = "dd if=/dev/zero of=/big bs=1M count=32; echo last > /last"
    daemon.docker("run", "--name", "cc", "--network", "none", "busybox", "sh", "-c", write)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(daemon.socket))
        client.sendall(b"GET /containers/cc/export HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        migrate(daemon, "vfs")
        rest = b""
        with suppress(ConnectionResetError):
            while piece := client.recv(1 << 20):
                rest = rest[-64:] + piece
    assert not rest.endswith(b"\r\n0\r\n\r\n")
    assert b"to vfs meanwhile" in daemon.log.encode()
    finish(daemon)


def test_many_at_once(daemon: Daemon) -> None:
    """Containers of one image move at once to a driver that has nothing yet: the image is unpacked there once."""
    for number in range(6):
        daemon.docker("run", "--name", f"c{number}", "--network", "none", "busybox", "sh", "-c", f"echo {number} > /n")
    with ThreadPoolExecutor(6) as pool:
        paths = [f"/sampan/containers/c{number}/migrate?to=vfs" for number in range(6)]
        assert [status for status, _ in pool.map(lambda path: daemon.api_raw("POST", path), paths)] == [200] * 6
    found = daemon.api("GET", "/sampan/storage/vfs/snapshots")
    assert sorted(item["Kind"] for item in found) == ["active"] * 6 + ["committed"]
    for number in range(6):
        assert (files(daemon, daemon.api("GET", f"/containers/c{number}/json")["Id"]) / "n").read_text() == f"{number}\n"
        daemon.api("DELETE", f"/containers/c{number}")
    check_nothing_left(daemon)


def test_a_client_that_goes_away_changes_nothing(moved: tuple[Daemon, str]) -> None:
    daemon, container = moved
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(b"POST /sampan/containers/cc/migrate?to=overlayfs HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert migrate(daemon, "overlayfs", check=304) == b"" or driver_of(daemon) == "overlayfs"
    check_whole(daemon, container, "overlayfs")


# ---------------------------------------------------------------------- kill -9

STEPS = ("_prepare", "_copy", "_compare", "_flush", "_switch", "_remove_old")

KILLER = """
import os, sys
if "daemon" in sys.orig_argv:
    from sampan.engine.migration import Migrations

    def cut_off(step):
        original = getattr(Migrations, step)

        async def wrapped(*arguments):
            wanted = open(os.environ["KILL_AT"]).read()
            if wanted == step + " before":
                os.kill(os.getpid(), 9)
            result = await original(*arguments)
            if wanted == step + " after":
                os.kill(os.getpid(), 9)
            return result

        setattr(Migrations, step, wrapped)

    for step in %r:
        cut_off(step)
"""
"""A sitecustomize of the daemon: SIGKILL before or after the step that a file names."""


@pytest.mark.parametrize("steps", [STEPS[:2], STEPS[2:4], STEPS[4:]])
def test_killed_at_a_step_it_is_whole_on_one_driver(image: bytes, tmp_path: Path, steps: tuple[str, ...]) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLER % (STEPS,))
    kill_at = tmp_path / "kill"
    kill_at.touch()
    with daemon_on("ext4", environment={"PYTHONPATH": str(tmp_path), "KILL_AT": str(kill_at)}) as daemon:
        daemon.start()
        container = create(daemon, image)
        rework(files(daemon, container))
        with kept(files(daemon, container), tmp_path) as before:
            for step, when in product(steps, ("before", "after")):
                old, new = ("vfs", "overlayfs") if driver_of(daemon) == "vfs" else ("overlayfs", "vfs")
                kill_at.write_text(f"{step} {when}")
                killed_while_migrating(daemon, new)
                daemon.start()
                moved = step == "_remove_old" or (step, when) == ("_switch", "after")
                assert driver_of(daemon) == (new if moved else old), (step, when)
                check_whole(daemon, container, new if moved else old)
            kill_at.write_text("")
            if driver_of(daemon) != "vfs":
                migrate(daemon, "vfs")
            assert differences(before, files(daemon, container)) == []
        finish(daemon)


def killed_while_migrating(daemon: Daemon, to: str) -> None:
    """Ask for the migration in which the daemon ends itself."""
    with pytest.raises((OSError, IndexError, ValueError)):
        daemon.api_raw("POST", f"/sampan/containers/cc/migrate?to={to}")
    assert daemon.process is not None
    assert daemon.process.wait(20) == -signal.SIGKILL


def test_killed_at_any_moment(image: bytes, tmp_path: Path) -> None:
    with daemon_on("ext4") as daemon:
        daemon.start()
        container = create(daemon, image)
        rework(files(daemon, container))
        with kept(files(daemon, container), tmp_path) as before:
            for moment in range(5):
                target = "overlayfs" if driver_of(daemon) == "vfs" else "vfs"
                asking = threading.Thread(target=ask_and_forget, args=(daemon, target))
                asking.start()
                asking.join(0.07 * moment)  # the point of the kill, not a wait for anything
                daemon.kill()
                asking.join()
                daemon.start()
                check_whole(daemon, container, driver_of(daemon))
            if driver_of(daemon) != "vfs":
                migrate(daemon, "vfs")
            assert differences(before, files(daemon, container)) == []
        finish(daemon)


def ask_and_forget(daemon: Daemon, target: str) -> None:
    try:
        daemon.api_raw("POST", f"/sampan/containers/cc/migrate?to={target}")
    except (OSError, IndexError, ValueError):
        pass
