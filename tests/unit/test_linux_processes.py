from __future__ import annotations

import os
import signal
from pathlib import Path

from sampan.linux.processes import clone, fork, keep_only, leave_keyring, reset_signals
from sampan.linux.syscalls import syscall


def status_of_child(run: object) -> int:
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            status = run()  # type: ignore[operator]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_only_the_named_descriptors_stay() -> None:
    def run() -> int:
        kept = [os.dup(1) for _ in range(4)]
        keep_only([kept[3], 1, kept[1]])
        return 0 if set(os.listdir("/proc/self/fd")) - {"0"} == {"1", str(kept[1]), str(kept[3])} else 1

    # fd 0 is the listing's own: the lowest free number
    assert status_of_child(run) == 0


def test_ignored_and_blocked_signals_are_forgotten() -> None:
    def run() -> int:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGRTMAX, signal.SIG_IGN)
        syscall("rt_sigaction", 32, (1).to_bytes(32, "little"), None, 8)  # what glibc's posix_spawn leaves; 1: SIG_IGN
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        reset_signals()
        with Path("/proc/self/status").open("rb") as file:
            masks = dict(line.split() for line in file if line.startswith((b"SigIgn", b"SigBlk")))
        return 0 if {int(value, 16) for value in masks.values()} == {0} else 1

    assert status_of_child(run) == 0


def test_signals_wake_nobody_of_the_parents() -> None:
    """A wakeup descriptor is closed and its number taken by others: the next SIGCHLD must not be written there."""

    def run() -> int:
        _, writer = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(writer)
        reset_signals()
        return 0 if signal.set_wakeup_fd(-1) == -1 else 1

    assert status_of_child(run) == 0


def test_keys_of_the_session_are_left() -> None:
    """By name and by number, also when nobody else holds the keyring any more."""

    def run() -> int:
        syscall("keyctl", 1, None)
        key = syscall("add_key", "user", "sampan-test", b"secret", 6, -3)
        syscall("keyctl", 5, key, 0x3F000000)  # for who possesses it only
        found = Path("/proc/keys").read_text().count("sampan-test")
        leave_keyring()
        return 0 if (found, Path("/proc/keys").read_text().count("sampan-test")) == (1, 0) else 1

    assert status_of_child(run) == 0


def test_clone_is_a_fork() -> None:
    def run() -> int:
        # Without CLONE_PARENT and a signal at the end it is waited for with __WALL
        pid = clone(0)
        if pid == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0x40000000)[1])

    assert status_of_child(run) == 7


def test_fork_is_waited_for_as_any_other() -> None:
    def run() -> int:
        pid = fork()
        if pid == 0:
            os._exit(9)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert status_of_child(run) == 9
