"""libnftables: on a kernel without nf_tables, which a seccomp filter plays, it would end the whole process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from sampan.linux.namespaces import call_in_netns, new_netns
from sampan.linux.nftables import Nftables

WITHOUT_NETFILTER = """
import os, socket
from sampan.linux import nftables, seccomp, syscalls
rule = {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 93,
        "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 12, "op": "SCMP_CMP_EQ"}]}
profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": [rule]}
syscalls.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS: a filter without privileges
seccomp.install(seccomp.compile(profile, os.uname().machine), 0)
try:
    nftables.Nftables()
except nftables.NftError as error:
    print(error)
"""


def test_a_kernel_without_nf_tables_is_an_error_and_not_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NETFILTER], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "modprobe nf_tables" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs CAP_SYS_ADMIN")
def test_a_generation_is_asked_for_by_a_socket_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    netns = new_netns()
    nft = call_in_netns(netns, Nftables)
    try:
        monkeypatch.setattr(socket, "socket", None)  # closing one waits until the kernel has freed what was deleted
        before = nft.generation()
        assert nft.generation() == before
        nft.run("add table inet mine")
        assert nft.generation() != before
    finally:
        nft.close()
        os.close(netns)
