"""Layers into directories, honest and hostile (abuse cases A11 and A12). Needs root: files get owners,
devices and marks."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import stat
import struct
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest
import zstandard

from sampan.api.errors import InvalidArgument, NotFound, System, Unavailable, Unsupported
from sampan.api.storage import Whiteouts
from sampan.content.layers import DEFAULT_LIMITS, Limits, StoredLayer
from sampan.content.manifests import OCI_LAYER
from sampan.linux.files import opened_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking gives files to other users and makes devices")


NO_DIGEST = "sha256:" + "0" * 64


class Layer:
    """A tar under construction."""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=format)

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "", **fields) -> Layer:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(data)
        info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in fields.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def directory(self, name: str, **fields) -> Layer:
        return self.add(name, tarfile.DIRTYPE, **fields)

    def symlink(self, name: str, link: str, **fields) -> Layer:
        return self.add(name, tarfile.SYMTYPE, link=link, **fields)

    def hard_link(self, name: str, link: str) -> Layer:
        return self.add(name, tarfile.LNKTYPE, link=link)

    def bytes(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path):
    (tmp_path / "outside").write_text("host")
    (tmp_path / "root").mkdir()
    yield tmp_path
    assert (tmp_path / "outside").read_text() == "host"
    assert {p.name for p in tmp_path.iterdir()} <= {"outside", "root", "blob"}


def apply(place: Path, layer: Layer | bytes, whiteouts=Whiteouts.DELETE, *, pack=lambda d: d, limits=Limits()) -> Path:  # noqa: B008
    data = layer if isinstance(layer, bytes) else layer.bytes()
    (place / "blob").write_bytes(pack(data))
    diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
    unpack(place / "blob", place / "root", diff_id, whiteouts, limits)
    return place / "root"


def unpack(
    blob: Path, target: Path, diff_id: str = NO_DIGEST, whiteouts: Whiteouts = Whiteouts.DELETE, limits: Limits = DEFAULT_LIMITS
) -> None:
    with opened_directory(target) as directory:
        StoredLayer(blob, OCI_LAYER, diff_id, limits).unpack(directory, whiteouts)


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def multi_member_gzip(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


@pytest.mark.parametrize(
    "pack",
    [lambda d: d, gzip.compress, multi_member_gzip, zstandard.compress],
    ids=["plain", "gzip", "members", "zstd"],
)
def test_everything_a_layer_may_hold(place, pack):
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep, revision 2
    long = "/".join(["d" * 60] * 5)
    layer = (
        Layer()
        .directory("usr/", mode=0o1777, mtime=1_000_000_000.25)
        .add("usr/file", data=b"x" * 3_000_000, mode=0o4755, uid=12, gid=34, mtime=1_234_567_890.5)
        .add("usr/cap", pax_headers={"SCHILY.xattr.user.note": "hi", "SCHILY.xattr.security.selinux": "host_t"})
        .hard_link("usr/second", "usr/file")
        .symlink("usr/link", "/etc/passwd", uid=5, gid=6, mtime=1)
        .add("usr/pipe", tarfile.FIFOTYPE, mode=0o600)
        .add("usr/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        .add(f"{long}/deep", data=b"deep", uid=3_000_000_000)
        .add("missing/parent/file", data=b"y")
        .add("usr/empty")
    )
    info = tarfile.TarInfo("usr/ping")
    header = info.create_pax_header({**info.get_info(), "mtime": 1.123456789}, "utf-8")
    record = b"SCHILY.xattr.security.capability=" + capability + b"\n"
    record = str(len(record) + 3).encode() + b" " + record
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = b"x", len(record)
    layer.tar.fileobj.write(pax.tobuf() + record.ljust(-(-len(record) // 512) * 512, b"\0") + header[-512:])
    layer.tar.offset = layer.tar.fileobj.tell()

    root = apply(place, layer, pack=pack)
    file = (root / "usr/file").stat()
    assert (file.st_size, stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid) == (3_000_000, 0o4755, 12, 34)
    assert file.st_mtime_ns == 1_234_567_890_500_000_000
    assert file.st_ino == (root / "usr/second").stat().st_ino
    usr = (root / "usr").stat()
    assert (stat.S_IMODE(usr.st_mode), usr.st_mtime_ns) == (0o1777, 1_000_000_000_250_000_000)
    link = (root / "usr/link").lstat()
    assert (os.readlink(root / "usr/link"), link.st_uid, link.st_gid, link.st_mtime) == ("/etc/passwd", 5, 6, 1)
    assert stat.S_ISFIFO((root / "usr/pipe").stat().st_mode)
    null = (root / "usr/null").stat()
    assert (stat.S_ISCHR(null.st_mode), null.st_rdev, stat.S_IMODE(null.st_mode)) == (True, os.makedev(1, 3), 0o666)
    assert (root / long / "deep").stat().st_uid == 3_000_000_000
    parent = (root / "missing/parent").stat()
    assert (stat.S_IMODE(parent.st_mode), parent.st_uid, parent.st_gid) == (0o755, 0, 0)
    assert os.getxattr(root / "usr/cap", "user.note") == b"hi"
    assert "security.selinux" not in os.listxattr(root / "usr/cap")
    assert os.getxattr(root / "usr/ping", "security.capability") == capability


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_what_gnu_tar_writes_comes_out_the_same(place, tmp_path_factory, format):
    source = tmp_path_factory.mktemp("source")
    (source / "sub").mkdir()
    with (source / "sparse").open("wb") as file:
        for at in range(0, 60_000_000, 1_000_000):
            file.seek(at)
            file.write(b"data%d" % at)
        file.truncate(70_000_000)
    (source / ("n" * 200)).write_bytes(b"long")
    (source / "sub" / "link").symlink_to("t" * 300)
    os.link(source / ("n" * 200), source / "sub" / "hard")
    data = subprocess.run(
        ["tar", f"--format={format}", "--sparse", "-C", source, "-c", "."], check=True, capture_output=True
    ).stdout
    root = apply(place, data)
    assert subprocess.run(["diff", "-r", "--no-dereference", source, root]).returncode == 0
    assert (root / "sparse").stat().st_blocks * 512 < 10_000_000
    assert (root / "sub" / "hard").stat().st_nlink == 2
    assert (root / "sparse").stat().st_mtime_ns // 10**9 == (source / "sparse").stat().st_mtime_ns // 10**9


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_in_all_pax_forms(place, tmp_path_factory, version):
    source = tmp_path_factory.mktemp("source")
    with (source / "sparse").open("wb") as file:
        for at in range(0, 2_000_000, 100_000):
            file.seek(at)
            file.write(b"x" * 5000)
    command = ["tar", "--format=posix", "--sparse", f"--sparse-version={version}", "-C", source, "-c", "sparse"]
    root = apply(place, subprocess.run(command, check=True, capture_output=True).stdout)
    assert (root / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert tree(root) == {"sparse"}


def test_later_members_replace_earlier_ones_of_any_type(place):
    layer = (
        Layer()
        .directory("a")
        .add("a/inside", data=b"1")
        .symlink("b", "a")
        .add("c", data=b"1")
        .add("a", data=b"now a file")
        .directory("b")
        .add("b/inside", data=b"2")
        .symlink("c", "b")
        .add("d", data=b"old")
        .add("d", data=b"new")
        .directory("b", mode=0o700)
    )
    root = apply(place, layer)
    assert (root / "a").read_bytes() == b"now a file"
    assert not (root / "b").is_symlink()
    assert (root / "b" / "inside").read_bytes() == b"2"
    assert os.readlink(root / "c") == "b"
    assert (root / "d").read_bytes() == b"new"
    assert stat.S_IMODE((root / "b").stat().st_mode) == 0o700


def lower(place: Path) -> Path:
    root = place / "root"
    for name in ("keep", "gone", "dir/old", "dir/sub/old", "opaque/old", "opaque/sub/old", "swap/old"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("lower")
    return root


def deletions() -> Layer:
    return (
        Layer()
        .add(".wh.gone")
        .directory("dir")
        .add("dir/.wh.sub")
        .add("dir/new", data=b"n")
        .directory("opaque")
        .add("opaque/early", data=b"e")
        .add("opaque/.wh..wh..opq")
        .directory("opaque/sub")
        .add("opaque/late", data=b"l")
        .add(".wh.swap")
        .directory("swap")
        .add("swap/new", data=b"n")
        .add(".wh.never-there")
        .add(".wh..wh.aufs")
        .directory(".wh..wh.plnk")
        .add(".wh..wh.plnk/7.9", data=b"aufs")
    )


def test_whiteouts_delete_what_is_below(place):
    lower(place)
    root = apply(place, deletions())
    assert tree(root) == {
        "keep", "dir", "dir/old", "dir/new", "opaque", "opaque/early", "opaque/sub", "opaque/late", "swap", "swap/new",
    }  # fmt: skip


def test_whiteouts_as_overlay_marks(place, tmp_path_factory):
    root = apply(place, deletions(), Whiteouts.OVERLAY)
    gone = (root / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(root / "opaque", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(root / "swap", "trusted.overlay.opaque") == b"y"
    assert "trusted.overlay.opaque" not in os.listxattr(root / "dir")
    assert {name for name in tree(root) if ".wh." in name} == set()


def test_an_opaque_mark_keeps_what_the_layer_wrote_and_nothing_deeper(place):
    root = lower(place)
    apply(place, Layer().add("opaque/sub/new", data=b"n").add("opaque/.wh..wh..opq"))
    assert {name for name in tree(root) if name.startswith("opaque")} == {"opaque", "opaque/sub", "opaque/sub/new"}


@pytest.mark.parametrize("whiteouts", list(Whiteouts))
@pytest.mark.parametrize("first", ["mark", "sibling"])
def test_deletions_count_wherever_they_stand(place, whiteouts, first):
    """Beside what the layer writes under the same name, before it and after it; and in what it replaces."""
    root = lower(place) if whiteouts is Whiteouts.DELETE else place / "root"
    written = [("opaque/sub/new", b"n"), ("dir/old", b"mine"), ("gone", b"back"), ("swap/sub/new", b"n")]
    marks = [("opaque/.wh..wh..opq", b""), ("dir/.wh.old", b""), (".wh.gone", b""), (".wh.swap", b"")]
    layer = Layer()
    for name, data in marks + written if first == "mark" else written + marks:
        layer.add(name, data=data)
    apply(place, layer, whiteouts)
    files = {"opaque/sub/new", "dir/old", "gone", "swap/sub/new"}
    kept = {"keep", "dir/sub/old"} if whiteouts is Whiteouts.DELETE else set()
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == files | kept
    assert (root / "dir/old").read_bytes() == b"mine"
    if whiteouts is Whiteouts.OVERLAY:
        assert {name for name in ("opaque", "dir", "swap") if is_opaque(root / name)} == {"opaque", "swap"}


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_a_directory_in_the_place_of_anything_shows_nothing_from_below(place):
    layer = Layer().add("a", data=b"1").directory("a").symlink("b", "/").directory("b").directory("c").add(".wh.d").add("d/x")
    root = apply(place, layer, Whiteouts.OVERLAY)
    assert {name for name in "abcd" if is_opaque(root / name)} == {"a", "b", "d"}


def test_a_deleted_name_can_be_written_again_as_anything(place):
    for whiteouts in Whiteouts:
        layer = (
            Layer()
            .add(".wh.f").add("f", data=b"f")
            .add(".wh.l").symlink("l", "f")
            .add(".wh.h").hard_link("h", "f")
            .add(".wh.p").add("p", tarfile.FIFOTYPE)
        )  # fmt: skip
        root = apply(place, layer, whiteouts)
        assert (root / "f").read_bytes() == (root / "h").read_bytes() == b"f"
        assert os.readlink(root / "l") == "f" and stat.S_ISFIFO((root / "p").stat().st_mode)


def test_a_directory_of_the_layer_is_exactly_the_layers(place):
    """What an earlier layer's directory had, group, set-group-id, attributes and ACLs, neither stays nor is handed down."""
    root = place / "root"
    acl = posix_acl((0x01, 7, NOBODY), (0x02, 7, 12), (0x04, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 5, NOBODY))
    for name in ("named", "unnamed"):
        (root / name).mkdir()
        os.chown(root / name, 5, 6)
        (root / name).chmod(0o2775)
        os.setxattr(root / name, "user.old", b"old")
        os.setxattr(root / name, "system.posix_acl_default", acl)
        os.setxattr(root / name, "trusted.old", b"old")
    layer = Layer().directory("named", mode=0o750)
    for name in ("named", "unnamed"):
        layer.add(f"{name}/file", mode=0o640, data=b"x").directory(f"{name}/sub", mode=0o700).add(f"{name}/fifo", tarfile.FIFOTYPE)
        layer.add(f"{name}/sub/file", mode=0o4777).symlink(f"{name}/link", "x")
    apply(place, layer)
    assert os.listxattr(root / "named") == []
    assert set(os.listxattr(root / "unnamed")) == {"user.old", "trusted.old", "system.posix_acl_default"}
    for name in ("named", "unnamed"):
        for inside, mode in {"file": 0o640, "sub": 0o700, "sub/file": 0o4777, "fifo": 0o644, "link": 0o777}.items():
            status = (root / name / inside).lstat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, 0), inside
            assert os.listxattr(root / name / inside, follow_symlinks=False) == [], inside


