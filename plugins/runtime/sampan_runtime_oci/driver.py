"""Containers made by an OCI runtime's program: runc, crun, or any that understands the same command line.

The command line is runc's (`runc(8)`, "OCI Runtime Command Line Interface" of the OCI's runtime-tools):
`create`, `start`, `kill`, `delete`, `exec`, `pause`, `resume`, `update`, `ps`. Each method runs in a
process of its own, which is what lets `create` go into a mount namespace that vanishes with it: the root
file system is mounted there and nowhere else, and the container keeps it by its own copy of the
namespace.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sampan.api.driver import Probe
from sampan.api.errors import Conflict, Forbidden, InvalidArgument, NotFound, SampanError, System, Unsupported
from sampan.api.runtime import (
    CheckpointRequest,
    CreateRequest,
    ExecRequest,
    Handle,
    RuntimeCapability,
    RuntimeDriver,
    Spec,
    Stats,
    Stdio,
)
from sampan.linux import mounts, namespaces, seccomp
from sampan.linux.cgroups import Cgroup
from sampan_runtime_oci.program import Program

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig


_UNIFIED = Path("/sys/fs/cgroup/unified")


_NO_USER_NAMESPACE = (
    "the program looks for the root file system from inside the namespace, where the daemon's directories let nobody in"
)


class OciRuntime(RuntimeDriver):
    """Base of the drivers by program: a subclass gives `name`, which is the program's too unless configured.

    Data of the handle: `id`, the program's name for the container, `cgroup`, the path in every hierarchy, and
    `arguments`, options of the program for this container.
    """

    package: ClassVar[str] = ""
    """Debian's package of the program; empty: named as the driver."""

    arguments: ClassVar[tuple[str, ...]] = ()
    """Options of the program that always stand before its command; those of the settings follow, and so win."""

    capabilities: ClassVar[frozenset[str]] = frozenset({
        RuntimeCapability.EXEC,
        RuntimeCapability.PAUSE,
        RuntimeCapability.UPDATE,
        RuntimeCapability.OWN_NETWORK,
        RuntimeCapability.HOOKS,
        RuntimeCapability.SECCOMP_NOTIFY,
    })  # fmt: skip
    """What the program can do on any host that it runs on."""

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of `[runtimes.NAME]`."""
        from sampan_runtime_oci.config import OciConfig

        return OciConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Look for the program on PATH. Whether one that is set as `binary` works shows at its first use."""
        import shutil

        lacks: dict[str, str] = {RuntimeCapability.USER_NAMESPACE: _NO_USER_NAMESPACE}
        if shutil.which(cls.name) is None:
            package = cls.package or cls.name
            reason = f"there is no {cls.name} on PATH; to have it: apt-get install {package}"
            return Probe(False, reason, cls.capabilities, lacks)  # of a program that is set as `binary`
        return Probe(True, capabilities=cls.capabilities, lacks=lacks)

    def create(self, request: CreateRequest) -> Handle:
        """Mount the root file system privately and run `create` with the container's stdio."""
        self._refuse_unclaimed(request.spec)
        if request.userns >= 0:
            raise Unsupported(f"user namespace: {_NO_USER_NAMESPACE}", remedy="use runtime 'native'")
        _enter_private_mounts()
        self._lay_out(request)
        pid_file = self.context.state / "pid"
        arguments = self.arguments_for(request)
        try:
            with _naming(request.spec["process"]), _terminal(request.stdio, self.context.state) as options:
                self._program(arguments).run(
                    "create", "--bundle", str(request.bundle), "--pid-file", str(pid_file), *options,
                    request.id, stdio=_three(request.stdio),
                )  # fmt: skip
            pid = _pid_in(pid_file)
            return Handle(pid, data={"id": request.id, "cgroup": _cgroup_of(pid), "arguments": arguments})
        except Conflict:
            raise  # the container of that name is another one, and stays
        except SampanError:
            self._forget_half_made(request, arguments)
            raise
        finally:
            pid_file.unlink(missing_ok=True)

    def _forget_half_made(self, request: CreateRequest, arguments: Sequence[str] = ()) -> None:
        """Remove what the program has left of a container that failed, as crun does; its own error is the one to tell."""
        with suppress(SampanError):
            self._program(arguments).run("delete", "--force", request.id)
        self._network_name.unlink(missing_ok=True)
        _forget_cgroup(request.spec)

    def _refuse_unclaimed(self, spec: Spec) -> None:
        """Refuse what the program would pass over in silence."""
        if any((spec.get("hooks") or {}).values()) and RuntimeCapability.HOOKS not in self.capabilities:
            raise Unsupported(f"hooks: runtime {self.name!r} is not known to run them", remedy="use runtime 'native'")
        profile = spec["linux"].get("seccomp") or {}
        if seccomp.notifies(profile) and RuntimeCapability.SECCOMP_NOTIFY not in self.capabilities:
            raise Unsupported(f"seccomp: runtime {self.name!r} serves no SCMP_ACT_NOTIFY", remedy="use runtime 'native'")
        if any(map(_shifts_owners, spec.get("mounts") or ())) and RuntimeCapability.IDMAPPED_MOUNTS not in self.capabilities:
            raise Unsupported(f"mounts with shifted owners: runtime {self.name!r} is not known to make them", remedy="use runtime 'native'")
        kinds = {namespace["type"] for namespace in spec["linux"].get("namespaces", ())}
        if ("time" in kinds or spec["linux"].get("timeOffsets")) and RuntimeCapability.TIME_NAMESPACE not in self.capabilities:
            raise Unsupported(f"time namespace: runtime {self.name!r} is not known to make one", remedy="use runtime 'native'")

    def start(self, handle: Handle) -> None:
        """Run `start`."""
        self._of(handle).run("start", handle.data["id"])

    def signal(self, handle: Handle, signum: int, *, everyone: bool = False) -> None:
        """Run `kill`, with `--all` for everyone."""
        everyone_option = ["--all"] if everyone else []
        self._of(handle).run("kill", *everyone_option, handle.data["id"], str(signum))

    def delete(self, handle: Handle) -> None:
        """Run `delete --force`, which kills what is left; a container that is gone already is well."""
        with suppress(NotFound):
            self._of(handle).run("delete", "--force", handle.data["id"])
        self._network_name.unlink(missing_ok=True)

    def exec(self, handle: Handle, request: ExecRequest) -> int:
        """Run `exec --detach` with the process in a file."""
        stem = f"exec-{request.exec_id}"
        process_file, pid_file = self.context.state / f"{stem}.json", self.context.state / f"{stem}.pid"
        try:
            process_file.write_text(json.dumps({**request.process, "terminal": request.stdio.console >= 0}))
            with _naming(request.process), _terminal(request.stdio, self.context.state) as options:
                self._of(handle).run(
                    "exec", "--process", str(process_file), "--detach", "--pid-file", str(pid_file), *options,
                    handle.data["id"], stdio=_three(request.stdio),
                )  # fmt: skip
            return _pid_in(pid_file)
        finally:
            process_file.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)

    def pause(self, handle: Handle) -> None:
        """Run `pause`."""
        self._of(handle).run("pause", handle.data["id"])

    def resume(self, handle: Handle) -> None:
        """Run `resume`."""
        self._of(handle).run("resume", handle.data["id"])

    def update(self, handle: Handle, resources: Spec) -> None:
        """Run `update` with the resources in a file."""
        resources_file = self.context.state / "resources.json"
        try:
            resources_file.write_text(json.dumps(resources))
            self._of(handle).run("update", "--resources", str(resources_file), handle.data["id"])
        finally:
            resources_file.unlink(missing_ok=True)

    def processes(self, handle: Handle) -> tuple[int, ...]:
        """Run `ps`, which reads the container's cgroup."""
        answer = self._of(handle).ask("ps", "--format", "json", handle.data["id"])
        try:
            return tuple(map(int, json.loads(answer) or ()))
        except (TypeError, ValueError, RecursionError) as error:
            raise System(f"list the processes of container {handle.data['id']}: the program gave no list of pids") from error

    def stats(self, handle: Handle) -> Stats:
        """Read the cgroup: `events --stats` is runc's alone."""
        try:
            return Cgroup(handle.data["cgroup"]).stats()
        except OSError as error:
            raise System(f"read the use of container {handle.data['id']}: {error}") from error

    def oom_killed(self, handle: Handle) -> bool:
        """Read the cgroup's own count."""
        try:
            return Cgroup(handle.data["cgroup"]).oom_kill_count() > 0
        except OSError as error:
            raise System(f"read the kills in container {handle.data['id']}: {error}") from error

    def arguments_for(self, request: CreateRequest) -> tuple[str, ...]:
        """Give options of the program for one container, from its creation on."""
        return ()

    def _program(self, arguments: Sequence[str] = ()) -> Program:
        """Give the program with its settings and a log for this process alone: calls can be under way at
        once."""
        options = (
            self.config.get("binary") or self.name,
            "--root",
            self.config.get("root") or str(self.context.state),
            *self.arguments,
            *arguments,
            *self.config.get("extra_args", ()),
        )
        return Program(options, self.context.state / f"log-{os.getpid()}.json")

    def _of(self, handle: Handle) -> Program:
        return self._program(handle.data.get("arguments", ()))

    def _lay_out(self, request: CreateRequest) -> None:
        """Mount the root at `bundle`/rootfs, and over config.json what the program is to do."""
        spec = self._told(request)
        root = request.bundle / "rootfs"
        root.mkdir(exist_ok=True)
        config = self.context.state / "config.json"
        try:
            config.write_text(json.dumps(spec))
            mounts.mount_all(request.rootfs, root)
            mounts.mount_all([mounts.Mount("bind", str(config), ("bind",), "config.json")], request.bundle)
            _refuse_linked_dev(root)
        except OSError as error:
            raise System(f"mount the root of container {request.id}: {error.strerror or error}") from error
        finally:
            config.unlink(missing_ok=True)

    def _told(self, request: CreateRequest) -> Spec:
        """Give the spec as the program gets it: with a place for the root, the network namespace by a path, the domain name as
        Docker tells it, which programs as of version 1.0 of the specification know too, and rules of devices: without them crun
        lets any be used.
        """
        spec = {**request.spec, "root": {**request.spec.get("root", {}), "path": "rootfs"}}
        spec["process"] = {**spec["process"], "terminal": request.stdio.console >= 0}
        linux = spec["linux"] = dict(spec["linux"])
        if request.netns >= 0:
            kept = [n for n in linux.get("namespaces", ()) if n["type"] != "network"]
            joined = {"type": "network", "path": str(self._point_at_network(f"/proc/{os.getpid()}/fd/{request.netns}"))}
            linux["namespaces"] = [*kept, joined]
        if domain := spec.pop("domainname", ""):
            linux["sysctl"] = {"kernel.domainname": domain, **(linux.get("sysctl") or {})}
        resources = linux.get("resources") or {}
        if not resources.get("devices"):
            linux["resources"] = {**resources, "devices": [{"allow": False, "access": "rwm"}]}
        return spec

    def _point_at_network(self, path: str) -> Path:
        """Give a name of a network namespace that a program may keep: it looks there again when it makes a checkpoint."""
        self._network_name.unlink(missing_ok=True)
        self._network_name.symlink_to(path)
        return self._network_name

    @property
    def _network_name(self) -> Path:
        return self.context.state / "netns"


