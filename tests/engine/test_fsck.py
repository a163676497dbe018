"""fsck through a real engine: clean when all is well, each damage named exactly, mended where nothing is lost, told where not."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ground.daemon import Daemon, new_daemon
from ground.disks import new_disk
from sampan.linux import cgroups


def check(daemon: Daemon, query: str = "") -> dict[str, Any]:
    return daemon.api("GET", f"/sampan/system/fsck{query}")


def repair(daemon: Daemon) -> dict[str, Any]:
    return daemon.api("POST", "/sampan/system/fsck")


def told(faults: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(fault["Area"], fault["Subject"]) for fault in faults}


def change(daemon: Daemon, sql: str, *values: str) -> None:
    """Change the metadata behind the engine's back, foreign keys or not."""
    with closing(sqlite3.connect(daemon.root / "metadata.db")) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def rows(daemon: Daemon, sql: str) -> list[Any]:
    with closing(sqlite3.connect(daemon.root / "metadata.db")) as connection:
        return [row[0] for row in connection.execute(sql)]


def blob(daemon: Daemon, digest: str) -> Path:
    return daemon.root / "content" / "blobs" / digest.replace(":", "/")


def layer_of(daemon: Daemon) -> str:
    """Give the digest of the busybox image's only layer."""
    manifest = next(e for e in json.loads((daemon.root / "content" / "index.json").read_text())["manifests"])
    return json.loads(blob(daemon, manifest["digest"]).read_text())["layers"][0]["digest"]


@pytest.fixture
def container(daemon: Daemon) -> str:
    """A container that has run and written, with a volume."""
    return daemon.docker("run", "-d", "-v", "data:/d", "busybox", "sh", "-c", "echo log; echo kept > /d/file; touch /new; sleep 9999").stdout.decode().strip()


@pytest.fixture
def clean(daemon: Daemon, container: str) -> Iterator[Daemon]:
    """A busy engine that is clean before, and whose repair leaves it clean and working."""
    report = check(daemon)
    assert (report["Damage"], report["Skipped"]) == ([], [])
    yield daemon
    assert check(daemon)["Damage"] == []
    assert daemon.docker("exec", container, "cat", "/d/file").stdout == b"kept\n"
    assert daemon.docker("run", "--rm", "busybox", "echo", "works").stdout == b"works\n"
    assert check(daemon)["Damage"] == []


# ---------------------------------------------------------------------- what can be mended


def stray_blob(daemon: Daemon, container: str) -> tuple[str, str]:
    digest = "sha256:" + "ab" * 32
    blob(daemon, digest).write_bytes(b"nobody's")
    return "images", digest


