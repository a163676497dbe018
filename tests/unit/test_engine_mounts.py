from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.records import container_record
from sampan.api.errors import InvalidArgument, SampanError, Unsupported
from sampan.api.types import HostConfig
from sampan.engine.mounts import mount_points, parse_bind, ready_bind
from sampan.engine.records import ContainerRecord, MountPoint


def nobody(name: str) -> ContainerRecord:
    raise AssertionError(f"asked for {name}")


def points(image_volumes: tuple[str, ...] = (), find: Any = nobody, **host: Any) -> list[MountPoint]:
    return mount_points(HostConfig.model_validate(host), image_volumes, find)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/src:/dst", {"type": "bind", "source": "/src", "destination": "/dst", "rw": True, "propagation": "rprivate"}),
        ("/src:/dst:ro", {"rw": False, "mode": "ro"}),
        ("/src/../a//b:/x/./y/", {"source": "/a/b", "destination": "/x/y"}),
        ("/src:/dst:rshared,ro", {"propagation": "rshared", "rw": False}),
        ("/src:/dst:z,cached", {"rw": True}),
        ("data:/dst", {"type": "volume", "name": "data", "driver": "local", "mode": "z", "copy_up": True}),
        ("data:/dst:nocopy", {"type": "volume", "copy_up": False}),
        ("/dst", {"type": "volume", "name": "", "destination": "/dst"}),
    ],
)
def test_volume_options(text: str, expected: dict[str, object]) -> None:
    found = parse_bind(text, "").model_dump()
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid volume specification"),
        ("a:b:c:d", "invalid volume specification"),
        (":/dst", "invalid volume specification"),
        ("/src:", "invalid volume specification"),
        ("/src:dst", "mount path must be absolute"),
        ("dst", "mount path must be absolute"),
        ("/src:/", "destination can't be '/'"),
        ("/src:/x/..", "destination can't be '/'"),
        ("/src:/dst:rx", "invalid mode: rx"),
        ("./src:/dst", "includes invalid characters for a local volume name"),
        ("a/b:/dst", "includes invalid characters for a local volume name"),
    ],
)
def test_volume_options_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_bind(text, "")


@given(st.text(alphabet="/:.a,ro~", max_size=16))
def test_any_text_is_a_clean_mount_or_refused(text: str) -> None:
    try:
        point = parse_bind(text, "")
    except InvalidArgument:
        return
    assert point.destination.startswith("/")
    assert point.destination.strip("/") != ""
    assert ".." not in point.destination.split("/")


def mount(**values: Any) -> MountPoint:
    return points(Mounts=[values])[0]


def test_mount_requests(tmp_path: Path) -> None:
    bind = mount(Type="bind", Source=str(tmp_path), Target="/d", ReadOnly=True, BindOptions={"Propagation": "slave"})
    assert (bind.source, bind.rw, bind.propagation, bind.create) == (str(tmp_path), False, "slave", False)
    made = mount(Type="bind", Source=f"{tmp_path}/new", Target="/d", BindOptions={"CreateMountpoint": True})
    assert made.create
    volume = mount(Type="volume", Source="data", Target="/d", VolumeOptions={"NoCopy": True, "DriverConfig": {"Name": "nfs"}})
    assert (volume.name, volume.driver, volume.copy_up) == ("data", "nfs", False)
    tmpfs = mount(Type="tmpfs", Target="/d", TmpfsOptions={"SizeBytes": 4096, "Mode": 0o1770})
    assert tmpfs.options == ["noexec", "nosuid", "nodev", "size=4096", "mode=1770"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Type": "bind", "Source": "/absent/really", "Target": "/d"}, "bind source path does not exist: /absent/really"),
        ({"Type": "bind", "Source": "rel", "Target": "/d"}, "invalid mount path: 'rel' mount path must be absolute"),
        ({"Type": "bind", "Source": "/", "Target": "/d", "BindOptions": {"Propagation": "x"}}, "invalid propagation mode: x"),
        ({"Type": "npipe", "Target": "/d"}, "mount type unknown: 'npipe'"),
        ({"Type": "volume", "Target": "d"}, "mount path must be absolute"),
    ],
)
def test_mount_requests_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        mount(**values)


