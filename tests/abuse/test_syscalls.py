"""The default seccomp profile (A23), asked by a program in a container: what the kernel answers to each call.

Bites: without a profile the same calls get other answers.
"""

from __future__ import annotations

import errno
import subprocess
import tarfile
from pathlib import Path

import pytest

from ground.daemon import Daemon
from ground.hostile import import_image, tar

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TRY(name, ...) do { errno = 0; syscall(SYS_##name, __VA_ARGS__); printf(#name " %d\n", errno); } while (0)
int main(void) {
    TRY(mount, 0, "/", 0, 0, 0); TRY(umount2, "/", 0); TRY(pivot_root, "/", "/"); TRY(unshare, 0x10000000);
    TRY(setns, -1, 0); TRY(clone3, 0, 0); TRY(keyctl, 0, 0); TRY(add_key, 0, 0, 0, 0, 0); TRY(request_key, 0, 0, 0, 0);
    TRY(bpf, 0, 0, 0); TRY(userfaultfd, 0); TRY(io_uring_setup, 1, 0); TRY(socket, 38, 5, 0); TRY(socket, 40, 1, 0);
    TRY(kexec_load, 0, 0, 0, 0); TRY(perf_event_open, 0, 0, 0, 0, 0); TRY(init_module, 0, 0, 0); TRY(delete_module, 0, 0);
    TRY(reboot, 0, 0, 0, 0); TRY(swapon, 0, 0); TRY(open_by_handle_at, -1, 0, 0); TRY(acct, 0); TRY(iopl, 3);
    TRY(personality, 0x0020); TRY(fsopen, 0, 0); TRY(move_mount, -1, 0, -1, 0, 0); TRY(open_tree, -1, 0, 0);
    TRY(mount_setattr, -1, 0, 0, 0, 0); TRY(settimeofday, 0, 0); TRY(quotactl, 0, 0, 0, 0); TRY(lookup_dcookie, 0, 0, 0);
    return 0;
}
"""

LEFT_ALONE = {"socket"}
"""Denied for some families only: AF_ALG (38) and AF_VSOCK (40)."""


@pytest.fixture(scope="module")
def prober(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("prober")
    (directory / "probe.c").write_text(SOURCE)
    subprocess.run(["gcc", "-static", "-O1", "-w", "-o", "probe", "probe.c"], cwd=directory, check=True)
    return Path(directory, "probe").read_bytes()


def _answers(daemon: Daemon, image: str, *options: str) -> list[tuple[str, int]]:
    lines = daemon.docker("run", "--rm", *options, image).stdout.decode().splitlines()
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def test_default_profile(daemon: Daemon, prober: bytes) -> None:
    image = "prober"
    assert import_image(daemon, image, tar([("probe", tarfile.REGTYPE, prober)]), 'CMD ["/probe"]')[0] == 200
    answers = _answers(daemon, image)
    assert len(answers) == SOURCE.count("TRY(") - 1
    for name, number in answers:
        wanted = errno.ENOSYS if name == "clone3" else errno.EPERM
        assert number in ((errno.EPERM, errno.EAFNOSUPPORT) if name in LEFT_ALONE else (wanted,)), (name, errno.errorcode.get(number))
    free = dict(_answers(daemon, image, "--security-opt", "seccomp=unconfined", "--cap-add", "ALL"))
    assert sum(number != errno.EPERM for number in free.values()) > 15
    daemon.docker("run", "-d", "--name", "host", "busybox", "sleep", "600")
    mode = daemon.docker("exec", "host", "grep", "Seccomp:", "/proc/self/status").stdout
    assert mode.split() == [b"Seccomp:", b"2"]
