"""The last steps of a new process, in a container already: limits, identity, rights, filter, program.

They are in the order in which each still has the rights it needs. Errors say what Docker says, since clients
and scripts look for the words: `NotFound` becomes exit code 127, `Forbidden` 126.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from typing import TYPE_CHECKING, Final

from sampan.api.errors import Forbidden, NotFound, SampanError, System
from sampan.linux import capabilities, seccomp
from sampan.linux.files import RESOLVE_NO_MAGICLINKS, is_null_device, openat2
from sampan.linux.rlimits import NUMBERS
from sampan.linux.syscalls import (
    AT_FDCWD,
    CLOSE_RANGE_CLOEXEC,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    close_range,
    prctl,
)
from sampan_runtime_native import channel
from sampan_runtime_native.rootfs import make_place, write_proc

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from sampan_runtime_native.channel import Go
    from sampan_runtime_native.hooks import Visitors
    from sampan_runtime_native.process import Process

_MAX_INTERPRETERS: Final = 6
_PASSWD_LIMIT: Final = 1 << 20
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Program:
    """One process on its way to its program. `prepare` does what can be done ahead, `run` the rest."""

    def __init__(self, process: Process) -> None:
        """Touches nothing."""
        self._process = process
        self._path = ""
        self._env: dict[str, str] = {}
        self._final = capabilities.CapabilitySets()
        self.warnings = list(process.warnings)
        """What had to be given less of than asked for."""
        self._is_prepared_outside = False

    def prepare_outside(self, proc: int) -> None:
        """Do what only the host's root may, in a process that is about to enter a user namespace, or to bear one in there: lower
        the OOM score, lift the limits that are to be lifted. `proc` is a procfs of its pid namespace.
        """
        self._set_oom_score(proc)
        for number, _, hard in self._process.rlimits:
            soft, ceiling = resource.getrlimit(number)
            if _lower(hard, ceiling) != hard:
                with contextlib.suppress(ValueError, PermissionError):  # `prepare` says what it had to cut
                    resource.setrlimit(number, (soft, hard))
        self._is_prepared_outside = True

    def prepare(self, proc: int) -> None:
        """Set limits, directory and user, and find the program. `proc` is a procfs of this pid namespace."""
        process = self._process
        self._set_labels(proc)
        if not self._is_prepared_outside:
            self._set_oom_score(proc)
        self._set_limits()
        self._leave_null_of_host()
        self._give_stdio()
        self._change_directory()
        self._env = dict(process.env)
        if "HOME" not in self._env:
            self._env["HOME"] = home_of(process.uid)
        have = capabilities.current(proc)
        capabilities.drop_bounding(process.capabilities.bounding, have.bounding)
        prctl(PR_SET_KEEPCAPS, 1)
        if set(os.getgroups()) != set(process.groups):  # the same again is no use, and a user namespace may forbid it
            os.setgroups(process.groups)
        os.setresgid(process.gid, process.gid, process.gid)
        os.setresuid(process.uid, process.uid, process.uid)
        prctl(PR_SET_DUMPABLE, 0)  # a change of ids makes it what fs.suid_dumpable says
        os.umask(process.umask)
        self._path = find_program(process.args[0], process.env.get("PATH", _DEFAULT_PATH))
        self._engine = os.stat("self/exe", dir_fd=proc)
        refuse_executable(self._path, self._engine)
        # Keep what is there: installing a filter without no_new_privs needs CAP_SYS_ADMIN.
        capabilities.apply(
            capabilities.CapabilitySets(
                effective=have.permitted, permitted=have.permitted,
                inheritable=process.capabilities.inheritable & have.permitted,
            )
        )  # fmt: skip
        self._final = process.capabilities.reachable(have)
        if lost := process.capabilities.bounding & ~have.bounding:
            names = ", ".join(capabilities.names(lost))
            self.warnings.append(f"capabilities that the engine lacks itself are left out: {names}")

    def run(self, go: Go, driver: socket.socket, preserved: int, visitors: Visitors | None = None) -> None:
        """Become the program, under the seccomp program of `go`, with descriptors 0 to 2 and as many more as
        `preserved`; returns only by an error. `driver` hears of notifications, `visitors` are let in last."""
        process = self._process
        close_range(3 + preserved, flags=CLOSE_RANGE_CLOEXEC)
        for path in visitors.programs if visitors else ():
            refuse_executable(path, self._engine)
        if process.no_new_privileges:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            capabilities.apply(self._final)
            _install(go, driver)
        else:
            _install(go, driver)
            capabilities.apply(self._final)
        if visitors:
            visitors.before_program()
        try:
            os.execve(self._path, process.args, self._env)
        except OSError as error:
            raise exec_error(process.args[0], error) from error

    def _set_labels(self, proc: int) -> None:
        process = self._process
        for label, prefix, value, kind in (
            ("apparmor/exec", "exec ", process.apparmor, "AppArmor profile"),
            ("exec", "", process.selinux, "SELinux label"),
        ):
            if value:
                try:
                    write_proc(proc, f"{os.getpid()}/attr/{label}", prefix + value)
                except OSError as error:
                    cause = os.strerror(error.errno or 0)
                    raise System(f"set {kind} {value!r}: {cause}", remedy="is it enabled and loaded?") from error

    def _set_oom_score(self, proc: int) -> None:
        wanted = self._process.oom_score_adj
        if wanted is None:
            return
        try:
            write_proc(proc, f"{os.getpid()}/oom_score_adj", str(wanted))
        except PermissionError:
            self.warnings.append(f"oom_score_adj {wanted} is below the engine's own and needs CAP_SYS_RESOURCE")

    def _set_limits(self) -> None:
        for number, soft, hard in self._process.rlimits:
            try:
                resource.setrlimit(number, (soft, hard))
            except (ValueError, PermissionError):
                ceiling = resource.getrlimit(number)[1]
                soft, hard = _lower(soft, ceiling), _lower(hard, ceiling)
                resource.setrlimit(number, (min(soft, hard) if hard >= 0 else soft, hard))
                name = next(name for name, known in NUMBERS.items() if known == number)
                self.warnings.append(f"{name} is cut to {hard}: raising it needs CAP_SYS_RESOURCE")

    def _leave_null_of_host(self) -> None:
        """Put the container's /dev/null where a stream is the host's, as runc does: root in here could change owner and mode of
        what it holds. Where the container has none it gets an empty pipe.
        """
        for fd in range(3):
            if is_null_device(os.fstat(fd)):
                own = _open_null()
                os.dup2(own, fd)
                os.close(own)

    def _give_stdio(self) -> None:
        """Let the program's user open /dev/stdout and its like, where that is a pipe or a terminal of the
        container's."""
        if not self._process.uid:
            return
        for fd in range(3):
            found = os.fstat(fd)
            if stat.S_ISFIFO(found.st_mode) or os.isatty(fd):
                try:
                    os.fchown(fd, self._process.uid, -1)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                        raise

    def make_directory(self) -> None:
        """Make the cwd if it is missing: for a container's first process. Later ones must find theirs."""
        if os.path.exists(self._process.cwd):  # noqa: PTH110
            return
        with _telling_of(self._process.cwd):
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.close(make_place(root, self._process.cwd, directory=True))
            finally:
                os.close(root)

    def _change_directory(self) -> None:
        """Go to cwd; never by a magic link of /proc, which could lead out (CVE-2024-21626)."""
        with _telling_of(self._process.cwd) as what:
            fd = openat2(AT_FDCWD, self._process.cwd, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)
            try:
                os.fchdir(fd)
            finally:
                os.close(fd)
            if not os.getcwd().startswith("/"):
                raise Forbidden(f"{what}: it is outside of the container")