def test_what_is_not_there_yet_is_told() -> None:
    with pytest.raises(Unsupported, match="volume-subpath"):
        mount(Type="volume", Source="data", Target="/d", VolumeOptions={"Subpath": "a"})


def test_how_far_a_bind_is_read_only() -> None:
    def options(**given: bool) -> tuple[bool, bool]:
        point = mount(Type="bind", Source="/etc", Target="/d", ReadOnly=True, BindOptions=given)
        return point.recursive, point.recursive_ro

    assert options() == options(ReadOnlyForceRecursive=True) == (True, True)
    assert options(NonRecursive=True) == (False, True)
    assert options(ReadOnlyNonRecursive=True) == (True, False)
    with pytest.raises(InvalidArgument, match="ReadOnlyNonRecursive && ReadOnlyForceRecursive"):
        options(ReadOnlyNonRecursive=True, ReadOnlyForceRecursive=True)


def test_of_tmpfs_options_the_last_holds() -> None:
    def options(text: str) -> list[str]:
        return next(iter(points(Tmpfs={"/t": text}))).options

    assert options("size=1m,exec,size=2m") == ["nosuid", "nodev", "exec", "size=2m"]
    assert options("ro,rw,mode=700") == ["noexec", "nosuid", "nodev", "rw", "mode=700"]
    assert mount(Type="tmpfs", Target="/d", TmpfsOptions={"Options": [["exec"], ["uid", "5"]]}).options == ["nosuid", "nodev", "exec", "uid=5"]
    for text in ("nonsense", "huge=always", "size", "exec=1"):
        with pytest.raises(InvalidArgument, match="invalid tmpfs option"):
            options(text)


def test_tmpfs() -> None:
    (plain,) = points(Tmpfs={"/t": ""})
    assert plain.options == ["noexec", "nosuid", "nodev"]
    (given_,) = points(Tmpfs={"/t": "exec,size=1m,ro"})
    assert (given_.options, given_.rw) == (["nosuid", "nodev", "exec", "size=1m", "ro"], False)


def test_one_place_is_mounted_once() -> None:
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /d"):
        points(Binds=["/a:/d", "/b:/d/"])
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /d"):
        points(Binds=["/a:/d"], Tmpfs={"/d": ""})


def test_an_images_volume_gives_way() -> None:
    found = {point.destination: point for point in points(("/d", "/e/"), Binds=["/a:/d"])}
    assert found["/d"].type == "bind"
    assert (found["/e"].type, found["/e"].name, found["/e"].copy_up) == ("volume", "", True)


def test_volumes_from() -> None:
    theirs = [
        MountPoint(type="bind", source="/a", destination="/a"),
        MountPoint(type="volume", name="v", destination="/v", copy_up=True),
        MountPoint(type="tmpfs", destination="/t"),
    ]
    other = container_record(mounts=theirs)
    found = {p.destination: p for p in points(find={"other": other}.__getitem__, VolumesFrom=["other:ro"], Binds=["/mine:/a"])}
    assert set(found) == {"/a", "/v"}
    assert found["/a"].source == "/mine"
    assert (found["/v"].name, found["/v"].rw, found["/v"].copy_up) == ("v", False, False)
    with pytest.raises(InvalidArgument, match="invalid mode for volumes-from: x"):
        points(find={"other": other}.__getitem__, VolumesFrom=["other:x"])


def test_a_missing_source_of_v_is_made(tmp_path: Path) -> None:
    ready_bind(parse_bind(f"{tmp_path}/a/b:/d", ""), (os.getuid(), os.getgid()))
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(SampanError, match="error while creating mount source path"):
        ready_bind(parse_bind(f"{tmp_path}/file/b:/d", ""), (0, 0))
