"""What the confined children that unpack and write layers have in common: how they lock themselves in, and answer.

A child starts with a few descriptors, makes one directory its whole file system, leaves the network and the IPC of the
host, and gives up all capabilities but those that its work takes, and the system calls that these open beyond files.
Whatever a hostile tar or a hostile tree then makes it do stays in that directory. The parent's side is `confined`. Imports
come before `confine`: afterwards there is nothing to import from. Sources: pivot_root(2), seccomp(2).
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sampan.api.errors import InvalidArgument, SampanError, System, to_wire
from sampan.linux import capabilities, mounts, namespaces, seccomp
from sampan.linux.syscalls import MACHINE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

READ_WRITE = mounts.MountOptions()
READ_ONLY = mounts.MountOptions(
    attr_set=mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOEXEC
)
"""A tree that is only read: no device in it can be opened."""


_BEYOND_FILES = (
    "mount", "umount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "pivot_root", "chroot", "setns", "unshare", "name_to_handle_at", "open_by_handle_at", "quotactl", "quotactl_fd",
    "swapon", "swapoff", "bpf", "perf_event_open", "io_uring_setup", "userfaultfd", "ptrace", "process_vm_readv",
    "process_vm_writev", "pidfd_getfd", "kcmp", "add_key", "keyctl", "request_key", "syslog", "sethostname", "setdomainname",
    "socket", "socketpair", "execve", "execveat",
)  # fmt: skip
"""System calls that the kept capabilities would open beyond the tree, and that no child needs."""


def confine(
    root: int,
    kept: Collection[str],
    *,
    limits: Mapping[int, int],
    options: mounts.MountOptions = READ_WRITE,
) -> int:
    """Make the directory `root` this process's whole file system and give up all capabilities but `kept`.

    Gives a descriptor of the new root; `root` is closed. `limits`: resource (`RLIMIT_*`) → value; no core is ever dumped.
    `options`: of the mount that shows the root. Raises `OSError`.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    had = capabilities.current()  # /proc will be out of sight.
    os.umask(0)
    for limit, value in {resource.RLIMIT_CORE: 0, **limits}.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    # Cloned before unshare: afterwards the kernel counts `root` as another namespace's.
    clone = _clone(root, options)
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWNET)
    mounts.set_propagation("/", mounts.MS_REC | mounts.MS_PRIVATE)
    tree = os.dup(root) if clone is None else clone
    mounts.attach(tree, "/")
    if clone is None:
        mounts.apply_attributes(tree, options)
    os.fchdir(tree)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)
    os.close(tree)
    os.close(root)
    bits = capabilities.mask(kept) & had.permitted
    capabilities.apply(capabilities.CapabilitySets(effective=bits, permitted=bits))
    _refuse(_BEYOND_FILES)
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _refuse(names: Collection[str]) -> None:
    """Have these system calls fail with EPERM from now on, in threads made later too; where the architecture is known."""
    if seccomp.is_known(MACHINE):
        calls = [{"names": list(names), "action": "SCMP_ACT_ERRNO"}]
        architectures = ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"]  # those that run beside this one
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": calls}
        seccomp.install(seccomp.compile(profile))


def _clone(root: int, options: mounts.MountOptions) -> int | None:
    """Give a mount of the directory `root`; None where that is a mount without a place, which before Linux 6.15 can't be
    cloned. It can be given a place then, once."""
    try:
        return mounts.open_bind(root, "", options)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def main(run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Do what the parent's request asks; answer on standard output with `{"result": …}` or `{"error": …}`, and end."""
    prctl(PR_SET_PDEATHSIG, 9)
    try:
        answer: dict[str, Any] = {"result": run(json.loads(sys.argv[1]))}
    except SampanError as error:
        answer = {"error": to_wire(error)}
    except RecursionError:
        answer = {"error": to_wire(InvalidArgument("it has directories that are too deep"))}
    except MemoryError:
        answer = {"error": to_wire(InvalidArgument("it takes more memory than is allowed"))}
    except OSError as error:
        answer = {"error": to_wire(System(error.strerror or str(error)))}
    os.write(1, json.dumps(answer).encode())
    os._exit(0)  # A thread may still wait for room in a queue.
