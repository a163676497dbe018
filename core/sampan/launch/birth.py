"""How a process that the zygote has just forked becomes a shim."""

from __future__ import annotations

import logging
import os
import socket

from sampan.api.errors import SampanError, System, to_wire
from sampan.launch.loop import Loop
from sampan.launch.operations import raise_descriptor_limit
from sampan.launch.protocol import Namespaces, ShimConfig
from sampan.launch.shim import Shim
from sampan.linux import messages
from sampan.linux.syscalls import PR_SET_CHILD_SUBREAPER, prctl

logger = logging.getLogger(__name__)


def be_shim(sock: socket.socket) -> None:
    """Be the shim of a container until it is deleted. `sock` is the daemon's first connection; its first request has
    the configuration, and namespaces made for the container, with it.
    """
    received = messages.receive(sock)
    if received is None:
        return
    hello, fds = received
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    raise_descriptor_limit()
    try:
        config = ShimConfig.from_data(hello.pop("config"))
        _set_name(f"shim {config.id}")
        _open_stderr(config.state_dir)
        namespaces = Namespaces(**dict(zip(hello.pop("namespaces"), fds, strict=True)))
        shim = Shim(config, namespaces, Loop())
    except (SampanError, OSError, KeyError, TypeError, ValueError) as error:
        _refuse(sock, hello, error)
        return
    try:
        shim.serve(sock, hello)
        shim.run()
    except BaseException:
        logger.exception("the shim of container %s fails", config.id)
        raise


def _refuse(sock: socket.socket, request: messages.Message, error: Exception) -> None:
    """Answer the first request with the reason why there is no shim."""
    if not isinstance(error, SampanError):
        error = System(f"set up a shim: {type(error).__name__}: {error}")
    messages.send(sock, messages.encode({"id": request.get("id"), "error": to_wire(error)}))


def _open_stderr(state_dir: str) -> None:
    """Let go of the daemon's streams; what goes wrong here is written to `shim.log`."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    errors = os.open(f"{state_dir}/shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(null, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.close(null)
    os.close(errors)


def _set_name(name: str) -> None:
    """As prctl(PR_SET_NAME) does, without a buffer of ctypes, whose new type alone writes to 37 pages."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, name.encode()[:15])
    finally:
        os.close(fd)