class AnyRuntime(OciRuntime):
    """A program that the settings name: `[runtimes.NAME]` with `driver = "oci"` and `binary`."""

    name = "oci"

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """It has no program of its own; whether another's works shows at its first use."""
        reason = 'it needs a program: [runtimes.NAME] with driver = "oci" and binary = "/path" makes it runtime NAME'
        return Probe(False, reason, cls.capabilities)


class RuncRuntime(OciRuntime):
    """The reference implementation of the OCI runtime specification, and with criu beside it checkpoints."""

    name = "runc"

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Ask criu too, which is only known to work once it has tried."""
        from sampan_runtime_oci import criu

        found = super().probe(root)
        if reason := criu.obstacle():
            return replace(found, lacks={**found.lacks, RuntimeCapability.CHECKPOINT: reason})
        return replace(found, capabilities=found.capabilities | {RuntimeCapability.CHECKPOINT})

    def checkpoint(self, handle: Handle, request: CheckpointRequest) -> None:
        """Run `checkpoint`. The network namespace stays outside of it: a restored container gets another."""
        self._point_at_network(f"/proc/{handle.pid}/ns/net")
        on = ("--leave-running",) if request.leave_running else ()
        with self._criu_log("dump.log") as places:
            self._of(handle).run("checkpoint", "--image-path", str(request.directory), *places, *on, handle.data["id"])

    def restore(self, request: CreateRequest, checkpoint: Path) -> Handle:
        """Mount the root file system privately and run `restore` with the container's new stdio."""
        _enter_private_mounts()
        self._lay_out(request)
        pid_file = self.context.state / "pid"
        try:
            with self._criu_log("restore.log") as places:
                self._program().run(
                    "restore", "--detach", "--bundle", str(request.bundle), "--image-path", str(checkpoint), *places,
                    "--pid-file", str(pid_file), request.id, stdio=_three(request.stdio),
                )  # fmt: skip
            pid = _pid_in(pid_file)
            return Handle(pid, data={"id": request.id, "cgroup": _cgroup_of(pid), "arguments": ()})
        except SampanError:
            self._forget_half_made(request)
            raise
        finally:
            pid_file.unlink(missing_ok=True)

    @contextmanager
    def _criu_log(self, name: str) -> Iterator[tuple[str, ...]]:
        """Give the option that says where criu writes its log, and add its last complaint to an error."""
        import shutil

        work = self.context.state / "criu"
        try:
            yield ("--work-path", str(work))
        except SampanError as error:
            log = work / name
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            complaint = next((line for line in reversed(lines) if "Error" in line), "")
            raise type(error)(f"{error.message}: {complaint}" if complaint else error.message) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