def half_blob(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.root / "content" / "ingest" / "half"
    path.write_bytes(b"half")
    return "images", str(path)


def forgotten_need(daemon: Daemon, container: str) -> tuple[str, str]:
    digest = layer_of(daemon)
    change(daemon, "DELETE FROM blobs WHERE digest = ?", digest)
    return "images", digest


def need_of_no_image(daemon: Daemon, container: str) -> tuple[str, str]:
    digest = layer_of(daemon)
    change(daemon, "INSERT INTO blobs VALUES (?, ?, 5)", "sha256:" + "cd" * 32, digest)
    return "images", digest


def tag_of_no_image(daemon: Daemon, container: str) -> tuple[str, str]:
    name = "docker.io/library/ghost:latest"
    change(daemon, "INSERT INTO tags VALUES (?, ?)", name, "sha256:" + "cd" * 32)
    return "images", f"tag {name}"


def index_gone(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.root / "content" / "index.json"
    path.unlink()
    return "images", str(path)


def layout_wrong(daemon: Daemon, container: str) -> tuple[str, str]:
    (daemon.root / "content" / "oci-layout").write_text("{}")
    return "images", str(daemon.root / "content" / "index.json")


def snapshot_without_owner(daemon: Daemon, container: str) -> tuple[str, str]:
    change(daemon, "DELETE FROM snapshots WHERE owner_id = ?", container)
    return "storage overlayfs", container


def owner_without_object(daemon: Daemon, container: str) -> tuple[str, str]:
    key = "ef" * 32
    change(daemon, "INSERT INTO snapshots VALUES ('overlayfs', ?, 'container', ?)", key, key)
    return "storage overlayfs", key


def stray_snapshot_directory(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.root / "storage" / "overlayfs" / "snapshots" / "987654"
    (path / "fs" / "deep").mkdir(parents=True)
    return "storage overlayfs", str(path)


def stray_container_directory(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.root / "containers" / ("12" * 32)
    (path / "logs").mkdir(parents=True)
    return "containers", str(path)


def stray_state_directory(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.state / "containers" / ("34" * 32)
    path.mkdir()
    return "containers", str(path)


def file_among_containers(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.root / "containers" / "note.txt"
    path.write_text("?")
    return "containers", str(path)


def log_directory_gone(daemon: Daemon, container: str) -> tuple[str, str]:
    stopped = daemon.docker("create", "busybox", "echo", "again").stdout.decode().strip()
    shutil.rmtree(daemon.root / "containers" / stopped)
    return "containers", f"container {stopped[:12]}"


def unrecorded_volume(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.root / "volumes" / "local" / "found" / "_data"
    path.mkdir(parents=True)
    (path / "precious").write_text("not to be lost")
    return "volumes", "found"


def removal_cut_off(daemon: Daemon, container: str) -> tuple[str, str]:
    path = daemon.root / "volumes" / "local" / ".0123456789abcdef"
    (path / "_data").mkdir(parents=True)
    return "volumes", str(path)


def stray_cgroup(daemon: Daemon, container: str) -> tuple[str, str]:
    group = cgroups.Cgroup(f"/sampan/{daemon.engine_id}/{'56' * 32}")
    group.create()
    return "cgroups", group.path


MENDABLE = [
    stray_blob, half_blob, forgotten_need, need_of_no_image, tag_of_no_image, index_gone, layout_wrong, snapshot_without_owner,
    owner_without_object, stray_snapshot_directory, stray_container_directory, stray_state_directory, file_among_containers,
    log_directory_gone, unrecorded_volume, removal_cut_off, stray_cgroup,
]  # fmt: skip


@pytest.mark.parametrize("damage", MENDABLE, ids=lambda damage: damage.__name__)
def test_named_and_mended(clean: Daemon, container: str, damage: Callable[[Daemon, str], tuple[str, str]]) -> None:
    expected = damage(clean, container)
    found = check(clean)["Damage"]
    assert told(found) == {expected}
    assert all(fault["Repairable"] for fault in found)
    assert check(clean)["Damage"] == found, "to check changes nothing"
    report = repair(clean)
    assert told(report["Mended"]) == {expected}
    assert report["Damage"] == []


def test_all_of_it_at_once(clean: Daemon, container: str) -> None:
    expected = [damage(clean, container) for damage in MENDABLE if damage is not layout_wrong]  # the index is one fault
    done = clean.sampan("system", "fsck", check=1)
    assert f"{len(expected)} damage\n" in done.stdout.decode(), done.stdout
    text = clean.sampan("system", "fsck", "--repair").stdout.decode()
    assert f"no damage left, {len(expected)} mended" in text
    for area, subject in expected:
        assert f"mended: {area}: {subject}: " in text
    assert clean.sampan("system", "fsck").stdout == b"no damage\n"
    clean.docker("run", "--rm", "-v", "found:/f", "busybox", "grep", "-q", "not to be lost", "/f/precious")


# ---------------------------------------------------------------------- what only a person can mend


@dataclass(frozen=True)
class Archive:
    """The busybox image as `docker load` takes it."""

    data: bytes


@pytest.fixture
def archive(daemon: Daemon) -> Archive:
    source = f"oci:{daemon.root}/content:busybox:latest"
    target = daemon.base / "busybox.tar"
    target.unlink(missing_ok=True)
    subprocess.run(["skopeo", "copy", source, f"oci-archive:{target}:busybox:latest"], check=True, capture_output=True)
    return Archive(target.read_bytes())


def expect_lasting(daemon: Daemon, subject: str, problem: str) -> None:
    for report in (check(daemon), repair(daemon)):
        (fault,) = report["Damage"]
        assert (fault["Subject"], fault["Repairable"]) == (subject, False)
        assert problem in fault["Problem"]
        assert fault["Remedy"]
    daemon.sampan("system", "fsck", "--repair", check=1)


@pytest.mark.parametrize("size", [None, 0, 1000], ids=["missing", "empty", "truncated"])
def test_a_torn_blob_is_told_and_loading_again_mends_it(clean: Daemon, archive: Archive, size: int | None) -> None:
    digest = layer_of(clean)
    if size is None:
        blob(clean, digest).unlink()
    else:
        os.truncate(blob(clean, digest), size)
    expect_lasting(clean, digest, "not there" if size is None else f"has {size} bytes")
    clean.docker("load", stdin=archive.data)


def test_deep_finds_content_that_is_not_what_its_digest_says(clean: Daemon, archive: Archive) -> None:
    digest = layer_of(clean)
    with blob(clean, digest).open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    assert check(clean)["Damage"] == []
    (fault,) = check(clean, "?deep=1")["Damage"]
    assert fault["Subject"] == digest
    assert str(blob(clean, digest)) in fault["Remedy"]
    clean.sampan("system", "fsck", "--deep", check=1)
    blob(clean, digest).unlink()
    clean.docker("load", stdin=archive.data)
    assert check(clean, "?deep=1")["Damage"] == []


def test_a_lost_record_of_an_image_takes_what_was_only_its(clean: Daemon, archive: Archive) -> None:
    """Its tags, needs, layers and blobs are nobody's then; what containers stand on stays."""
    change(clean, "DELETE FROM images")
    found = told(check(clean)["Damage"])
    assert ("images", "tag docker.io/library/busybox:latest") in found
    assert ("images", layer_of(clean)) in found
    assert repair(clean)["Damage"] == []
    assert list((clean.root / "content" / "blobs" / "sha256").iterdir()) == []
    clean.docker("load", stdin=archive.data)


def test_a_damaged_database_is_told(clean: Daemon) -> None:
    """An index that lacks a row is what quick_check finds; rebuilt, it is sound again."""
    with closing(sqlite3.connect(clean.root / "metadata.db")) as connection:
        connection.execute("CREATE TABLE torn (a TEXT)")
        connection.execute("INSERT INTO torn VALUES ('x')")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE torn (a TEXT NOT NULL, b NOT NULL)' WHERE name = 'torn'")
        connection.commit()
    (fault,) = check(clean)["Damage"]
    assert (fault["Area"], fault["Repairable"]) == ("metadata", False)
    with closing(sqlite3.connect(clean.root / "metadata.db")) as connection:
        connection.execute("DROP TABLE torn")
        connection.commit()


def test_a_lost_volume(clean: Daemon) -> None:
    clean.api("POST", "/volumes/create", {"Name": "gone"})
    shutil.rmtree(clean.root / "volumes" / "local" / "gone")
    expect_lasting(clean, "gone", "has nothing of it")
    assert "gone" in clean.docker("volume", "ls", "-q").stdout.decode().split()
    clean.docker("system", "df", "-v")
    clean.docker("volume", "rm", "gone")


def test_a_lost_root_file_system_of_a_container(clean: Daemon) -> None:
    lost = clean.docker("create", "busybox", "true").stdout.decode().strip()
    with closing(sqlite3.connect(clean.root / "storage" / "overlayfs" / "index.db")) as connection, connection:
        (number,) = connection.execute("SELECT number FROM snapshot WHERE key = ?", (lost,)).fetchone()
        connection.execute("DELETE FROM snapshot WHERE key = ?", (lost,))
    shutil.rmtree(clean.root / "storage" / "overlayfs" / "snapshots" / str(number))
    expect_lasting(clean, lost, "not there")
    clean.docker("ps", "-as")
    clean.docker("rm", lost)


@pytest.mark.parametrize("place", ["root/odd", "state/odd", "root/content/odd", "root/content/blobs/sha256/odd", "root/storage/odd"])
def test_strays_are_told_and_left_alone(clean: Daemon, place: str) -> None:
    path = clean.base / place
    path.write_text("somebody's")
    expect_lasting(clean, str(path), "")
    assert path.read_text() == "somebody's"
    path.unlink()


def test_what_a_killed_probe_left_goes_at_the_next_start(own_daemon: Daemon) -> None:
    own_daemon.stop()
    for name in (".probe-a1b2c3", ".idmap-d4e5f6"):
        (own_daemon.root / "storage" / name / "lower").mkdir(parents=True)
    own_daemon.start()
    assert sorted(entry.name for entry in (own_daemon.root / "storage").iterdir()) == ["overlayfs"]
    assert check(own_daemon)["Damage"] == []


def test_a_root_that_is_a_file_system_of_its_own() -> None:
    with new_daemon() as daemon, new_disk(daemon.root, "ext4", 64 << 20):
        daemon.start()
        assert check(daemon)["Damage"] == []
        daemon.stop()


def test_names_that_no_terminal_should_see(clean: Daemon) -> None:
    path = os.fsencode(clean.root) + b"/odd\xff\x1b[2J\nname"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    text = clean.sampan("system", "fsck", check=1).stdout
    assert b"odd?\\x1b[2J\\nname" in text
    assert b"\x1b" not in text
    assert b"odd?\\x1b" in clean.sampan("storage", "df", "-v").stdout
    os.unlink(path)


def test_a_driver_that_is_gone(own_daemon: Daemon) -> None:
    daemon = own_daemon
    made = daemon.docker("create", "--storage-opt", "driver=vfs", "busybox", "true").stdout.decode().strip()
    daemon.stop()
    daemon.environment["SAMPAN_DISABLED_PLUGINS"] = "sampan-storage-vfs"
    daemon.start()
    (fault,) = check(daemon)["Damage"]
    assert (fault["Area"], fault["Repairable"]) == ("storage vfs", False)
    (container,) = daemon.api("GET", "/system/df")["Containers"]
    assert (container["Id"], container["SizeRw"]) == (made, -1)
    assert daemon.api("GET", "/sampan/storage/df")["Bytes"] > 0
    daemon.stop()
    del daemon.environment["SAMPAN_DISABLED_PLUGINS"]
    daemon.start()
    assert check(daemon)["Damage"] == []
    daemon.docker("rm", made)
    daemon.stop()


# ---------------------------------------------------------------------- beside a working engine


def test_nothing_that_is_under_way_is_taken_for_damage(daemon: Daemon) -> None:
    """Images come and go, containers and volumes are made, moved and removed, and fsck repairs again and again: none is harmed."""
    failures: list[BaseException] = []
    done = threading.Event()

    def work(step: Callable[[int], object]) -> None:
        try:
            for number in range(5):
                step(number)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    def import_and_remove(number: int) -> None:
        name = f"made{number}"
        tar = subprocess.run(["tar", "-cf", "-", "-C", "/usr/share", "doc/base-files"], capture_output=True, check=True).stdout
        daemon.docker("import", "-", name, stdin=tar + bytes(1 << 20))
        daemon.docker("create", "--name", name, name, "true")
        daemon.docker("rm", name)
        daemon.docker("rmi", name)

    def commit_and_move(number: int) -> None:
        name = f"kept{number}"
        daemon.docker("run", "--name", name, "busybox", "touch", "/new")
        daemon.docker("commit", name, f"{name}:image")
        daemon.sampan("storage", "migrate", name, "--to", "vfs")
        daemon.docker("create", "--name", f"{name}-other", "--storage-opt", "driver=vfs", f"{name}:image")
        daemon.docker("rm", name, f"{name}-other")
        daemon.docker("rmi", f"{name}:image")

    workers = [
        threading.Thread(target=work, args=(step,))
        for step in (
            import_and_remove,
            commit_and_move,
            lambda number: daemon.docker("run", "--rm", "-v", "/anonymous", "busybox", "touch", "/anonymous/x", "/y"),
            lambda number: (daemon.docker("volume", "create", f"v{number}"), daemon.docker("volume", "rm", f"v{number}")),
        )
    ]

    def examine() -> None:
        while not done.is_set():
            report = repair(daemon)
            if report["Mended"] or report["Damage"]:
                failures.append(AssertionError(report))

    examiner = threading.Thread(target=examine)
    for thread in (*workers, examiner):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    examiner.join()
    assert failures == []
    assert check(daemon) == {"Mended": [], "Damage": [], "Skipped": []}


def test_an_image_that_comes_in_keeps_its_blobs(daemon: Daemon) -> None:
    """A load whose client pauses holds whole blobs that no image needs yet: they aren't judged, and the report says so."""
    tar = subprocess.run(["tar", "-cf", "-", "-C", "/usr/share", "doc/base-files"], capture_output=True, check=True).stdout
    with subprocess.Popen(
        daemon.inside(["docker", "import", "-", "slow"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=daemon.client_environment(), pass_fds=(daemon.netns,),
    ) as client:  # fmt: skip
        assert client.stdin
        client.stdin.write(tar[:8192])
        client.stdin.flush()
        while not list((daemon.root / "content" / "ingest").iterdir()):
            pass
        report = repair(daemon)
        assert (report["Mended"], report["Damage"]) == ([], [])
        assert any("coming in" in text for text in report["Skipped"])
        assert b"not looked at: blobs" in daemon.sampan("system", "fsck").stdout
        client.stdin.write(tar[8192:])
        client.stdin.close()
        assert client.wait(30) == 0
    assert check(daemon)["Damage"] == []
    daemon.docker("rmi", "slow")