def _open_null() -> int:
    try:
        fd = os.open("/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        fd = -1
    if fd >= 0:
        if is_null_device(os.fstat(fd)):
            os.set_blocking(fd, True)
            return fd
        os.close(fd)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(writer)
    return reader


@contextlib.contextmanager
def _telling_of(cwd: str) -> Iterator[str]:
    what = f'chdir to cwd ("{cwd}") set in config.json failed'
    try:
        yield what
    except OSError as error:
        kinds = {errno.EACCES: Forbidden, errno.ENOTDIR: Forbidden, errno.ELOOP: Forbidden, errno.ENOENT: NotFound}
        cause = os.strerror(error.errno or 0).lower()
        raise kinds.get(error.errno or 0, System)(f"{what}: {cause}") from error


def _install(go: Go, driver: socket.socket) -> None:
    if not go.filter:
        return
    fd = seccomp.install(go.filter, go.flags)
    if go.flags & seccomp.NEW_LISTENER:
        channel.offer_listener(driver, fd)  # at once: until it is in good hands, any call may wait for ever


def find_program(name: str, path: str) -> str:
    """Find `name` as execvp would, seen by the user this process has become. Raises `NotFound`,
    `Forbidden`."""
    quoted = f'exec: "{name}"'
    if "/" in name:
        try:
            mode = os.stat(name).st_mode
        except OSError as error:
            raise _refusal(error, f"{quoted}: stat {name}") from error
        if stat.S_ISDIR(mode):
            # what execve answers: by these words docker's older clients (20.10) know exit status 126
            raise Forbidden(f"{quoted}: is a directory: permission denied")
        if not os.access(name, os.X_OK, effective_ids=True):
            raise Forbidden(f"{quoted}: permission denied")
        return name
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK, effective_ids=True):  # noqa: PTH113
            return candidate
    raise NotFound(f"{quoted}: executable file not found in $PATH")


