"""The runtime suite: mounts of every propagation and attribute, what a tmpfs begins with, shifted owners, devices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sampan.api.runtime import RuntimeCapability, Spec
from sampan.linux.mounts import MNT_DETACH, MS_SHARED, MountInfo, mount, parse_mountinfo, set_propagation, umount
from sampan.testing.containers import Container
from sampan.testing.runtime_ground import Workshop, copy_on_write
from sampan.testing.selection import needs

__all__ = ["MountCases", "bound", "mounts_of", "shared_mount", "tmpfs"]

_ATTRIBUTES = ("ro", "nosuid", "nodev", "noexec")


class MountCases:
    """A container's mounts are as the spec says, each by itself and with all below it."""

    @pytest.mark.parametrize(
        ("option", "tag"),
        [("private", ""), ("rprivate", ""), ("slave", "master"), ("rslave", "master"), ("shared", "shared"), ("rshared", "shared")],
    )
    def test_propagation_of_a_bind(self, workshop: Workshop, tmp_path: Path, option: str, tag: str) -> None:
        """A bind mount of a shared one is what its option says."""
        with shared_mount(tmp_path / "source") as (source, _):
            container = workshop.idle(bound(workshop, source, "rbind", option))
            kinds = {each.partition(":")[0] for each in mounts_of(container)["/volume"].tags}
            assert tag in kinds if tag else not kinds

    def test_later_mounts_arrive_at_a_slave(self, workshop: Workshop, tmp_path: Path) -> None:
        """What the host mounts below the source of an `rslave` bind is there as long as the host has it."""
        with shared_mount(tmp_path / "source") as (source, _):
            (source / "later").mkdir()
            container = workshop.idle(bound(workshop, source, "rbind", "rslave"))
            mount("tmpfs", source / "later", "tmpfs")
            try:
                assert mounts_of(container)["/volume/later"].type == "tmpfs"
            finally:
                umount(source / "later")
            assert "/volume/later" not in mounts_of(container)

    @pytest.mark.parametrize("attribute", _ATTRIBUTES)
    def test_attribute_of_a_tree(self, workshop: Workshop, tmp_path: Path, attribute: str) -> None:
        """With a leading `r` an attribute is also that of what is mounted below; without one it is not."""
        with shared_mount(tmp_path / "source") as (source, _):
            (source / "below").mkdir()
            mount("tmpfs", source / "below", "tmpfs")
            try:
                for option, everywhere in ((attribute, False), (f"r{attribute}", True)):
                    container = workshop.idle(bound(workshop, source, "rbind", option))
                    mounts = mounts_of(container)
                    assert attribute in mounts["/volume"].options
                    assert (attribute in mounts["/volume/below"].options) == everywhere
            finally:
                umount(source / "below")

    def test_tmpfs_begins_with_what_is_there(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        """With `tmpcopyup` files, owners and links are in the tmpfs as in the image, which what is written does not reach."""
        root = copy_on_write(tree, tmp_path)
        place = tmp_path / "upper/place"
        (place / "deep").mkdir(parents=True)
        (place / "deep/file").write_text("data")
        os.chown(place / "deep/file", 5, 6)
        (place / "link").symlink_to("deep/file")
        spec = workshop.spec("cat /place/link; stat -c ' %u:%g' /place/deep/file; echo new > /place/deep/file; stat -f -c %T /place")
        spec["mounts"].append(tmpfs("/place", "tmpcopyup"))
        assert workshop.container(spec, rootfs=root).run().lines == ["data 5:6", "tmpfs"]
        assert (place / "deep/file").read_text() == "data"

    def test_readonly_tmpfs_has_places_for_other_mounts(self, workshop: Workshop) -> None:
        """It is read-only for the program, and not yet while mounts in it are made."""
        spec = workshop.spec("touch /outer/file; echo $?; touch /outer/inner/file; echo $?")
        spec["mounts"] += [tmpfs("/outer", "ro"), tmpfs("/outer/inner")]
        assert workshop.container(spec).run().lines == ["1", "0"]

    @pytest.mark.parametrize("kind", [("tmpfs",), ("bind", "bind")])
    def test_remount(self, workshop: Workshop, kind: tuple[str, ...]) -> None:
        """The option `remount` changes what an earlier entry has mounted; what is in it stays, and so do other mounts."""
        spec = workshop.spec("touch /place/file; echo $?; stat -f -c %T /place; touch /other/file; echo $?")
        change = {"destination": "/place", "type": kind[0], "source": "/tmp", "options": [*kind[1:], "remount", "ro"]}
        spec["mounts"] += [tmpfs("/place"), tmpfs("/other"), change]
        output = workshop.container(spec).run()
        assert output.lines == ["1", "tmpfs", "0"]
        assert b"Read-only file system" in output.stderr

    @pytest.mark.parametrize(("kind", "shown"), [("c", "character special file"), ("b", "block special file"), ("p", "fifo")])
    def test_device(self, workshop: Workshop, kind: str, shown: str) -> None:
        """A node of the spec has its type, numbers, mode and owner, whatever the umask."""
        spec = workshop.spec("stat -c '%F %t:%T %a %u:%g' /dev/deep/node", user={"uid": 0, "gid": 0, "umask": 0o077})
        device = {"path": "/dev/deep/node", "type": kind, "fileMode": 0o642, "uid": 7, "gid": 8}
        spec["linux"]["devices"] = [device if kind == "p" else {**device, "major": 7, "minor": 200}]
        numbers = "0:0" if kind == "p" else "7:c8"
        assert workshop.container(spec).run().text == f"{shown} {numbers} 642 7:8"

    @needs(RuntimeCapability.IDMAPPED_MOUNTS)
    @pytest.mark.parametrize(("option", "below"), [("idmap", "3"), ("ridmap", "103")])
    def test_mount_with_a_map_of_its_own(self, workshop: Workshop, tmp_path: Path, option: str, below: str) -> None:
        """Owners of a bind are shifted by the mount's own map, those below it only by `ridmap`; on disk they stay."""
        with shared_mount(tmp_path / "source") as (source, _):
            (source / "file").touch()
            (source / "below").mkdir()
            mount("tmpfs", source / "below", "tmpfs")
            try:
                for file in (source / "file", source / "below/file"):
                    file.touch()
                    os.chown(file, 3, 4)
                script = "stat -c %u /volume/file /volume/below/file; chown 105:205 /volume/file"
                spec = bound(workshop, source, "rbind", option, script=script)
                spec["mounts"][-1] |= {"uidMappings": [_map(0, 100)], "gidMappings": [_map(0, 200)]}
                assert workshop.container(spec).run().lines == ["103", below]
                assert ((source / "file").stat().st_uid, (source / "file").stat().st_gid) == (5, 5)
            finally:
                umount(source / "below")


@contextmanager
def shared_mount(place: Path) -> Iterator[tuple[Path, str]]:
    """Have a tmpfs mounted at the new directory `place`, shared; give it and its group's number."""
    place.mkdir()
    mount("tmpfs", place, "tmpfs")
    try:
        set_propagation(place, MS_SHARED)
        (found,) = (each for each in parse_mountinfo() if each.target == str(place))
        yield place, found.tags[0].partition(":")[2]
    finally:
        umount(place, MNT_DETACH)


def bound(workshop: Workshop, source: Path, *options: str, script: str = "sleep 1000") -> Spec:
    """Give a spec with a bind mount at /volume. The root's propagation lets the mount's own be, as Docker has it."""
    spec = workshop.spec(script)
    spec["linux"]["rootfsPropagation"] = "rshared" if {"shared", "rshared"} & set(options) else "rslave"
    spec["mounts"].append({"destination": "/volume", "type": "bind", "source": str(source), "options": list(options)})
    return spec


def tmpfs(target: str, *options: str) -> Spec:
    """Give a mount."""
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def _map(inside: int, outside: int) -> Spec:
    return {"containerID": inside, "hostID": outside, "size": 1000}


def mounts_of(container: Container) -> Mapping[str, MountInfo]:
    """Give the mounts that a container sees, by place."""
    return {each.target: each for each in parse_mountinfo(container.main.pid)}