class CrunRuntime(OciRuntime):
    """The runtime in C that podman's users know."""

    name = "crun"
    def _program(self, arguments: Sequence[str] = ()) -> Program:
        """Hide the v2 tree of a hybrid host from the program: crun refuses to work when it finds one
        beside v1."""
        if (_UNIFIED / "cgroup.procs").exists():
            _enter_private_mounts()
            mounts.mount_all([mounts.Mount("tmpfs", "tmpfs")], _UNIFIED)
        return super()._program(arguments)


class RunscRuntime(OciRuntime):
    """gVisor: a kernel in user space between container and host, here by ptrace, which works everywhere.

    It has no network but a loopback or the host's own, through the sockets of the host. Its processes are the sandbox's:
    what runs inside, the host does not see.
    """

    name = "runsc"
    arguments = ("--platform=ptrace",)
    capabilities = frozenset({RuntimeCapability.EXEC, RuntimeCapability.PAUSE})

    def arguments_for(self, request: CreateRequest) -> tuple[str, ...]:
        """Give the container the host's network if it has no network namespace, and else a loopback."""
        kinds = {namespace["type"] for namespace in request.spec["linux"].get("namespaces", ())}
        own = request.netns >= 0 or "network" in kinds
        return ("--network=none" if own else "--network=host",)

    def create(self, request: CreateRequest) -> Handle:
        """As the others; on a hybrid host also put the sandbox into the v2 tree, of which the program knows nothing."""
        handle = super().create(request)
        try:
            _join_unified(Cgroup(handle.data["cgroup"]))
        except OSError as error:
            self.delete(handle)
            raise System(f"create container {request.id}: {error}") from error
        return handle

    def delete(self, handle: Handle) -> None:
        """As the others, and remove the cgroup in the v2 tree."""
        super().delete(handle)
        try:
            Cgroup(handle.data["cgroup"]).remove()
        except OSError as error:
            raise System(f"delete container {handle.data['id']}: {error}") from error

    def update(self, handle: Handle, resources: Spec) -> None:
        """Refuse it: the program has no such command."""
        raise Unsupported("update a container: runsc can't change limits of one that runs", remedy="stop it first")

    def processes(self, handle: Handle) -> tuple[int, ...]:
        """Read the cgroup: `ps` tells pids of gVisor's own making."""
        try:
            return Cgroup(handle.data["cgroup"]).procs()
        except OSError as error:
            raise System(f"list the processes of container {handle.data['id']}: {error}") from error