def refuse_executable(path: str, engine: os.stat_result) -> None:
    """Refuse to run the engine's own executable from within a container, by a symlink or as a script's
    interpreter.

    `/proc/self/exe` leads there until exec, and who runs it could then open the host's file (CVE-2019-5736).
    That it can't be written to is what `sampan.linux.readonly_file` is for; this says no early and clearly.
    """
    script = path
    for _ in range(_MAX_INTERPRETERS):
        try:
            fd = os.open(script, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return  # not readable, or gone: exec will say what it thinks of that
        try:
            found = os.fstat(fd)
            head = os.read(fd, 256) if stat.S_ISREG(found.st_mode) else b""
        finally:
            os.close(fd)
        if os.path.samestat(found, engine):
            raise Forbidden(f'exec: "{path}": permission denied: it leads to the engine\'s own executable')
        words = head[2:].split(b"\n")[0].split()
        if head[:2] != b"#!" or not words:
            return
        script = os.fsdecode(words[0])


def exec_error(name: str, error: OSError) -> SampanError:
    """Say why execve failed: the interpreter of a script may be missing, or the file is no program for this
    machine."""
    return _refusal(error, f"exec {name}")


def _refusal(error: OSError, what: str) -> SampanError:
    cause = os.strerror(error.errno or 0).lower()
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{what}: {cause}")
    if error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.ENOEXEC,
        errno.EISDIR,
        errno.ELOOP,
        errno.ETXTBSY,
        errno.EINVAL,
    ):
        return Forbidden(f"{what}: {cause}")
    return System(f"{what}: {cause}")


def home_of(uid: int) -> str:
    """Give the home directory of a user by the container's /etc/passwd; `/` if it doesn't say."""
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        text = os.read(fd, _PASSWD_LIMIT)
    finally:
        os.close(fd)
    wanted = str(uid).encode()
    for line in text.splitlines():
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted:
            return os.fsdecode(fields[5]) or "/"
    return "/"


def _lower(value: int, ceiling: int) -> int:
    """The lower of two limits; -1 is none."""
    if ceiling < 0:
        return value
    return ceiling if value < 0 else min(value, ceiling)
