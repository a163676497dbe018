from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.testing.leaks import Leaks

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000


def in_user_namespace(flags: int, action: Callable[[], str]) -> str:
    """Run `action` as root of a new user namespace in a child, and give the text that it gives."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            uid = os.getuid()
            if libc.unshare(CLONE_NEWUSER | flags) != 0:
                text = f"unshare: {os.strerror(ctypes.get_errno())}"
            else:
                Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
                text = action()
        except BaseException as error:
            text = repr(error)
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


def test_nothing_done_is_no_difference() -> None:
    Leaks.before(mark="no-such-thing").check()


def test_an_open_descriptor_is_named() -> None:
    leaks = Leaks.before(mark="no-such-thing")
    with Path("/etc/passwd").open() as file:
        differences = leaks.after(timeout=0)
        assert list(differences) == ["descriptors"]
        assert differences["descriptors"].appeared == (f"{file.fileno()} -> /etc/passwd",)
        with pytest.raises(AssertionError, match="descriptors: left behind .* /etc/passwd"):
            leaks.check(timeout=0)
    leaks.check(timeout=0)


def test_a_closed_descriptor_is_missed() -> None:
    with Path("/etc/passwd").open() as file:
        leaks = Leaks.before(mark="no-such-thing")
        number = file.fileno()
    assert leaks.after(timeout=0)["descriptors"].vanished == (f"{number} -> /etc/passwd",)


def test_a_child_and_a_zombie_are_named() -> None:
    leaks = Leaks.before(mark="no-such-thing")
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(b"!")
        assert child.stdout.read(1) == b"!"  # Popen returns a moment before the kernel changes the name
        assert leaks.after(timeout=0)["children"].appeared == (f"{child.pid} (cat)",)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert leaks.after(timeout=0)["children"].appeared == (f"{child.pid} (cat)",)
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait()
    leaks.check(timeout=0)


def test_an_engine_process_is_named() -> None:
    leaks = Leaks.before(mark="a-mark-of-its-own")
    child = subprocess.Popen(
        [sys.executable, "-Sc", "input()", "sampan.launch.shim", "a-mark-of-its-own"], stdin=subprocess.PIPE
    )
    try:
        (process,) = leaks.after(timeout=0)["engine processes"].appeared
        assert process.startswith(f"{child.pid} ")
    finally:
        child.communicate(b"\n")
    leaks.check()


def test_waits_for_what_goes_away_by_itself() -> None:
    leaks = Leaks.before(mark="no-such-thing")
    file = Path("/etc/passwd").open()
    looked = threading.Event()
    closer = threading.Thread(target=lambda: (looked.wait(), file.close()))
    closer.start()
    try:
        assert "descriptors" in leaks.after(timeout=0)
        looked.set()
        leaks.check(timeout=5)
    finally:
        looked.set()
        closer.join()


def test_a_mount_is_named(tmp_path: Path) -> None:
    def mount() -> str:
        leaks = Leaks.before(mark=str(tmp_path))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True)
        found = leaks.after(timeout=0)["mounts"].appeared
        subprocess.run(["umount", str(tmp_path)], check=True)
        leaks.check(timeout=0)
        return found[0]

    assert in_user_namespace(CLONE_NEWNS, mount).startswith(f"{tmp_path} (root /, tmpfs tmpfs, id ")


def test_links_and_tables_are_named() -> None:
    def add_link() -> str:
        leaks = Leaks.before()
        subprocess.run(["ip", "link", "add", "left0", "type", "veth", "peer", "name", "right0"], check=True)
        subprocess.run(["nft", "add", "table", "ip", "leftover"], check=True)
        differences = leaks.after(timeout=0)
        return repr((differences["links"].appeared, differences["nftables"].appeared))

    found = in_user_namespace(CLONE_NEWNET, add_link)
    assert "'left0 (index " in found
    assert "'right0 (index " in found
    assert "'table ip leftover'" in found
