"""One call of an OCI runtime's program: spawn it, wait for it, and read its JSON log for the reason of a
failure.

The log's form is logrus's JSON formatter, which runc, crun and runsc share: one object a line with
`level` and `msg`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import Conflict, Forbidden, InvalidArgument, NotFound, SampanError, System
from sampan.linux.files import NULL_DEVICE, is_null_device
from sampan.linux.mounts import MountOptions, open_filesystem
from sampan.linux.syscalls import CLOSE_RANGE_CLOEXEC, close_range

_KINDS: tuple[tuple[type[SampanError], re.Pattern[str]], ...] = (
    (
        Conflict,
        re.compile(
            r"already exists|already in use|is (already )?paused|not paused|in a (paused|stopped) container"
        ),
    ),
    (
        NotFound,
        re.compile(
            r"executable file .*not found in \$PATH|exec:? .*[Nn]o such file"
            r"|(finding executable|failed to load) .*no such file|sandbox is not running|in state stopped|container .*does not exist"
            r"|container .*(is )?not running|process already finished|[Nn]o such process"
        ),
    ),
    (Forbidden, re.compile(r"(exec|executable|failed to load)\W.*([Pp]ermission denied|is a directory|not permitted)")),
    (
        InvalidArgument,
        re.compile(
            r"invalid|must (be|not|contain)|unknown capabilit|unable to parse|cannot unmarshal|chdir|breakout"
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Program:
    """A runtime's program with the options that go before every command; the last two name the log."""

    options: tuple[str, ...]
    log: Path

    def run(self, command: str, *arguments: str, stdio: tuple[int, int, int] = (-1, -1, -1)) -> None:
        """Run one command with `stdio` as its 0, 1, 2 and no other descriptor; -1 stands for /dev/null.

        Raises the error that the log tells of, and `System` if the program can't be run.
        """
        argv = (*self.options, "--log", str(self.log), "--log-format", "json", command, *arguments)
        null = _open_own_null()
        given = [os.dup(null if fd < 0 or is_null_device(os.fstat(fd)) else fd) for fd in stdio]
        try:
            _, status = os.waitpid(_spawn(argv, given), 0)
            if status != 0:
                raise self._failure(command, os.waitstatus_to_exitcode(status))
        finally:
            self.log.unlink(missing_ok=True)
            for fd in (null, *given):
                os.close(fd)

    def ask(self, command: str, *arguments: str) -> bytes:
        """Run one command and give what it writes, however much. Errors as `run`."""
        with open(os.memfd_create("answer"), "rb") as answer:  # noqa: PTH123, a descriptor
            self.run(command, *arguments, stdio=(-1, answer.fileno(), -1))
            answer.seek(0)
            return answer.read()

    def _failure(self, command: str, code: int) -> SampanError:
        message = self._last_complaint() or f"{self.options[0]} ended with {code} and gave no reason"
        kind = next((kind for kind, pattern in _KINDS if pattern.search(message)), System)
        return kind(f"OCI runtime {command} failed: {message}")

    def _last_complaint(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue  # a line that was cut off
            if isinstance(entry, dict) and entry.get("level") == "error" and entry.get("msg"):
                return str(entry["msg"])
        return ""


def _open_own_null() -> int:
    """Open a null device that nobody else has: runsc gives what it gets as its streams to another user, the host's device too."""
    directory = open_filesystem("tmpfs", "tmpfs", MountOptions(data=("nr_inodes=2",)))
    try:
        os.mknod("null", stat.S_IFCHR | 0o666, NULL_DEVICE, dir_fd=directory)
        return os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)


def _spawn(argv: tuple[str, ...], stdio: Sequence[int]) -> int:
    """Start the program with fresh signals: Python ignores SIGPIPE, and what runs in a container must not."""
    close_range(3, flags=CLOSE_RANGE_CLOEXEC)  # it would pass on to the container what it gets
    fresh = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
    try:
        return os.posix_spawnp(
            argv[0], argv, os.environ, file_actions=actions, setsigmask=(), setsigdef=fresh
        )
    except OSError as error:
        raise System(
            f"run {argv[0]}: {error.strerror}", remedy="install it, or set its path as `binary`"
        ) from error
