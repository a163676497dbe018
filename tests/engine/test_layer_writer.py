"""Layers out of snapshots and into others again: nothing is lost, and the same tree gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument, System
from sampan.api.storage import Change, ChangeKind, SnapshotOptions, StorageContext, StorageDriver
from sampan.content import layer_writer, packer
from sampan.content.blobs import BlobStore
from sampan.content.compression import Compression
from sampan.content.layer_writer import WrittenLayer, store_layer, write_layer, write_tree
from sampan.content.layers import Limits, StoredLayer
from sampan.content.manifests import OCI_LAYER
from sampan.linux.comparing import compare
from sampan.linux.files import opened_directory
from sampan.linux.mounts import open_root
from sampan.testing.steps import Step, made_up_layers, taken
from sampan.testing.trees import base, in_mounts, random_changes, rework
from sampan_storage_overlayfs.driver import OverlayfsDriver
from sampan_storage_vfs.driver import VfsDriver

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers have files of other users and devices")

PLAIN = SnapshotOptions()
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep
ACL = bytes.fromhex("02000000 01000600ffffffff 02000600e8030000 04000400ffffffff 10000600ffffffff 20000400ffffffff")


def opened(cls: type[StorageDriver], root: Path) -> StorageDriver:
    root.mkdir()
    driver = cls(StorageContext(root, "layers"), cls.config_model()())
    driver.open()
    return driver


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[dict[str, StorageDriver]]:
    """One of each kind."""
    found = {cls.name: opened(cls, tmp_path / cls.name) for cls in (OverlayfsDriver, VfsDriver)}
    yield found
    for driver in found.values():
        driver.close()


def exactly(root: Path) -> dict[str, tuple[object, ...]]:
    """Read all that a layer carries: unlike `picture` times as they are, directories' too."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[tuple[int, int], str] = {}
    paths = [Path(directory, name) for directory, below, files in os.walk(root) for name in below + files]
    for path in sorted([root, *paths]):
        name, status = str(path.relative_to(root)), path.lstat()
        data = b""
        if stat.S_ISREG(status.st_mode):
            data = hashlib.sha256(path.read_bytes()).digest()
        elif stat.S_ISLNK(status.st_mode):
            data = os.readlink(os.fsencode(path))
        attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
        attributes = {key: value for key, value in attributes.items() if not key.startswith("trusted.overlay.")}
        same = name if stat.S_ISDIR(status.st_mode) else first.setdefault((status.st_dev, status.st_ino), name)
        found[name] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns, data, attributes, same)
    return found


def make(driver: StorageDriver, name: str, parent: str | None, change: Callable[[Path], object]) -> None:
    driver.prepare("key", parent, PLAIN)
    in_mounts(driver.mounts("key"), change)
    driver.commit(name, "key")


def write(driver: StorageDriver, key: str, path: Path, compression: Compression = Compression.NONE) -> WrittenLayer:
    with open_root(driver.look(key)) as root, path.open("wb") as out:
        return write_layer(root, driver.diff(key), out.fileno(), compression)


def apply(driver: StorageDriver, name: str, parent: str | None, path: Path, written: WrittenLayer) -> None:
    driver.prepare("key", parent, PLAIN)
    driver.apply("key", StoredLayer(path, OCI_LAYER, written.diff_id))
    driver.commit(name, "key")


def check_round_trip(drivers: dict[str, StorageDriver], place: Path, source: str, changes: list[Callable[[Path], object]]) -> None:
    """What was made on one driver comes out on all, and from all comes the same layer."""
    try:
        _check_round_trip(drivers, place, source, changes)
    finally:
        for driver in drivers.values():
            for info in reversed(list(driver.walk())):
                driver.remove(info.key)


