from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from sampan.api.errors import Conflict, InvalidArgument, NotFound, System, Unsupported
from sampan.store import blobs, settings, snapshots, tags
from sampan.store.database import Database
from sampan.store.schema import MIGRATIONS
from sampan.store.tables import CONTAINERS, ENDPOINTS, IMAGES, NETWORKS, VOLUMES, Table


class Named(BaseModel):
    id: str
    name: str
    state: str = "created"


class Image(BaseModel):
    id: str


class Endpoint(BaseModel):
    id: str
    network_id: str
    container_id: str


class Volume(BaseModel):
    name: str


@pytest.fixture
def database(tmp_path: Path):
    with Database.open(tmp_path / "meta.db") as database:
        yield database


containers = Table(CONTAINERS, Named)
networks = Table(NETWORKS, Named)
endpoints = Table(ENDPOINTS, Endpoint)
images = Table(IMAGES, Image)
volumes = Table(VOLUMES, Volume)


def write(database: Database, change):
    return asyncio.run(database.write(change))


def test_a_record_comes_back_as_it_was(database):
    record = Named(id="a" * 64, name="web", state="running")
    write(database, lambda tx: containers.insert(tx, record))
    assert database.query(lambda tx: containers.get(tx, record.id)) == record
    assert asyncio.run(database.read(lambda tx: containers.list(tx))) == [record]
    asyncio.run(
        database.note(lambda tx: containers.update(tx, record.model_copy(update={"state": "exited"})))
    )
    assert database.query(lambda tx: containers.get(tx, record.id)).state == "exited"
    write(database, lambda tx: containers.delete(tx, record.id))
    assert database.query(containers.list) == []


def test_a_taken_name_names_its_holder(database):
    write(database, lambda tx: containers.insert(tx, Named(id="a1", name="web")))
    with pytest.raises(
        Conflict, match=r'^Conflict. The container name "/web" is already in use by container "a1"'
    ):
        write(database, lambda tx: containers.insert(tx, Named(id="a2", name="web")))
    write(database, lambda tx: containers.insert(tx, Named(id="a2", name="db")))
    with pytest.raises(Conflict):
        write(database, lambda tx: containers.update(tx, Named(id="a2", name="web")))
    write(database, lambda tx: networks.insert(tx, Named(id="n1", name="web")))
    with pytest.raises(Conflict, match="^network with name web already exists$"):
        write(database, lambda tx: networks.insert(tx, Named(id="n2", name="web")))
    write(database, lambda tx: containers.delete(tx, "a1"))
    write(database, lambda tx: containers.insert(tx, Named(id="a3", name="web")))


def test_resolve_prefers_key_then_name_then_unique_prefix(database):
    def fill(tx):
        containers.insert(tx, Named(id="abc1", name="first"))
        containers.insert(tx, Named(id="abc2", name="second"))
        containers.insert(tx, Named(id="fff", name="abc"))
        volumes.insert(tx, Volume(name="data"))

    write(database, fill)

    def resolve(ref):
        return database.query(lambda tx: containers.resolve(tx, ref)).id

    assert [resolve(ref) for ref in ("abc1", "/second", "abc", "f")] == ["abc1", "abc2", "fff", "fff"]
    with pytest.raises(InvalidArgument, match="^Multiple IDs found with provided prefix: ab$"):
        resolve("ab")
    for ref in ("", "zz", "%", "/"):
        with pytest.raises(NotFound, match="^No such container: "):
            resolve(ref)
    with pytest.raises(NotFound, match="^get dat: no such volume$"):
        database.query(lambda tx: volumes.resolve(tx, "dat"))
    with pytest.raises(NotFound):
        write(database, lambda tx: containers.update(tx, Named(id="nope", name="nope")))


def test_a_transaction_is_all_or_nothing(database):
    def change(tx):
        containers.insert(tx, Named(id="a", name="a"))
        networks.get(tx, "nope")

    with pytest.raises(NotFound, match="^network nope not found$"):
        write(database, change)
    assert database.query(containers.list) == []