NOBODY = 0xFFFFFFFF


def posix_acl(*entries: tuple[int, int, int]) -> bytes:
    """Pack (tag, permissions, id) as the kernel's `posix_acl_xattr_entry`."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def with_attributes(name: str, kind: bytes, attributes: dict[str, bytes], **fields) -> bytes:
    """Write one member with extended attributes of any bytes, which `tarfile` can't."""
    records = b""
    for key, value in attributes.items():
        record = b" SCHILY.xattr." + os.fsencode(key) + b"=" + value + b"\n"
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length += 1
        records += str(length).encode() + record
    pax, info = tarfile.TarInfo("pax"), tarfile.TarInfo(name)
    pax.type, pax.size, info.type = b"x", len(records), kind
    for key, value in fields.items():
        setattr(info, key, value)
    return pax.tobuf() + records.ljust(-(-len(records) // 512) * 512, b"\0") + info.tobuf()


def test_attributes_come_out_as_they_went_in(place):
    acl = posix_acl((0x01, 6, NOBODY), (0x02, 7, 12), (0x04, 4, NOBODY), (0x10, 7, NOBODY), (0x20, 4, NOBODY))
    attributes = {
        "user.bytes": bytes(range(256)), "user.n\udcff\u00e4": b"name", "trusted.mine": b"t",
        "security.capability": struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 1000),
        "system.posix_acl_access": acl, "security.selinux": b"label",
    }  # fmt: skip
    layer = with_attributes("file", b"0", attributes, mode=0o674) + with_attributes(
        "directory", b"5", {"system.posix_acl_default": acl, "user.d": b"d"}, mode=0o755, mtime=1
    )
    layer += Layer().add("directory/file", data=b"x", mode=0o600).bytes()
    root = apply(place, layer)
    found = {name: os.getxattr(root / "file", name) for name in os.listxattr(root / "file")}
    assert found == {name: value for name, value in attributes.items() if name != "security.selinux"}
    assert {n: os.getxattr(root / "directory", n) for n in os.listxattr(root / "directory")} == {
        "system.posix_acl_default": acl, "user.d": b"d",
    }  # fmt: skip
    assert (root / "directory").stat().st_mtime == 1
    inside = root / "directory/file"
    assert stat.S_IMODE(inside.stat().st_mode) == 0o600 and os.listxattr(inside) == []


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        (b"0", {"trusted.overlay.opaque": b"y"}),
        (b"5", {"trusted.overlay.opaque": b"y"}),
        (b"5", {"trusted.overlay.overlay.opaque": b"y"}),
        (b"3", {"trusted.overlay.metacopy": b""}),
        (b"2", {"trusted.overlay.redirect": b"/etc"}),
        (b"2", {"user.on-a-link": b"x"}),
        (b"0", {"user." + "n" * 300: b"x"}),
        (b"0", {"user.large": bytes(70_000)}),
        (b"0", {"user.nul\0": b"x"}),
        (b"0", {"system.posix_acl_access": b"\2\0\0\0garbage"}),
        (b"0", {"security.capability": b"garbage"}),
    ],
)
@pytest.mark.parametrize("whiteouts", list(Whiteouts))
def test_attributes_that_must_not_or_cannot_be(place, kind, attributes, whiteouts):
    fields = {"linkname": "x"} if kind == b"2" else {"devmajor": 1, "devminor": 3} if kind == b"3" else {}
    with pytest.raises(InvalidArgument, match=r"^unpack blob: "):
        apply(place, with_attributes("x", kind, attributes, **fields) + bytes(1024), whiteouts)