def _check_round_trip(
    drivers: dict[str, StorageDriver], place: Path, source: str, changes: list[Callable[[Path], object]]
) -> None:
    parent = None
    for number, change in enumerate(changes):
        name, tar = f"made-{number}", place / f"{number}.tar"
        make(drivers[source], name, None if parent is None else f"made-{parent}", change)
        written = write(drivers[source], name, tar)
        assert written.diff_id == written.digest == "sha256:" + hashlib.sha256(tar.read_bytes()).hexdigest()
        wanted = in_mounts(drivers[source].look(name), exactly)
        for target, driver in drivers.items():
            copy = f"copy-{number}"
            apply(driver, copy, None if parent is None else f"copy-{parent}", tar, written)
            found = in_mounts(driver.look(copy), exactly)
            if tar.stat().st_size == 1024:  # a first layer of nothing does not tell the root either
                found["."] = wanted["."]
            assert found == wanted, target
            assert write(driver, copy, place / "again.tar") == written, target
        parent = number


def attributes(root: Path) -> None:
    """Fill a root with what tars have the most trouble with."""
    deep = root
    for _ in range(30):
        deep = deep / ("d" * 120)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    for byte in (1, 9, 10, 13, 32, 92, 127, 128, 255):
        Path(os.fsdecode(os.fsencode(root) + b"/name" + bytes([byte]))).write_bytes(bytes([byte]))
    for name in ("n" * 255, "é" * 127, "user"):
        (root / name).write_text(name)
    os.symlink("t" * 4000, root / "long link")
    os.symlink(b"\xff\xfe", os.fsencode(root) + b"/odd link")
    os.setxattr(root / "user", "user.binary", bytes(range(256)))
    os.setxattr(root / "user", "user.empty", b"")
    os.setxattr(root / "user", "trusted.colour", b"blue")
    os.setxattr(root / "user", "security.capability", CAPABILITY)
    os.setxattr(root / "user", "system.posix_acl_access", ACL)
    (root / "shared").mkdir()
    os.setxattr(root / "shared", "system.posix_acl_default", ACL)
    os.setxattr(root / "long link", "trusted.on.a.link", b"x", follow_symlinks=False)
    for number, name in enumerate(("z", "a", "m")):
        (root / name).mkdir()
        (root / name / "one").touch() if number == 0 else os.link(root / "z" / "one", root / name / "linked")
    os.mkfifo(root / "pipe")
    os.link(root / "pipe", root / "pipe again")
    os.link(root / "long link", root / "long link again", follow_symlinks=False)
    os.mknod(root / "disk", stat.S_IFBLK | 0o640, os.makedev(259, 1_000_000))
    os.chown(root / "user", 4_000_000_000, 3_000_000_000)
    (root / "user").chmod(0o6711)
    os.setxattr(root / "user", "security.capability", CAPABILITY)  # chown takes it away
    for name, mtime in (("user", -1_500_000_000), ("disk", 10**19 // 2), ("shared", 1), ("pipe", 1_700_000_000 * 10**9)):
        os.utime(root / name, ns=(0, mtime))
    with (root / "holes").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"data" * 2000)
    os.utime(root, ns=(0, 77))


def touch_attributes(root: Path) -> None:
    """Change some of it again."""
    os.removexattr(root / "user", "user.binary")
    os.removexattr(root / "user", "system.posix_acl_access")
    (root / "holes").write_bytes(b"none")
    (root / "a" / "linked").unlink()
    shutil.rmtree(root / ("d" * 120))
    Path(os.fsdecode(os.fsencode(root) + b"/name\xff")).unlink()


@pytest.mark.parametrize("source", ["overlayfs", "vfs"])
def test_every_kind_of_thing_and_change(drivers: dict[str, StorageDriver], tmp_path: Path, source: str) -> None:
    check_round_trip(drivers, tmp_path, source, [base, rework])


@pytest.mark.parametrize("source", ["overlayfs", "vfs"])
def test_names_attributes_numbers_and_times(drivers: dict[str, StorageDriver], tmp_path: Path, source: str) -> None:
    check_round_trip(drivers, tmp_path, source, [attributes, touch_attributes])


@pytest.mark.parametrize("source", ["overlayfs", "vfs"])
def test_random_trees(drivers: dict[str, StorageDriver], tmp_path: Path, source: str) -> None:
    check_round_trip(drivers, tmp_path, source, [random_changes(number) for number in range(3)])


@settings(
    max_examples=4, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)  # fmt: skip
@given(source=st.sampled_from(["overlayfs", "vfs"]), layers=made_up_layers(2))
def test_any_changes(drivers: dict[str, StorageDriver], tmp_path: Path, source: str, layers: list[list[Step]]) -> None:
    check_round_trip(drivers, tmp_path, source, [taken(layer) for layer in layers])


# ---------------------------------------------------------------- other readers


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


def write_changes(tree: Path, out: Path, changes: list[Change] | None = None, **options) -> WrittenLayer:
    with opened_directory(tree) as root, out.open("wb") as file:
        told = list(compare(None, root)) if changes is None else changes
        return write_layer(root, told, file.fileno(), **options)


def test_gnu_tar_reads_it(tree: Path, tmp_path: Path) -> None:
    base(tree)
    attributes(tree)
    write_changes(tree, tmp_path / "out.tar")
    (tmp_path / "by tar").mkdir()
    done = subprocess.run(
        ["tar", "--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--sparse", "-C", tmp_path / "by tar", "-xpf", tmp_path / "out.tar"],
        capture_output=True, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert exactly(tmp_path / "by tar") == exactly(tree)


def test_gnu_tar_reads_sparse_files(tree: Path, tmp_path: Path) -> None:
    with (tree / "huge").open("wb") as file:
        file.truncate(layer_writer.SPARSE_MIN)
        file.seek(12_345)
        file.write(b"data")
    assert write_changes(tree, tmp_path / "out.tar").size < 20_000
    (tmp_path / "by tar").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "by tar", "-xpf", tmp_path / "out.tar"], check=True)
    copy = tmp_path / "by tar" / "huge"
    with copy.open("rb") as file:
        assert file.read(12_349).lstrip(b"\0") == b"data"
    assert (copy.stat().st_size, copy.stat().st_blocks) == (layer_writer.SPARSE_MIN, (tree / "huge").stat().st_blocks)


