"""The runtime suite: the root file system and what is mounted in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sampan.api.errors import SampanError
from sampan.api.runtime import Mount
from sampan.testing.runtime_ground import Workshop, copy_on_write


class FileCases:
    """The files of a container are the spec's, and none of the host's."""

    def test_file_systems(self, workshop: Workshop) -> None:
        """The spec's mounts are there with their options, and none of the host's."""
        lines = [line.split() for line in workshop.run("cat /proc/mounts").lines]
        mounts = {target: (kind, set(options.split(","))) for _, target, kind, options, *_ in lines}
        kinds = {
            "/proc": "proc",
            "/dev": "tmpfs",
            "/dev/pts": "devpts",
            "/sys": "sysfs",
            "/dev/shm": "tmpfs",
            "/dev/mqueue": "mqueue",
        }
        assert {target: mounts[target][0] for target in kinds} == kinds
        assert {"ro", "nosuid", "nodev", "noexec"} <= mounts["/sys"][1]
        assert {"rw", "nosuid", "nodev", "noexec"} <= mounts["/proc"][1]
        assert {"gid=5", "mode=620", "ptmxmode=666"} <= mounts["/dev/pts"][1]
        assert {"nosuid", "mode=755", "size=65536k"} <= mounts["/dev"][1]
        assert not [target for target in mounts if target.startswith(str(workshop.directory))]
        assert [target for _, target, *_ in lines].count("/") == 1

    def test_devices(self, workshop: Workshop) -> None:
        """The default nodes are there with their numbers; links to the process's own streams; nothing of
        the host's."""
        names = ("null", "zero", "full", "random", "urandom", "tty")
        output = workshop.run(
            f"cd /dev; stat -c '%n %t:%T %a' {' '.join(names)}; "
            "for name in fd stdin stdout stderr ptmx; do readlink $name; done; echo x > null; ls"
        )
        lines = output.lines
        numbers = ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0")
        assert lines[:6] == [f"{name} {number} 666" for name, number in zip(names, numbers, strict=True)]
        assert lines[6:10] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"]
        assert lines[10] in ("pts/ptmx", "/dev/pts/ptmx")
        known = {*names, "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue", "core", "console"}
        assert set(lines[11:]) <= known

    def test_masked_and_readonly_paths(self, workshop: Workshop) -> None:
        """Masked files are empty, masked directories too; read-only paths can't be written."""
        output = workshop.run(
            "wc -c < /proc/interrupts; ls -A /sys/firmware | wc -l; echo 0 > /proc/sys/kernel/panic; echo $?"
        )
        assert output.lines == ["0", "0", "1"]
        assert b"Read-only file system" in output.stderr

    def test_readonly_root(self, workshop: Workshop) -> None:
        """A read-only root refuses writes; mounts inside it don't."""
        spec = workshop.spec("touch /tmp/file; echo $?; touch /dev/shm/file; echo $?")
        spec["root"]["readonly"] = True
        output = workshop.container(spec).run()
        assert output.lines == ["1", "0"]
        assert b"Read-only file system" in output.stderr

    def test_overlay_root(self, workshop: Workshop, tmp_path: Path, tree: Path) -> None:
        """An overlay as data: what the container writes is in the upper directory, and the lower ones
        stay."""
        upper, work, extra = (tmp_path / name for name in ("upper", "work", "extra"))
        for directory in (upper, work, extra):
            directory.mkdir()
        (extra / "layer").write_text("of the second layer")
        options = (f"lowerdir+={extra}", f"lowerdir+={tree}", f"upperdir={upper}", f"workdir={work}")
        container = workshop.container(
            workshop.spec("cat /layer; echo new > /written"), rootfs=(Mount("overlay", "overlay", options),)
        )
        assert container.run().text == "of the second layer"
        assert (upper / "written").read_text() == "new\n"
        assert not (tree / "written").exists()
        container.delete()
        assert list(work.glob("work/*")) == []

    def test_volumes(self, workshop: Workshop, tmp_path: Path) -> None:
        """Binds read-write and read-only, of a directory and a file, and a tmpfs with a size."""
        shared = tmp_path / "shared"
        shared.mkdir()
        (shared / "file").write_text("from the host")
        spec = workshop.spec(
            "cat /rw/file /file; echo; echo inside > /rw/new; touch /ro/new; echo $?; df -k /scratch | tail -1"
        )
        spec["mounts"] += [
            {"destination": "/rw", "type": "bind", "source": str(shared), "options": ["rbind", "rprivate"]},
            {
                "destination": "/ro",
                "type": "bind",
                "source": str(shared),
                "options": ["rbind", "ro", "rprivate"],
            },
            {
                "destination": "/file",
                "type": "bind",
                "source": str(shared / "file"),
                "options": ["bind", "ro"],
            },
            {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
        ]
        output = workshop.container(spec, rootfs=copy_on_write(workshop.tree, tmp_path)).run()
        assert output.lines[:2] == ["from the hostfrom the host", "1"]
        assert output.lines[2].split()[1] == "1024"
        assert (shared / "new").read_text() == "inside\n"

    @pytest.mark.parametrize("link", ["/dev", "/proc", "/volume"])
    def test_links_in_the_root_stay_in_it(self, workshop: Workshop, tmp_path: Path, link: str) -> None:
        """An image whose mount points are links to the host's directories changes nothing there, and
        mounts nothing there."""
        victim = tmp_path / "victim"
        victim.mkdir()
        rootfs = copy_on_write(workshop.tree, tmp_path)
        upper = tmp_path / "upper"
        os.mknod(upper / link[1:], stat.S_IFCHR)  # overlay's whiteout: hide the tree's own directory
        (upper / link[1:]).unlink()
        os.symlink(victim, upper / link[1:])
        spec = workshop.spec("true")
        spec["mounts"].append({"destination": "/volume", "type": "tmpfs", "source": "tmpfs", "options": []})
        try:
            workshop.container(spec, rootfs=rootfs).run()
        except SampanError:
            pass  # to refuse is as good
        assert list(victim.iterdir()) == []
