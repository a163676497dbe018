"""The byte ledger of a busy engine says what `du` says, for every storage driver, and whose each byte is."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ground.daemon import Daemon, new_daemon
from ground.disks import new_disk
from ground.leaks import check_nothing_left


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def du(path: Path) -> int:
    """Allocated bytes of a tree."""
    return int(run("du", "-s", "--block-size=1", str(path)).split()[0])


@pytest.fixture(scope="module", params=["overlayfs", "vfs", "btrfs"])
def busy(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """An engine with images that share layers, containers that wrote and logged, volumes, and hard links and holes in them."""
    on_btrfs = request.param == "btrfs"
    with new_daemon("--storage-driver", request.param) as daemon, ExitStack() as stack:
        if on_btrfs:
            stack.enter_context(new_disk(daemon.root, "btrfs", 512 << 20))
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        _fill(daemon)
        yield daemon
        for container in daemon.api("GET", "/containers/json?all=1"):
            daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for volume in daemon.api("GET", "/volumes")["Volumes"]:
            daemon.api("DELETE", f"/volumes/{volume['Name']}")
        if not on_btrfs:
            check_nothing_left(daemon)
        daemon.stop()


def _fill(daemon: Daemon) -> None:
    daemon.docker("run", "--name", "base", "busybox", "sh", "-c", "mkdir /big; dd if=/dev/urandom of=/big/f bs=64k count=32; ln /big/f /big/g")
    daemon.docker("commit", "base", "child")
    daemon.docker("tag", "busybox", "other:name")
    write = "dd if=/dev/urandom of=/w bs=4k count=50; ln /w /w2; dd if=/dev/zero of=/hole bs=1 seek=5000000 count=1; rm -r /big"
    daemon.docker("run", "--name", "writer", "-v", "data:/d", "child", "sh", "-c", f"{write}; cp /w /d/; ln /d/w /d/x; seq 20000")
    daemon.docker("run", "-d", "--name", "live", "-v", "/anonymous", "busybox", "sh", "-c", "echo a > /b; seq 99; sleep 9999")
    daemon.docker("create", "--name", "idle", "busybox")


def ledger(daemon: Daemon) -> dict[str, Any]:
    return daemon.api("GET", "/sampan/storage/df")


def lines(daemon: Daemon, kind: str) -> dict[str, dict[str, Any]]:
    return {line["Name"]: line for line in ledger(daemon)["Objects"] if line["Kind"] == kind}


def test_it_is_what_du_says(busy: Daemon) -> None:
    run("sync", "-f", str(busy.root))
    for _ in range(2):  # the second time from what is remembered of committed snapshots
        before = du(busy.root)
        found = ledger(busy)
        assert before == found["Bytes"] == du(busy.root)
        assert found["Inodes"] == int(run("du", "-s", "--inodes", str(busy.root)).split()[0])
        assert sum(line["Bytes"] for line in found["Objects"]) == found["Bytes"]


def test_each_object_is_what_du_says_of_it(busy: Daemon) -> None:
    run("sync", "-f", str(busy.root))
    ids = {c["Names"][0]: c["Id"] for c in busy.api("GET", "/containers/json?all=1")}
    logs, bundles, volumes = (lines(busy, kind) for kind in ("log", "bundle", "volume"))
    for container_id in ids.values():
        directory = busy.root / "containers" / container_id
        assert logs[container_id]["Bytes"] == du(directory / "logs")
        assert logs[container_id]["Bytes"] + bundles[container_id]["Bytes"] == du(directory)
    assert volumes["data"]["Bytes"] == du(busy.root / "volumes" / "local" / "data")
    for name, line in lines(busy, "blob").items():
        assert line["Bytes"] == du(busy.root / "content" / "blobs" / name.replace(":", "/"))
        assert line["Owners"]


def test_nothing_is_nobodys(busy: Daemon) -> None:
    assert lines(busy, "other") == {}
    assert lines(busy, "scratch") == {}
    assert set(lines(busy, "container")) == {c["Id"] for c in busy.api("GET", "/containers/json?all=1")}
    assert all(line["Owners"] for line in lines(busy, "layer").values())
    assert all(line["Bytes"] >= 0 for line in ledger(busy)["Objects"])


def test_what_a_container_writes_is_seen(busy: Daemon) -> None:
    live = busy.api("GET", "/containers/live/json")["Id"]
    run("sync", "-f", str(busy.root))
    before = lines(busy, "container")[live]["Bytes"]
    busy.docker("exec", "live", "dd", "if=/dev/urandom", "of=/more", "bs=64k", "count=16")
    run("sync", "-f", str(busy.root))
    grown = lines(busy, "container")[live]["Bytes"] - before
    assert 1 << 20 <= grown <= (1 << 20) + 65536
    assert busy.api("GET", f"/containers/{live}/json?size=1")["SizeRw"] == before + grown


def test_the_command_sums_by_kind_and_lists_objects(busy: Daemon) -> None:
    run("sync", "-f", str(busy.root))
    rows = busy.sampan("storage", "df", "--format", "{{.Kind}} {{.Bytes}}").stdout.decode().splitlines()
    sums = [int(row.split()[1]) for row in rows]
    assert rows[-1].startswith("total ")
    assert sum(sums[:-1]) == sums[-1] == du(busy.root)
    table = busy.sampan("storage", "df").stdout.decode().splitlines()
    assert table[0].split() == ["KIND", "DRIVER", "OBJECTS", "INODES", "SIZE"]
    objects = busy.sampan("storage", "df", "-v").stdout.decode()
    assert "data" in objects
    assert len(objects.splitlines()) == len(ledger(busy)["Objects"]) + 1


def test_a_stray_file_is_others(busy: Daemon) -> None:
    path = busy.root / "stray"
    path.write_bytes(bytes(10000))
    run("sync", "-f", str(busy.root))
    assert lines(busy, "other")["stray"]["Bytes"] == du(path)
    path.unlink()


def test_it_is_told_while_everything_changes(daemon: Daemon) -> None:
    """What goes while it is measured is no error; afterwards the ledger is exact again."""
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(5):
                write = "mkdir -p /d/a/b /e/a/b; for i in $(seq 50); do mv /d/a /d/c; mv /d/c /d/a; echo $i > /e/a/b/$i; done"
                daemon.docker("run", "--rm", "-v", "/d", "busybox", "sh", "-c", write)
                daemon.docker("volume", "create", f"{name}{number}")
                daemon.docker("volume", "rm", f"{name}{number}")
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    workers = [threading.Thread(target=work, args=(name,)) for name in ("va", "vb", "vc")]
    for worker in workers:
        worker.start()
    told = 0
    while any(worker.is_alive() for worker in workers):
        assert ledger(daemon)["Bytes"] > 0
        assert daemon.api("GET", "/system/df")["LayersSize"] > 0
        told += 1
    assert failures == []
    assert told > 3
    run("sync", "-f", str(daemon.root))
    assert ledger(daemon)["Bytes"] == du(daemon.root)
