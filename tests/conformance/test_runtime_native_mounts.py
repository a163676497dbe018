"""Mounts of the native driver where it is stricter than the suite, or alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sampan.api.errors import InvalidArgument, SampanError, Unsupported
from sampan.api.runtime import Mount
from sampan.linux.mounts import mount, parse_mountinfo, umount
from sampan.testing.runtime_ground import RuntimeGround, Workshop, copy_on_write
from sampan.testing.runtime_mounts import bound, mounts_of, shared_mount, tmpfs
from sampan_runtime_native.driver import NativeRuntime


class TestNativeMounts(RuntimeGround):
    driver_class = NativeRuntime
    require_supported = True

    @pytest.mark.parametrize(
        ("option", "tags"), [("", []), ("shared", ["shared"]), ("rslave", ["master"]), ("unbindable", ["unbindable"]), ("runbindable", ["unbindable"])]
    )
    def test_a_bind_is_in_the_hosts_group_or_in_none(self, workshop: Workshop, tmp_path: Path, option: str, tags: list[str]) -> None:
        with shared_mount(tmp_path / "source") as (source, group):
            container = workshop.idle(bound(workshop, source, "rbind", *filter(None, [option])))
            found = mounts_of(container)["/volume"].tags
            assert [tag.partition(":")[0] for tag in found] == tags
            assert all(tag.partition(":")[2] == group for tag in found if ":" in tag)

    @pytest.mark.parametrize(("value", "tags"), [("shared", {"shared"}), ("private", set()), ("unbindable", {"unbindable"}), ("slave", set())])
    def test_propagation_of_the_root(self, workshop: Workshop, value: str, tags: set[str]) -> None:
        """A shared root is a group of its own. A slave has a master only where it is bound from something shared."""
        spec = workshop.spec("sleep 1000")
        spec["linux"]["rootfsPropagation"] = value
        root = mounts_of(workshop.idle(spec))["/"]
        assert {tag.partition(":")[0] for tag in root.tags} == tags
        hosts = {tag for found in parse_mountinfo() for tag in found.tags}
        assert not hosts & set(root.tags) - {"unbindable"}

    def test_a_slave_root_gets_what_the_host_mounts_in_it(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        with shared_mount(tmp_path / "source") as (source, _):
            (source / "tree").mkdir()
            mount(str(tree), source / "tree", None, 4096)
            try:
                spec = workshop.spec("sleep 1000")
                spec["linux"]["rootfsPropagation"] = "rslave"
                container = workshop.idle(spec, rootfs=(Mount("bind", str(source / "tree"), ("bind",)),))
                mount("tmpfs", source / "tree/home", "tmpfs")
                assert mounts_of(container)["/home"].type == "tmpfs"
                umount(source / "tree/home")
            finally:
                umount(source / "tree")

    @pytest.mark.parametrize("attribute", ["noatime", "nodiratime", "strictatime", "nosymfollow"])
    def test_other_attributes_of_a_tree(self, workshop: Workshop, tmp_path: Path, attribute: str) -> None:
        with shared_mount(tmp_path / "source") as (source, _):
            (source / "below").mkdir()
            mount("tmpfs", source / "below", "tmpfs")
            try:
                mounts = mounts_of(workshop.idle(bound(workshop, source, "rbind", f"r{attribute}")))
            finally:
                umount(source / "below")
        for place in ("/volume", "/volume/below"):
            times = {"noatime", "relatime"} & set(mounts[place].options)
            assert not times if attribute == "strictatime" else attribute in mounts[place].options

    def test_a_tree_made_read_only_can_have_a_writable_top(self, workshop: Workshop, tmp_path: Path) -> None:
        with shared_mount(tmp_path / "source") as (source, _):
            (source / "below").mkdir()
            mount("tmpfs", source / "below", "tmpfs")
            try:
                mounts = mounts_of(workshop.idle(bound(workshop, source, "rbind", "rro", "rw")))
            finally:
                umount(source / "below")
        assert ("rw" in mounts["/volume"].options, "ro" in mounts["/volume/below"].options) == (True, True)

    def test_tmpfs_has_the_mode_of_its_place(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        root = copy_on_write(tree, tmp_path)
        (tmp_path / "upper/place").mkdir(mode=0o750)
        spec = workshop.spec("stat -c %a /place /other")
        spec["mounts"] += [tmpfs("/place"), tmpfs("/other", "mode=701")]
        assert workshop.container(spec, rootfs=root).run().lines == ["750", "701"]

    def test_copied_up_tmpfs_keeps_a_mode_that_is_told(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        root = copy_on_write(tree, tmp_path)
        (tmp_path / "upper/place").mkdir(mode=0o750)
        (tmp_path / "upper/place/file").touch()
        spec = workshop.spec("stat -c %a /place; ls /place")
        spec["mounts"].append(tmpfs("/place", "mode=701", "tmpcopyup"))
        assert workshop.container(spec, rootfs=root).run().lines == ["701", "file"]

    def test_copying_up_follows_no_link(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        """A07: the place is a link to a directory of the host's, and in it are links to files of the host's."""
        root = copy_on_write(tree, tmp_path)
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "file").write_text("of the host")
        (tmp_path / "upper/place").symlink_to(secret)
        spec = workshop.spec("ls -A /place/")
        spec["mounts"].append(tmpfs("/place", "tmpcopyup"))
        assert workshop.container(spec, rootfs=root).run().lines == []

    def test_sources_are_relative_to_the_bundle(self, workshop: Workshop) -> None:
        spec = workshop.spec("cat /beside")
        spec["mounts"].append({"destination": "beside", "type": "bind", "source": "config.json", "options": ["bind"]})
        assert b'"ociVersion"' in workshop.container(spec).run().stdout

    @pytest.mark.parametrize(
        ("entry", "kind", "words"),
        [
            ({"destination": "/", "type": "tmpfs"}, InvalidArgument, "the root itself"),
            ({"destination": "/a/..", "type": "tmpfs"}, InvalidArgument, "the root itself"),
            ({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["bind", "size=1k"]}, InvalidArgument, "no option 'size=1k'"),
            ({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}, InvalidArgument, "is for tmpfs"),
            ({"destination": "/x", "type": "tmpfs", "options": ["idmap"]}, Unsupported, "only bind mounts"),
            ({"destination": "/x", "type": "tmpfs", "options": ["no-such"]}, SampanError, "no-such"),
            ({"destination": "/sys", "type": "sysfs", "options": ["remount", "size=1k"]}, InvalidArgument, "a remount has no option 'size=1k'"),
            ({"destination": "/home", "options": ["remount", "ro"]}, InvalidArgument, "nothing is mounted there"),
            ({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["all"]}, InvalidArgument, "cgroups has no option 'all'"),
            ({"destination": "/x", "type": "bind", "source": "/proc", "options": ["bind", "idmap"]}, InvalidArgument, "without a user namespace"),
        ],
    )  # fmt: skip
    def test_mounts_that_are_refused(self, workshop: Workshop, entry: dict[str, Any], kind: type[SampanError], words: str) -> None:
        spec = workshop.spec("true")
        spec["mounts"].append(entry)
        with pytest.raises(kind, match=words):
            workshop.container(spec).create()

    def test_a_remount_follows_no_link(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        """The image does not choose which mount becomes writable."""
        root = copy_on_write(tree, tmp_path)
        (tmp_path / "upper/place").symlink_to("/sys")
        spec = workshop.spec("true")
        spec["mounts"].append({"destination": "/place", "options": ["remount", "rw"]})
        with pytest.raises(SampanError, match="remount /place: openat2: Too many levels of symbolic links"):
            workshop.container(spec, rootfs=root).create()

    @pytest.mark.parametrize("option", ["ro", "rro", "rshared"])
    def test_options_of_the_cgroups(self, workshop: Workshop, option: str) -> None:
        spec = workshop.spec("sleep 1000")
        (entry,) = (each for each in spec["mounts"] if each["type"] == "cgroup")
        entry["options"] = [option]
        spec["linux"]["rootfsPropagation"] = "rshared" if option == "rshared" else "rslave"
        found = [each for target, each in mounts_of(workshop.idle(spec)).items() if target.startswith("/sys/fs/cgroup")]
        assert found
        for each in found:
            assert ("ro" in each.options) == (option != "rshared")
            assert bool(each.tags) == (option == "rshared")

    def test_a_file_system_that_shifts_no_owners_is_named(self, workshop: Workshop) -> None:
        spec = workshop.spec("true")
        maps = [{"containerID": 0, "hostID": 1000, "size": 10}]
        spec["mounts"].append(
            {"destination": "/x", "type": "bind", "source": "/proc", "options": ["bind", "idmap"], "uidMappings": maps, "gidMappings": maps}
        )
        with pytest.raises(SampanError, match="bind /proc with shifted owners"):
            workshop.container(spec).create()

    def test_device_that_the_image_has_otherwise(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        """A device is not laid over what the image has, and its mode is not changed there: it could be a link."""
        root = copy_on_write(tree, tmp_path)
        victim = tmp_path / "victim"
        victim.touch(mode=0o600)
        (tmp_path / "upper/place").mkdir()
        (tmp_path / "upper/place/node").symlink_to(victim)
        spec = workshop.spec("true")
        spec["linux"]["devices"] = [{"path": "/place/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o777, "uid": 5}]
        with pytest.raises(SampanError, match="something else"):
            workshop.container(spec, rootfs=root).create()
        assert (victim.stat().st_mode & 0o777, victim.stat().st_uid) == (0o600, os.getuid())

    @pytest.mark.parametrize("target", ["/", "..", ".", "/proc/self/root", "../../../..", "/proc/1/cwd"])
    @pytest.mark.parametrize("place", ["dev", "sys", "proc"])
    def test_place_that_leads_to_the_root_itself(self, workshop: Workshop, tmp_path: Path, tree: Path, place: str, target: str) -> None:
        """A07: what would be mounted through such a link could land on the root, or what is beneath it."""
        root = copy_on_write(tree, tmp_path)
        (tmp_path / "upper" / place).symlink_to(target)
        with pytest.raises(SampanError, match=f"/{place}"):
            workshop.container(workshop.spec("true"), rootfs=root).create()