def test_pythons_tarfile_reads_it(tree: Path, tmp_path: Path) -> None:
    base(tree)
    attributes(tree)
    write_changes(tree, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = [member.name for member in tar]
        assert tar.extractfile("holes").read() == (tree / "holes").read_bytes()
    assert sorted(names) == sorted(str(path.relative_to(tree)) for path in [tree, *tree.rglob("*")])


# ---------------------------------------------------------------- what has no place in a layer


def test_what_a_layer_cant_carry_is_left_out_and_told(tree: Path, tmp_path: Path) -> None:
    (tree / ".wh.real").write_text("not a whiteout")
    (tree / ".wh.dir" / "below").mkdir(parents=True)
    (tree / "kept").write_text("kept")
    os.setxattr(tree / "kept", "user.a=b", b"c")
    os.setxattr(tree / "kept", "trusted.overlay.redirect", b"/etc")
    os.mknod(tree / "mark", stat.S_IFCHR, os.makedev(0, 0))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
    written = write_changes(tree, tmp_path / "out.tar")
    assert {why: (count, names) for why, count, names in written.left_out} == {
        "name of a whiteout": (3, (".wh.dir", ".wh.dir/below", ".wh.real")),
        "attribute with = in its name": (1, ("kept",)),
        "0/0 device": (1, ("mark",)),
        "socket": (1, ("socket",)),
    }
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [member.name for member in tar] == [".", "kept"]
        assert not [key for key in tar.getmember("kept").pax_headers if "xattr" in key]


def test_an_export_has_names_like_whiteouts_and_no_root(tree: Path, tmp_path: Path) -> None:
    (tree / ".wh.real").write_text("not a whiteout")
    with opened_directory(tree) as root, (tmp_path / "out.tar").open("wb") as out:
        write_tree(root, out.fileno())
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == [".wh.real"]


def test_names_that_vanished_are_left_out(tree: Path, tmp_path: Path) -> None:
    (tree / "there").touch()
    (tree / "file").touch()
    added = [Change(path, ChangeKind.ADDED) for path in (b"file", b"file/below", b"gone", b"gone/below/it", b"there")]
    write_changes(tree, tmp_path / "out.tar", [*added, Change(b"was", ChangeKind.DELETED)])
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == [".", "file", "there", ".wh.was"]


# ---------------------------------------------------------------- sparse files


def test_a_terabyte_of_nothing_costs_nothing(drivers: dict[str, StorageDriver], tmp_path: Path) -> None:
    def fill(root: Path) -> None:
        with (root / "huge").open("wb") as file:
            file.truncate(1 << 40)
            for place in (0, 1 << 30, (1 << 40) - 5):
                file.seek(place)
                file.write(b"data!")

    make(drivers["vfs"], "made", None, fill)
    written = write(drivers["vfs"], "made", tmp_path / "out.tar")
    assert written.size < 1 << 17
    apply(drivers["overlayfs"], "copy", None, tmp_path / "out.tar", written)

    def look(root: Path) -> tuple[int, int, bytes]:
        with (root / "huge").open("rb") as file:
            file.seek((1 << 30) - 1)
            return (root / "huge").stat().st_size, (root / "huge").stat().st_blocks * 512, file.read(7)

    size, blocks, piece = in_mounts(drivers["overlayfs"].look("copy"), look)
    assert size == 1 << 40 and blocks < 1 << 20 and piece == b"\0data!\0"


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 60)), max_size=12), st.integers(1 << 20, 3 << 20))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_how_a_file_is_written_follows_from_its_content_alone(tmp_path_factory, blocks, size) -> None:
    """A file with holes and one with zeros in their place give the same extents, and these hold all that is not zero."""
    content = bytearray(size)
    for start, count in blocks:
        content[start * 4096 + 17 : min(start * 4096 + 17 + count * 1000, size)] = b"x" * max(0, min(count * 1000, size - start * 4096 - 17))
    content = content[:size]
    place = tmp_path_factory.mktemp("sparse")
    (place / "dense").write_bytes(content)
    with (place / "holes").open("wb") as file:
        file.truncate(size)
        for at in range(0, size, 4096):
            if content[at : at + 4096].strip(b"\0"):
                file.seek(at)
                file.write(content[at : at + 4096])
    found = []
    for name in ("dense", "holes"):
        fd = os.open(place / name, os.O_RDONLY)
        found.append(packer.sparse_extents(fd, size, 1 << 20))
        os.close(fd)
    assert found[0] == found[1]
    if found[0] is not None:
        rest = bytearray(content)
        for offset, length in found[0]:
            assert length > 0 and offset + length <= size
            rest[offset : offset + length] = bytes(length)
        assert not rest.strip(b"\0")
    shutil.rmtree(place)