def test_references_are_checked_at_the_end_of_a_transaction(database):
    def fill(tx):
        endpoints.insert(tx, Endpoint(id="e", network_id="n", container_id="c"))
        containers.insert(tx, Named(id="c", name="c"))
        networks.insert(tx, Named(id="n", name="n"))

    write(database, fill)
    assert database.query(lambda tx: endpoints.list(tx, network_id="n", container_id="c"))
    assert not database.query(lambda tx: endpoints.list(tx, network_id="other"))
    with pytest.raises(Conflict):
        write(database, lambda tx: networks.delete(tx, "n"))
    write(database, lambda tx: (networks.delete(tx, "n"), endpoints.delete(tx, "e")))
    with pytest.raises(TypeError):
        database.query(lambda tx: endpoints.list(tx, colour="red"))
    with pytest.raises(TypeError, match="network_id"):
        Table(ENDPOINTS, Named)


def test_reads_inside_reads_see_one_state(database):
    def outer(tx):
        assert containers.list(tx) == []
        write(database, lambda tx: containers.insert(tx, Named(id="a", name="a")))
        return database.query(containers.list)

    assert database.query(outer) == []
    assert len(database.query(containers.list)) == 1


def test_a_reader_cannot_write(database):
    with pytest.raises(System, match="readonly"):
        database.query(lambda tx: settings.put(tx, "a", "b"))


def test_writers_of_both_kinds_take_turns(database):
    async def many():
        await asyncio.gather(
            *(
                database.write(lambda tx, n=n: containers.insert(tx, Named(id=f"w{n}", name=f"w{n}")))
                for n in range(50)
            ),
            *(
                database.note(lambda tx, n=n: containers.insert(tx, Named(id=f"n{n}", name=f"n{n}")))
                for n in range(50)
            ),
        )

    asyncio.run(many())
    assert len(database.query(containers.list)) == 100


def test_tags_move_and_protect_their_image(database):
    write(database, lambda tx: (images.insert(tx, Image(id="i1")), images.insert(tx, Image(id="i2"))))
    assert write(database, lambda tx: tags.put(tx, "x:1", "i1")) is None
    assert write(database, lambda tx: tags.put(tx, "x:1", "i1")) is None
    assert write(database, lambda tx: tags.put(tx, "x:1", "i2")) == "i1"
    write(database, lambda tx: tags.put(tx, "a:1", "i2"))
    assert database.query(lambda tx: tags.of_image(tx, "i2")) == ["a:1", "x:1"]
    assert database.query(tags.everything) == {"i2": ["a:1", "x:1"]}
    with pytest.raises(Conflict):
        write(database, lambda tx: images.delete(tx, "i2"))
    assert write(database, lambda tx: tags.remove(tx, "x:1"))
    assert not write(database, lambda tx: tags.remove(tx, "x:1"))


def test_blobs_are_free_when_the_last_image_goes(database):
    write(database, lambda tx: (images.insert(tx, Image(id="i1")), images.insert(tx, Image(id="i2"))))
    for image, digest, size in (("i1", "d1", 1), ("i1", "d2", 2), ("i2", "d2", 2), ("i2", "d2", 2)):
        write(database, lambda tx, row=(image, digest, size): blobs.add(tx, *row))
    assert database.query(blobs.sizes) == {"d1": 1, "d2": 2}
    assert write(database, lambda tx: blobs.remove_image(tx, "i1")) == ["d1"]
    assert database.query(lambda tx: blobs.is_needed(tx, "d2"))
    assert write(database, lambda tx: blobs.remove_image(tx, "i2")) == ["d2"]


def test_ledgers(database):
    one = snapshots.SnapshotOwner("vfs", "k", "image", "i1")
    two = snapshots.SnapshotOwner("vfs", "k", "image", "i2")
    write(database, lambda tx: (snapshots.add(tx, one), snapshots.add(tx, two), snapshots.add(tx, two)))
    assert (
        database.query(lambda tx: snapshots.owners(tx, "vfs", "k"))
        == [one, two]
        == database.query(snapshots.everything)
    )
    assert database.query(lambda tx: snapshots.owned(tx, "image", "i2")) == [two]
    assert not write(database, lambda tx: snapshots.remove(tx, one))
    assert write(database, lambda tx: snapshots.remove(tx, two))

    assert write(database, lambda tx: settings.get_or_put(tx, "engine_id", "x")) == "x"
    assert write(database, lambda tx: settings.get_or_put(tx, "engine_id", "y")) == "x"
    write(database, lambda tx: settings.put(tx, "boot_id", "b"))
    assert database.query(lambda tx: (settings.get(tx, "boot_id"), settings.get(tx, "nope"))) == ("b", None)


