from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from sampan.linux import mounts, overlay
from sampan.linux.mounts import Mount, locked, open_mount, open_root, parse_mountinfo, parse_options
from sampan.linux.namespaces import IdRange, new_userns


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


def test_atime_takes_noatime_back_and_nothing_else() -> None:
    assert parse_options(["atime"]).attr_clear == mounts.MOUNT_ATTR__ATIME
    assert parse_options(["noatime", "atime"]).attr_set == mounts.MOUNT_ATTR_RELATIME
    assert parse_options(["strictatime", "atime"]).attr_set == mounts.MOUNT_ATTR_STRICTATIME
    assert parse_options(["noatime", "norelatime", "nostrictatime"]).attr_set == mounts.MOUNT_ATTR_NOATIME
    assert parse_options(["rnoatime", "ratime"]).tree_set == mounts.MOUNT_ATTR_RELATIME


def test_a_new_mount_has_what_its_tree_is_to_have() -> None:
    assert parse_options(["rro", "noexec"]).attributes == mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOEXEC
    assert parse_options(["rro", "rw"]).attributes == 0


def test_shifted_owners_are_no_option_of_the_file_system() -> None:
    options = parse_options(["rbind", "ridmap"])
    assert (options.idmap, options.idmap_recursive, options.data) == (True, True, ())


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


