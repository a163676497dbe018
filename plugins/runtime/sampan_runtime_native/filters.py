"""The seccomp program of a container: made at `create`, kept for each `exec`, and its notifications handed on.

Where rules say `SCMP_ACT_NOTIFY`, each process that installs the program has a descriptor at which its calls are answered. The
driver fetches that out of the process and sends it to who listens at the spec's `listenerPath`. Source: OCI runtime spec 1.2,
`config-linux.md#containerprocessstate`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sampan.api.errors import InvalidArgument, System
from sampan.linux import seccomp
from sampan.linux.syscalls import syscall
from sampan_runtime_native import channel
from sampan_runtime_native.files import Files
from sampan_runtime_native.filter_cache import compile_once
from sampan_runtime_native.state import ContainerState

_log = logging.getLogger(__name__)

_LISTENER_TIMEOUT_S: Final = 10.0


def check(profile: Mapping[str, Any] | None) -> None:
    """See that notifications have a listener. Raises `InvalidArgument`."""
    if not profile:
        return
    path = profile.get("listenerPath") or ""
    if profile.get("listenerMetadata") and not path:
        raise InvalidArgument("seccomp: listenerMetadata is there and listenerPath is not")
    if seccomp.notifies(profile) and not path.startswith("/"):
        raise InvalidArgument(f"seccomp: SCMP_ACT_NOTIFY needs an absolute listenerPath, and there is {path!r}")


def compile_and_keep(profile: Mapping[str, Any] | None, files: Files, state: ContainerState) -> tuple[bytes, int]:
    """Give program and flags of an OCI `linux.seccomp` object, an empty program for none; `exec` finds them in `files`."""
    if not profile:
        return b"", 0
    program, flags = compile_once(profile, files.cache), seccomp.flags_of(profile)
    files.save_filter(program, flags)
    if flags & seccomp.NEW_LISTENER:
        listener = {"path": profile["listenerPath"], "metadata": profile.get("listenerMetadata"), "state": state.to_data()}
        files.save_listener(json.dumps(listener))
    return program, flags


def await_program(process: socket.socket, files: Files, status: str, first: int, pid: int) -> None:
    """Wait until the program of process `pid` runs, and meanwhile pass on what its filter notifies of.

    `first` is the container's first process, `status` its OCI status. Raises what the process tells, `SampanError`.
    """
    while True:
        letter, fields = channel.receive(process)
        if letter == channel.LISTENER:
            _hand_over(int(fields[0]), files, status, first, pid)
            process.send(b"!")
        elif letter == channel.WARNING:
            _log.warning("exec: %s", "; ".join(fields))
        else:
            return  # the program's exec has closed it


def _hand_over(number: int, files: Files, status: str, first: int, pid: int) -> None:
    """Send descriptor `number` of process `pid` to the listener. Raises `System`."""
    listener = json.loads(files.load_listener())
    state = ContainerState(**listener["state"])
    told = {"ociVersion": state.version, "fds": ["seccompFd"], "pid": pid, "state": state.at(status, first)}
    if listener["metadata"] is not None:
        told["metadata"] = listener["metadata"]
    message = json.dumps(told).encode()
    path = Path(listener["path"])
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(_LISTENER_TIMEOUT_S)
            _connect(agent, path)
            fd = _take_from(pid, number)
            try:
                sent = socket.send_fds(agent, [message], [fd])
            finally:
                os.close(fd)
            agent.sendall(message[sent:])
    except OSError as error:
        cause = error.strerror or str(error)
        raise System(f"tell seccomp listener {path} of process {pid}: {cause}", remedy="is its agent running?") from error


def _connect(agent: socket.socket, path: Path) -> None:
    """By a descriptor of the directory: a socket's address holds 107 bytes, and the path may be longer."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        agent.connect(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _take_from(pid: int, number: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        return syscall("pidfd_getfd", pidfd, number, 0)
    finally:
        os.close(pidfd)