def test_times_and_owners_at_their_ends(place):
    layer = (
        Layer()
        .add("before", mtime=-1.5, uid=2**32 - 2, gid=2**31)
        .directory("far", mtime=10**15)
        .add("far/inside", mtime=2**63)
        .add("pax", pax_headers={"mtime": "-0.000000001", "uid": "4294967294", "path": "other"})
        .add("./.././../../x/../y".replace("..", "."), mtime=1)
    )
    root = apply(place, layer)
    before = (root / "before").stat()
    assert (before.st_mtime_ns, before.st_uid, before.st_gid) == (-1_500_000_000, 2**32 - 2, 2**31)
    assert (root / "far").stat().st_mtime > 4e9 and (root / "far/inside").stat().st_mtime > 4e9
    assert ((root / "other").stat().st_mtime_ns, (root / "other").stat().st_uid) == (-1, 2**32 - 2)
    assert (root / "x/y").exists() and not (root / "pax").exists()


def test_names_of_any_bytes(place):
    names = [bytes([byte]) * 3 for byte in range(1, 256) if byte not in b"/."] + ["\u00e4\U0001f6a2".encode(), b"...", b"-rf", b"\n \t"]
    layer = b"".join(tarfile.TarInfo(os.fsdecode(name)).tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") for name in names)
    root = apply(place, layer)
    assert set(os.listdir(os.fsencode(root))) == set(names)


def test_the_last_of_repeated_records_counts(place):
    records = b"".join(str(len(r) + 3).encode() + b" " + r for r in (b"path=first-name\n", b"path=other-name\n"))
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = b"x", len(records)
    root = apply(place, pax.tobuf() + records.ljust(512, b"\0") + tarfile.TarInfo("header").tobuf())
    assert tree(root) == {"other-name"}


# Attacks: what may not be refused is contained.

REFUSED = {
    "dotdot": Layer().add("../outside", data=b"owned"),
    "dotdot inside": Layer().add("a/../../outside", data=b"owned"),
    "hard link out": Layer().hard_link("x", "../outside"),
    "hard link to a host file": Layer().hard_link("x", "/etc/shadow"),
    "hard link to a directory": Layer().directory("d").hard_link("x", "d"),
    "hard link to the root": Layer().hard_link("x", "/"),
    "hard link to a whiteout": Layer().add(".wh.w").hard_link("x", "w"),
    "hard link to a whiteout's name": Layer().add(".wh.w").hard_link("x", ".wh.w"),
    "hard link in the place of its source": Layer().directory("d").add("d/f", data=b"1").hard_link("d", "d/f"),
    "hard link to itself": Layer().add("x", data=b"1").hard_link("x", "x"),
    "symlink to nowhere, then through it": Layer().symlink("l", "/etc").add("l/outside", data=b"owned"),
    "symlink loop": Layer().symlink("a", "b").symlink("b", "a").add("a/x", data=b"owned"),
    "file as a directory": Layer().add("f", data=b"1").add("f/x", data=b"owned"),
    "whiteout of ..": Layer().add(".wh...", data=b""),
    "whiteout of .": Layer().add(".wh..", data=b""),
    "whiteout of nothing": Layer().directory("d").add("d/.wh."),
    "below a whiteout": Layer().add(".wh.d/x"),
    "overlay's own mark": Layer().add("x", tarfile.CHRTYPE, devmajor=0, devminor=0),
    "overlay's attributes": Layer().add("x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"}),
    "name too long": Layer().add("n" * 300),
    "path too long": Layer().add("/".join(["n" * 100] * 50)),
    "PAX path out": Layer().add("harmless", pax_headers={"path": "../outside"}, data=b"owned"),
    "PAX size": Layer().add("x", pax_headers={"size": "-5"}),
    "PAX uid": Layer().add("x", pax_headers={"uid": "4294967295"}),
    "device number": Layer(tarfile.GNU_FORMAT).add("x", tarfile.BLKTYPE, devmajor=1 << 20, devminor=0),
    "PAX header of 2 MiB": Layer().add("x", pax_headers={"comment": "c" * (2 << 20)}),
    "1 EiB of holes": Layer().add(
        "x", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 60), "GNU.sparse.major": "0"}
    ),
    "unknown type": Layer().add("x", b"Z"),
}
REFUSED_BYTES = {name: layer.bytes() for name, layer in REFUSED.items()}


