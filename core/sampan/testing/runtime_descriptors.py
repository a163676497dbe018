"""The runtime suite: descriptors and directories of the host that must not come in."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.api.errors import SampanError
from sampan.api.runtime import RuntimeCapability
from sampan.testing.containers import Output
from sampan.testing.runtime_ground import Workshop, shell
from sampan.testing.selection import needs


class DescriptorCases:
    """CVE-2024-21626: what the caller has open stays with the caller."""

    def test_only_three_descriptors(self, workshop: Workshop, capabilities: frozenset[str], tmp_path: Path) -> None:
        """Nothing but 0, 1 and 2 is open in the container, though the caller leaks what it can
        (CVE-2024-21626)."""
        container = workshop.container(workshop.spec("ls /proc/self/fd; sleep 1000"))
        with _tempting_descriptors(tmp_path):
            container.create().start()
            # `ls` holds one more: the directory that it lists.
            assert container.main.read_until(b"3\n").split() == [b"0", b"1", b"2", b"3"]
            if RuntimeCapability.EXEC in capabilities:
                assert container.exec(shell("ls /proc/self/fd")).stdout.split() == [b"0", b"1", b"2", b"3"]

    @pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 64])
    def test_directory_of_a_descriptor(self, workshop: Workshop, tmp_path: Path, number: int) -> None:
        """A working directory in /proc/self/fd is refused or inside the root (CVE-2024-21626)."""
        with _tempting_descriptors(tmp_path):
            try:
                output = workshop.run(_WHERE, cwd=f"/proc/self/fd/{number}")
            except SampanError:
                return
            _assert_inside(output)

    @needs(RuntimeCapability.EXEC)
    def test_exec_in_directory_of_a_descriptor(self, workshop: Workshop, tmp_path: Path) -> None:
        """The same for `exec`, at every number up to 64."""
        container = workshop.idle()
        with _tempting_descriptors(tmp_path):
            for number in range(3, 65):
                try:
                    output = container.exec(shell(_WHERE, cwd=f"/proc/self/fd/{number}"))
                except SampanError:
                    continue
                _assert_inside(output)


    def test_null_device_of_the_host(self, workshop: Workshop, tmp_path: Path) -> None:
        """A stream that is a null device of the host can be written and read, and stays the host's: owner and mode too."""
        container = workshop.container(workshop.spec(f"{_TAKE_STDIN}; sleep 1000", user={"uid": 0, "gid": 0}))
        with _null_device(tmp_path) as device:
            container.main.stdio = replace(container.main.stdio, stdin=device)
            container.create().start()
            assert container.main.read_until(b"done\n") == b"done\n"

    @needs(RuntimeCapability.EXEC)
    def test_null_device_of_the_host_for_exec(self, workshop: Workshop, tmp_path: Path) -> None:
        """The same for `exec`."""
        container = workshop.idle()
        with _null_device(tmp_path) as device:
            process = container.start_exec(shell(_TAKE_STDIN), stdin=device)
            assert process.read_until(b"done\n") == b"done\n"


_TAKE_STDIN = "cat; chmod 0 /proc/self/fd/0 2>/dev/null; chown 7 /proc/self/fd/0 2>/dev/null; echo done"


@contextmanager
def _null_device(directory: Path) -> Iterator[int]:
    """Give a descriptor of a null device as the host has one; see that nobody has changed it."""
    node = directory / "null"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    node.chmod(0o666)
    fd = os.open(node, os.O_RDWR)
    try:
        yield fd
        found = node.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o666, os.getuid())
    finally:
        os.close(fd)


_WHERE = "stat -L -c %d:%i / ../../../../../../../../../../..; cat secret ../secret ../../secret 2>/dev/null; pwd"


def _assert_inside(output: Output) -> None:
    root, top, *rest = output.lines
    assert root == top, "the working directory is outside of the container's root"
    assert "the host's" not in rest


@contextmanager
def _tempting_descriptors(directory: Path) -> Iterator[None]:
    """Hold descriptors of a directory of the host at all free numbers from 3 to 64, open across exec."""
    (directory / "secret").write_text("the host's\n")
    source = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    free = [number for number in range(3, 65) if number != source and not Path(f"/proc/self/fd/{number}").exists()]
    try:
        for number in free:
            os.dup2(source, number, inheritable=True)
        yield
    finally:
        for number in (source, *free):
            os.close(number)