def test_the_file_is_private(tmp_path):
    path = tmp_path / "meta.db"
    path.touch(0o644)
    with Database.open(path) as database:
        write(database, lambda tx: settings.put(tx, "a", "b"))
        assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    assert [p.name for p in tmp_path.iterdir()] == ["meta.db"]


def test_migrations_run_once_and_forward(tmp_path):
    path = tmp_path / "meta.db"
    with Database.open(path) as database:
        write(database, lambda tx: settings.put(tx, "kept", "yes"))
    more = (*MIGRATIONS, "CREATE TABLE extra (a TEXT) STRICT; INSERT INTO extra VALUES ('once')")
    for _ in range(2):
        with Database.open(path, more) as database:
            assert database.query(lambda tx: tx.execute("SELECT a FROM extra").fetchall()) == [("once",)]
            assert database.query(lambda tx: settings.get(tx, "kept")) == "yes"
    with pytest.raises(Unsupported, match=f"version {len(more)}, .* up to {len(MIGRATIONS)}"):
        Database.open(path)


def test_a_failed_migration_leaves_the_old_version(tmp_path):
    path = tmp_path / "meta.db"
    Database.open(path).close()
    with pytest.raises(System, match="no such table"):
        Database.open(path, (*MIGRATIONS, "CREATE TABLE extra (a TEXT); INSERT INTO nope VALUES (1)"))
    with Database.open(path) as database:
        assert (
            database.query(
                lambda tx: tx.execute("SELECT name FROM sqlite_schema WHERE name = 'extra'").fetchall()
            )
            == []
        )


@pytest.mark.parametrize("damage", ["garbage", "page", "foreign", "directory", "link"])
def test_what_is_not_our_database_is_refused(tmp_path, damage):
    path = tmp_path / "meta.db"
    if damage == "garbage":
        path.write_bytes(b"not sqlite at all" * 1000)
    elif damage == "page":
        Database.open(path).close()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(4096))
    elif damage == "foreign":
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE t (a)")
        other.close()
    elif damage == "directory":
        path.mkdir()
    else:
        path.symlink_to("/etc/passwd")
    with pytest.raises(System, match=f"^open {path}: "):
        Database.open(path)


CHILD = """
import asyncio, sys
from pathlib import Path
from sampan.store import settings
from sampan.store.database import Database

async def main():
    with Database.open(Path(sys.argv[1])) as database:
        for number in range(1_000_000):
            change = database.write if number % 2 else database.note
            await change(lambda tx: settings.put(tx, str(number), "x"))
            print(number, flush=True)

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "meta.db"
    for round_number in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, env={**os.environ}
        )
        assert child.stdout is not None
        with child.stdout:
            acknowledged = [int(child.stdout.readline()) for _ in range(40 + 15 * round_number)]
            child.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in child.stdout if line.endswith(b"\n")]
        assert child.wait() == -signal.SIGKILL
        with Database.open(path) as database:
            assert all(database.query(lambda tx, n=n: settings.get(tx, str(n))) == "x" for n in acknowledged)
            write(database, lambda tx: tx.execute("DELETE FROM settings"))


def test_networks_of_older_containers_are_told(tmp_path):
    path = tmp_path / "meta.db"

    def insert(tx, name, mode, networks):
        doc = json.dumps({"host": {"network_mode": mode}, "networks": networks})
        tx.execute("INSERT INTO containers VALUES (?, ?, ?)", (name, name, doc))

    def networks(tx):
        rows = tx.execute("SELECT id, json_extract(doc, '$.networks') FROM containers ORDER BY id").fetchall()
        return {name: json.loads(text) for name, text in rows}

    with Database.open(path, MIGRATIONS[:1]) as database:
        write(database, lambda tx: insert(tx, "a", "default", {}))
        write(database, lambda tx: insert(tx, "b", "host", {}))
        write(database, lambda tx: insert(tx, "c", "container:x", {}))
        write(database, lambda tx: insert(tx, "d", "bridge", {"bridge": {"mac_address": "02:00:00:00:00:01"}}))
        write(database, lambda tx: insert(tx, "e", "default", {"default": {"gw_priority": 1}}))
    with Database.open(path) as database:
        assert database.query(networks) == {
            "a": {"bridge": {}}, "b": {"host": {}}, "c": {}, "d": {"bridge": {"mac_address": "02:00:00:00:00:01"}},
            "e": {"bridge": {"gw_priority": 1}},
        }  # fmt: skip