@pytest.mark.parametrize("whiteouts", list(Whiteouts))
@pytest.mark.parametrize("attack", sorted(REFUSED_BYTES))
def test_attacks_are_refused(place, attack, whiteouts):
    with pytest.raises(InvalidArgument, match=r"^unpack blob: "):
        apply(place, REFUSED_BYTES[attack], whiteouts)


def test_absolute_names_and_links_count_from_the_layers_root(place):
    (place / "root").chmod(0o700)
    layer = (
        Layer()
        .directory("usr/lib")
        .symlink("lib", "/usr/lib")
        .symlink("up", "../../../../..")
        .add("/lib/file", data=b"in")
        .add("up/outside", data=b"contained")
        .hard_link("hard", "/usr/lib/file")
    )
    root = apply(place, layer)
    assert (root / "usr/lib/file").read_bytes() == b"in"
    assert (root / "outside").read_bytes() == b"contained"
    assert (root / "hard").stat().st_nlink == 2


def test_symlinks_already_in_the_target_are_not_followed_out(place):
    root = place / "root"
    (root / "etc").symlink_to(place)
    (root / "file").symlink_to(place / "outside")
    (root / "d").symlink_to(place)
    layer = Layer().add("file", data=b"mine").add(".wh.etc").directory("d", mode=0o777).add("d/.wh..wh..opq")
    mode = place.stat().st_mode
    apply(place, layer)
    assert (root / "file").read_bytes() == b"mine" and not (root / "file").is_symlink()
    assert tree(root) == {"file", "d"} and not (root / "d").is_symlink()
    assert place.stat().st_mode == mode


