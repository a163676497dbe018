from __future__ import annotations

from sampan.linux import mounts
from sampan.linux.mounts import parse_mountinfo, parse_options


def test_options_go_where_they_belong() -> None:
    options = parse_options(["rbind", "ro", "nosuid", "rslave", "rnodev", "size=64k", "mode=1777", "defaults"])
    assert options.bind
    assert options.recursive
    assert options.attr_set == mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID
    assert options.tree_set == mounts.MOUNT_ATTR_NODEV
    assert options.propagation == (mounts.MS_SLAVE | mounts.MS_REC,)
    assert options.data == ("size=64k", "mode=1777")


def test_repeated_file_system_options_keep_their_order() -> None:
    given = ("lowerdir+=/b", "lowerdir+=/a", "upperdir=/u", "volatile")
    assert parse_options(given).data == given


def test_later_options_win() -> None:
    options = parse_options(["ro", "rw", "exec", "noexec"])
    assert options.attr_set == mounts.MOUNT_ATTR_NOEXEC
    assert options.attr_clear == mounts.MOUNT_ATTR_RDONLY


def test_atime_is_one_field() -> None:
    options = parse_options(["noatime", "strictatime"])
    assert options.attr_set == mounts.MOUNT_ATTR_STRICTATIME
    assert options.attr_clear == mounts.MOUNT_ATTR__ATIME


def test_mountinfo_of_this_process() -> None:
    found = {each.target: each for each in parse_mountinfo()}
    assert found["/proc"].type == "proc"
    assert found["/proc"].root == "/"


def test_mountinfo_line_with_spaces_and_tags() -> None:
    line = r"29 1 8:1 /a\040b /mnt/c\134d rw,nosuid shared:2 master:1 - ext4 /dev/sda\0401 rw,discard"
    found = mounts._parse_mountinfo_line(line)
    assert (found.id, found.parent, found.device) == (29, 1, (8, 1))
    assert (found.root, found.target, found.source) == ("/a b", "/mnt/c\\d", "/dev/sda 1")
    assert found.tags == ("shared:2", "master:1")
    assert found.super_options == ("rw", "discard")