def _join_unified(cgroup: Cgroup) -> None:
    """Bring what runs in the v1 cgroups into the v2 one of the same path, where the engine kills and lists."""
    if cgroup.layout.version != "hybrid":
        return
    Path(cgroup.directory()).mkdir(parents=True, exist_ok=True)
    for pid in map(int, Path(cgroup.directory("memory"), "cgroup.procs").read_text().split()):
        cgroup.add(pid)


def _enter_private_mounts() -> None:
    """Take a copy of the mounts for this process and its children: the host's later ones arrive, ours
    don't leave."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE | mounts.MS_REC)


def _refuse_linked_dev(root: Path) -> None:
    """Programs as of 2025 make device nodes through a link that an image has as /dev, on the host
    (CVE-2026-41579)."""
    if (root / "dev").is_symlink():
        raise InvalidArgument("create container: /dev in its root file system is a symbolic link")


def _shifts_owners(mount: Spec) -> bool:
    return bool({"idmap", "ridmap"} & set(mount.get("options") or ()) or mount.get("uidMappings") or mount.get("gidMappings"))


def _three(stdio: Stdio) -> tuple[int, int, int]:
    return stdio.stdin, stdio.stdout, stdio.stderr


@contextmanager
def _naming(process: Spec) -> Iterator[None]:
    """Put into errors about a program its name and the words that clients look for, where the runtime leaves them out, as crun does."""
    try:
        yield
    except (NotFound, Forbidden) as error:
        name = process["args"][0]
        said, words = error.message, "no such file or directory" if isinstance(error, NotFound) else "permission denied"
        if "executable" in said and "executable file not found" not in said and words not in said:
            raise type(error)(f'{said}: exec "{name}": {words}') from error
        if name not in said:
            raise type(error)(f'{said}: exec "{name}"') from error
        raise


@contextmanager
def _terminal(stdio: Stdio, directory: Path) -> Iterator[tuple[str, ...]]:
    """Give the options that make the program send its terminal to us, and hand it on to `stdio.console`
    at the end.

    The program connects by a path; we bind in `directory` by a descriptor, for its own path may be too
    long for one. The socket's queue holds connection and message, so there is no need to listen while the
    program runs.
    """
    if stdio.console < 0:
        yield ()
        return
    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    name = f"console-{os.getpid()}.sock"
    path = f"/proc/{os.getpid()}/fd/{directory_fd}/{name}"
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            yield ("--console-socket", path)
            listener.setblocking(False)
            connection, _ = listener.accept()
            with connection, socket.socket(fileno=os.dup(stdio.console)) as console:
                _, (master, *_), _, _ = socket.recv_fds(connection, 4096, 1)
                socket.send_fds(console, [b"\0"], [master])
                os.close(master)
    finally:
        (directory / name).unlink(missing_ok=True)
        os.close(directory_fd)


def _forget_cgroup(spec: Spec) -> None:
    """Remove the empty cgroup of a container that was not created: crun leaves it."""
    if path := (spec.get("linux") or {}).get("cgroupsPath"):
        with suppress(OSError, ValueError):  # one that has processes is somebody's
            Cgroup(path).remove()


def _pid_in(file: Path) -> int:
    """Read which process a program has made. Raises `System`."""
    try:
        pid = int(file.read_text())
        os.close(os.pidfd_open(pid))
    except (OSError, ValueError, OverflowError) as error:
        raise System("the OCI runtime's program ended well, but there is no process whose pid it gave") from error
    return pid


def _cgroup_of(pid: int) -> str:
    """Give the cgroup's path as the memory controller has it, or on a pure v2 host the only one."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    return next((path for names, path in paths.items() if "memory" in names.split(",")), paths.get("", ""))