def test_an_opaque_mark_through_a_symlink_stays_inside(place):
    root = place / "root"
    (root / "real").mkdir()
    (root / "real" / "old").touch()
    layer = Layer().symlink("out", str(place)).symlink("in", "real").add("in/.wh..wh..opq")
    apply(place, layer)
    assert tree(root) == {"real", "in", "out"}
    with pytest.raises(InvalidArgument):
        apply(place, Layer().add("out/.wh..wh..opq"))


def test_deep_trees_are_deleted_or_refused(place):
    layer = Layer()
    for level in range(1, 1900):
        if level % 100 == 0 or level == 1899:
            layer.directory("/".join(["d"] * level))
    layer.add("d", data=b"a file now")
    root = apply(place, layer)
    assert (root / "d").read_bytes() == b"a file now"


@pytest.mark.parametrize("damage", ["not a tar", "cut", "gzip cut", "gzip garbage", "zstd cut", "checksum"])
def test_damaged_layers_are_refused(place, damage):
    data = Layer().add("file", data=os.urandom(200_000)).bytes()
    data = {
        "not a tar": b"not a tar at all" * 100,
        "cut": data[:100_000],
        "gzip cut": gzip.compress(data)[:100_000],
        "gzip garbage": gzip.compress(data) + b"garbage",
        "zstd cut": zstandard.compress(data)[:100_000],
        "checksum": data[:148] + b"0000000\0" + data[156:],
    }[damage]
    with pytest.raises(InvalidArgument):
        apply(place, data)