@pytest.fixture(params=["layer by layer", "by one page of options"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How overlays are mounted: as by Linux 6.8 and later, and as by earlier ones."""
    if request.param == "by one page of options":
        monkeypatch.setattr(overlay, "takes_each_layer", lambda: False)
    return request.param


def make_overlay(place: Path, names: list[str], *options: str) -> Mount:
    """Make layers, topmost first, each with a file of its number, and a file that all have."""
    for number, name in enumerate(names):
        (place / name).mkdir(parents=True)
        (place / name / str(number)).touch()
        (place / name / "all").write_text(str(number))
    for name in ("fs", "work"):
        (place / "top" / name).mkdir(parents=True)
    lower = [f"lowerdir+={place / name}" for name in names]
    return Mount("overlay", "overlay", (*lower, f"upperdir={place}/top/fs", f"workdir={place}/top/work", *options))


@pytest.mark.usefixtures("way")
def test_two_hundred_layers(tmp_path: Path) -> None:
    where = Path.cwd()
    with open_root([make_overlay(tmp_path, [f"{number}/fs" for number in range(1000, 1200)], "index=off")]) as root:
        assert len(os.listdir(root)) == 201
        assert os.stat("all", dir_fd=root).st_size == 1
        os.mkdir("made", dir_fd=root)
        os.unlink("7", dir_fd=root)
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert sorted(os.listdir(tmp_path / "top/fs")) == ["7", "made"]
    assert Path.cwd() == where


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("above", ["a,upperdir=b/c:d\\e", "a,upperdir=b/c:d\\e/" + "long" * 60], ids=["short", "long"])
def test_layers_with_hostile_names(tmp_path: Path, above: str) -> None:
    place = tmp_path / above
    names = ["with:colon", "with,comma", "with\\backslash", "ends with\\", "\\,:", "=,ro", " ", "\N{SAILBOAT}", "new\nline"]
    with open_root([make_overlay(place, names)]) as root:
        assert sorted(os.listdir(root)) == sorted(["all", *map(str, range(len(names)))])
        os.mkdir("made", dir_fd=root)
    assert os.listdir(place / "top/fs") == ["made"]


@pytest.mark.usefixtures("way")
def test_a_read_only_overlay_without_an_upper_layer(tmp_path: Path) -> None:
    lower = make_overlay(tmp_path, ["a", "b"]).options[:2]
    with open_root([Mount("overlay", "overlay", ("ro", "nosuid", *lower))]) as root:
        assert sorted(os.listdir(root)) == ["0", "1", "all"]
        assert os.fstatvfs(root).f_flag & (os.ST_RDONLY | os.ST_NOSUID) == os.ST_RDONLY | os.ST_NOSUID
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("made", dir_fd=root)


def test_more_layers_than_a_page_of_options_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "takes_each_layer", lambda: False)
    wide = make_overlay(tmp_path, [f"{number}-{'x' * 30}" for number in range(120)])
    with pytest.raises(OSError, match="120 layers: their paths, [0-9]+ bytes .* 4095") as caught:
        open_mount(wide)
    assert caught.value.errno == errno.E2BIG


@pytest.mark.usefixtures("way")
def test_a_missing_layer_is_an_error(tmp_path: Path) -> None:
    good = make_overlay(tmp_path, ["a"])
    with pytest.raises(FileNotFoundError):
        open_mount(Mount("overlay", "overlay", (f"lowerdir+={tmp_path}/none", *good.options)))


@pytest.fixture
def userns() -> int:
    """Id 0 inside is 100000 outside; the test closes it."""
    ranges = [IdRange(0, 100000, 1000)]
    return new_userns(ranges, ranges)


@pytest.mark.usefixtures("way")
def test_owners_in_an_overlay_are_shifted(tmp_path: Path, userns: int) -> None:
    mount = make_overlay(tmp_path, ["a", "b"])
    os.chown(tmp_path / "b/1", 5, 6)
    os.chown(tmp_path / "b/all", 2000, 2000)
    fd = open_mount(mount, userns)
    os.close(userns)
    try:
        assert [os.stat("1", dir_fd=fd)[4:6], os.stat("all", dir_fd=fd).st_uid] == [(100005, 100006), 100000]
        os.chmod("1", 0o600, dir_fd=fd)
        os.unlink("0", dir_fd=fd)
        os.chown("all", 100007, 100008, dir_fd=fd)
        with pytest.raises(OSError, match="too large for defined"):
            os.mkdir("of root outside", dir_fd=fd)
    finally:
        os.close(fd)
    upper = tmp_path / "top/fs"
    assert sorted(os.listdir(upper)) == ["0", "1", "all"]
    assert [(upper / name).lstat()[4:6] for name in ("1", "all")] == [(5, 6), (7, 8)]
    assert os.major((upper / "0").lstat().st_rdev) == 0
    assert (tmp_path / "b/all").stat().st_uid == 2000


def test_shifting_what_cannot_be_shifted(tmp_path: Path, userns: int) -> None:
    mount = make_overlay(tmp_path, ["a"])
    apart = tuple(option.replace("workdir=", "workdir=/").replace("/top/work", "/work") for option in mount.options)
    try:
        for kind, options in (("tmpfs", ()), ("overlay", ("lowerdir=/a",)), ("overlay", apart)):
            with pytest.raises(OSError, match="with shifted owners") as caught:
                open_mount(Mount(kind, kind, options), userns)
            assert caught.value.errno == errno.EINVAL
    finally:
        os.close(userns)
    ranges = [IdRange(5, 100000, 1)]
    without_root = new_userns(ranges, ranges)
    try:
        with pytest.raises(OSError, match="has no id 0"):
            open_mount(mount, without_root)
    finally:
        os.close(without_root)


def test_a_bad_map_is_refused() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="uid_map"):
        new_userns([IdRange(0, 1000, 10), IdRange(5, 2000, 10)], [])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_lock_is_held_until_its_holder_is_killed(tmp_path: Path) -> None:
    mount = Mount("bind", str(tmp_path), lock=str(tmp_path))
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with open_root([mount]):
                os.write(tell, b"!")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(told, 1) == b"!"
        with pytest.raises(OSError, match="mounted by another container or process") as caught, open_root([mount]):
            pass
        assert caught.value.errno == errno.EBUSY
        with open_root([Mount("bind", str(tmp_path), ("ro",))]):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)
    with open_root([mount]):
        pass


def test_locks_are_all_taken_or_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    before = os.listdir("/proc/self/fd")
    both = [Mount("bind", "/", lock=f"{tmp_path}/{name}") for name in ("a", "b")]
    with locked(both[1:]), pytest.raises(OSError, match="mounted by another"), locked(both):
        pass
    with locked(both), pytest.raises(OSError, match="mounted by another"), locked(both[:1]):
        pass
    with pytest.raises(FileNotFoundError), locked([both[0], Mount("bind", "/", lock=f"{tmp_path}/none")]):
        pass
    assert os.listdir("/proc/self/fd") == before
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