def test_more_extents_than_a_header_holds_are_joined(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer, "_EXTENTS", 20)
    with (tree / "file").open("wb") as file:
        for number in range(60):
            file.seek(number * 20_000 + number // 6 * 1_000_000)
            file.write(b"x")
    size = (tree / "file").stat().st_size
    with (tree / "file").open("rb") as file:
        extents = packer.sparse_extents(file.fileno(), size, 1)
        assert extents is not None and 1 < len(extents) <= 20 and sum(length for _, length in extents) < size // 2
        rest = bytearray(file.read())
    for offset, length in extents:
        rest[offset : offset + length] = bytes(length)
    assert not rest.strip(b"\0")


def test_holes_are_not_made_into_any_number_of_zeros(tree: Path, tmp_path: Path) -> None:
    with (tree / "file").open("wb") as file:
        for number in range(45_000):
            file.seek(number << 21)
            file.write(b"x")
    with pytest.raises(InvalidArgument, match="holes in its files would take more than 64 GB in a tar, the last one file"):
        write_changes(tree, tmp_path / "out.tar")


# ---------------------------------------------------------------- compression and the store


def test_gzip_and_the_store(tree: Path, tmp_path: Path) -> None:
    base(tree)
    plain = write_changes(tree, tmp_path / "plain.tar")
    packed = write_changes(tree, tmp_path / "packed.tar", compression=Compression.GZIP)
    assert gzip.decompress((tmp_path / "packed.tar").read_bytes()) == (tmp_path / "plain.tar").read_bytes()
    assert packed.diff_id == plain.diff_id and packed.digest != plain.digest
    blobs = BlobStore(tmp_path / "blobs")
    blobs.open()
    with opened_directory(tree) as root:
        descriptor, stored = store_layer(root, list(compare(None, root)), blobs)
    assert blobs.read(descriptor.digest, 1 << 20) == (tmp_path / "packed.tar").read_bytes()
    assert (descriptor.size, stored) == (packed.size, packed)


def test_nothing_is_kept_of_a_layer_that_fails(tree: Path, tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    blobs.open()

    def changes() -> Iterator[Change]:
        yield Change(b"x", ChangeKind.ADDED)
        raise System("the disk failed")

    with opened_directory(tree) as root, pytest.raises(System, match="the disk failed"):
        store_layer(root, changes(), blobs)
    assert list(blobs.walk()) == [] and list((tmp_path / "blobs" / "ingest").iterdir()) == []


def test_limits_and_a_reader_that_left(tree: Path, tmp_path: Path) -> None:
    (tree / "file").write_bytes(bytes(2 << 20) + os.urandom(2 << 20))
    with pytest.raises(InvalidArgument, match="larger than"):
        write_changes(tree, tmp_path / "out.tar", limits=Limits(stream_bytes=1 << 20))
    reading, writing = os.pipe()
    os.close(reading)
    with opened_directory(tree) as root, pytest.raises(System, match="Broken pipe"):
        write_tree(root, writing)
    os.close(writing)


# ---------------------------------------------------------------- a container that works against it


def test_a_tree_that_changes_all_the_while(tree: Path, tmp_path: Path) -> None:
    """Files grow, shrink, and turn into links out, fifos, devices and directories: every tar is whole, and none tells a secret."""
    (tmp_path / "secret").write_text("the host's secret")
    stop = threading.Event()

    def work() -> None:
        dice = random.Random(1)
        while not stop.is_set():
            path = tree / dice.choice("abcd") / dice.choice("efgh")
            path.parent.mkdir(exist_ok=True)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            match dice.choice(["grow", "grow", "link", "fifo", "device", "directory", "parent"]):
                case "grow":
                    with path.open("wb") as file:
                        file.write(b"x" * dice.randrange(3 << 20))
                        file.truncate(dice.randrange(3 << 20))
                case "link":
                    path.symlink_to(tmp_path / "secret")
                case "fifo":
                    os.mkfifo(path)
                case "device":
                    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # endless zeros, if it were read
                case "directory":
                    path.mkdir()
                case _:
                    shutil.rmtree(path.parent)
                    path.parent.symlink_to(tmp_path)
                    path.parent.unlink()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(12):
            with opened_directory(tree) as root, (tmp_path / "out.tar").open("wb") as out:
                if number % 2:
                    write_tree(root, out.fileno())
                else:
                    write_layer(root, compare(None, root), out.fileno())
            with tarfile.open(tmp_path / "out.tar") as tar:
                for member in tar:
                    assert not member.isreg() or b"secret" not in tar.extractfile(member).read()
            assert (tmp_path / "out.tar").read_bytes().endswith(bytes(1024))
    finally:
        stop.set()
        worker.join()


def test_the_child_is_confined(tree: Path) -> None:
    """The list of changes is held back, to look at the waiting child from outside, each of its threads."""
    (tree / "first").write_bytes(os.urandom(1 << 20))
    looked: list[dict[str, str]] = []

    def changes() -> Iterator[Change]:
        for number in range(1000):  # one batch, so that the child begins
            yield Change(b"first" if number == 0 else b"gone", ChangeKind.ADDED)
        assert os.read(reading, 1)  # it has written: it is confined
        mine = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
        (child,) = [pid for pid in mine if "sampan.content.packer" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert os.listdir(f"/proc/{child}/root") == ["first"]
        assert "ro," in Path(f"/proc/{child}/mountinfo").read_text()
        for thread in Path(f"/proc/{child}/task").iterdir():
            status = (thread / "status").read_text()
            looked.append(dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line))
            for namespace in ("mnt", "net", "ipc"):
                assert os.readlink(thread / "ns" / namespace) != os.readlink(f"/proc/self/ns/{namespace}")

    reading, writing = os.pipe()
    draining = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reading, 1 << 16), b"")])
    with opened_directory(tree) as root:

        def told() -> Iterator[Change]:
            yield from changes()
            draining.start()

        write_layer(root, told(), writing)
    os.close(writing)
    draining.join()
    os.close(reading)
    assert len(looked) == 2
    for fields in looked:
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 1 << 2 | 1 << 21
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