def test_another_content_than_promised_is_refused(place):
    (place / "blob").write_bytes(Layer().add("x").bytes())
    with pytest.raises(InvalidArgument, match="content is sha256:[0-9a-f]{64}, not sha256:0000"):
        unpack(place / "blob", place / "root")


def test_what_follows_the_end_of_the_tar_counts_for_the_digest(place):
    root = apply(place, Layer().add("x").bytes() + bytes(1 << 20) + b"more")
    assert tree(root) == {"x"}


def test_limits(place):
    bomb = Layer().add("zeros", data=bytes(8 << 20))
    with pytest.raises(InvalidArgument, match="larger than 1048576 bytes"):
        apply(place, bomb, pack=gzip.compress, limits=Limits(stream_bytes=1 << 20))
    many = Layer()
    for number in range(100):
        many.add(f"f{number}")
    with pytest.raises(InvalidArgument, match="more entries"):
        apply(place, many, limits=Limits(entries=50))
    with pytest.raises(InvalidArgument, match="File too large"):
        apply(place, Layer().add("large", data=bytes(2 << 20)), limits=Limits(file_bytes=1 << 20))
    with pytest.raises(Unavailable, match="longer than"):
        apply(place, Layer().add("x"), limits=Limits(seconds=0.001))


def test_a_full_disk_is_the_hosts_fault(place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place / "root"], check=True)
    try:
        with pytest.raises(System, match="(?i)no space left"):
            apply(place, Layer().add("large", data=bytes(8 << 20)))
    finally:
        subprocess.run(["umount", place / "root"], check=True)


def test_what_is_missing_or_no_layer_is_told(place):
    with pytest.raises(NotFound):
        unpack(place / "nope", place / "root")
    with pytest.raises(NotFound):
        StoredLayer(place / "nope", OCI_LAYER, NO_DIGEST).read()
    with pytest.raises(Unsupported):
        StoredLayer(place / "nope", OCI_LAYER + "+encrypted", NO_DIGEST)


def test_the_child_is_confined(place):
    """A fifo as blob holds the child before its first byte, to look at it from outside."""
    os.mkfifo(place / "root" / "hold")
    failure: list[BaseException] = []

    def run() -> None:
        try:
            unpack(place / "root" / "hold", place / "root")
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    writer = os.open(place / "root" / "hold", os.O_WRONLY)
    try:
        child = wait_for_child()
        status = (child / "status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        kept = sum(1 << bit for bit in (0, 1, 3, 4, 21, 27, 31))
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == kept
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert os.listdir(child / "root") == ["hold"]
        for namespace in ("mnt", "net", "ipc"):
            assert os.readlink(child / "ns" / namespace) != os.readlink(f"/proc/self/ns/{namespace}")
        assert len((child / "mountinfo").read_text().splitlines()) == 1
    finally:
        os.close(writer)
        thread.join()
    assert isinstance(failure[0], InvalidArgument)
    (place / "root" / "hold").unlink()


def wait_for_child() -> Path:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread or a child that is just ending
                for pid in Path("/proc/self/task", task, "children").read_text().split():
                    process = Path("/proc", pid)
                    if (
                        os.listdir(process / "root") == ["hold"]
                        and "Seccomp:\t2" in (process / "status").read_text()  # the last of what confines it
                    ):
                        return process
        time.sleep(0.01)
    raise AssertionError("no confined child appeared")
