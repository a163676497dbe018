"""The zygote: a small process that forks shims, so that a container start pays for no interpreter and no
imports.

Started once by the daemon (`sampan.launch.client.Zygote`), single-threaded, with everything imported that a
shim needs. It ends when
the daemon's socket closes; its shims live on. Its heap stays small: a fork costs by the pages that are mapped, and a
shim keeps sharing the pages that it does not write to (`heap`).
"""

from __future__ import annotations

import array
import contextlib
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from sampan.api.errors import SampanError
from sampan.launch import heap
from sampan.launch.birth import be_shim
from sampan.launch.protocol import ClassRef
from sampan.launch.rehearsal import rehearse
from sampan.linux import cgroups, messages, overlay

logger = logging.getLogger(__name__)


def main(fd: int) -> None:
    """Serve the daemon on the SEQPACKET socket `fd` until it closes: `preload` modules, then fork shims."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # SIGINT and SIGHUP are for shims too
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the shims that end before us
    with socket.socket(fileno=fd) as sock, contextlib.suppress(ConnectionError):  # the daemon went away
        received = messages.receive(sock)
        if received is None:
            return
        message, _ = received
        _limit_descriptors(message["descriptors"])
        log = ClassRef(*message["log"]) if message["log"] else None
        failures = _preload(message["modules"], log, Path(message["scratch"]))
        messages.send(sock, messages.encode({"id": message["id"], "result": failures}))
        _spawn_each(sock)


def _spawn_each(sock: socket.socket) -> None:
    """Fork a shim for every message, whose one descriptor is the shim's first connection: there it says all that is to be said.

    Whatever this loop writes to, its shims share no more: a page that the parent of a fork copies is the child's alone
    from then on. So it does as little as can be done: 250 kB less in each shim than with a request that is read and answered.
    """
    space = socket.CMSG_SPACE(array.array("i", [0]).itemsize)
    while True:
        data, ancillary, _, _ = sock.recvmsg(1, space)
        if not data:
            return
        first = int.from_bytes(ancillary[0][2], sys.byteorder)
        try:
            if os.fork() == 0:
                _be_shim(sock, first)
        except OSError as error:  # whoever waits at the other end sees it close
            logger.error("fork a shim: %s", error.strerror)
        os.close(first)


def _limit_descriptors(count: int) -> None:
    """Give containers the soft limit that the daemon had before it raised its own: a process that sees more may try them all."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _preload(modules: list[str], log: ClassRef | None, scratch: Path) -> dict[str, str]:
    """Import modules, and rehearse in the empty directory `scratch`; give the reasons of modules that fail. Their
    shims will fail with the same reason.
    """
    failures = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a driver's import may raise anything
            failures[module] = f"{type(error).__name__}: {error}"
    for ask in (overlay.takes_each_layer, cgroups.detect):  # asked once, for all shims
        with contextlib.suppress(OSError):  # there are none here
            ask()
    try:
        rehearse(scratch, log)
    except (SampanError, OSError) as error:
        logger.warning("rehearse: %s; shims will be larger and slower", error)
    heap.settle()
    return failures


def _be_shim(sock: socket.socket, first: int) -> NoReturn:
    """Be a shim, and never return."""
    code = 1
    try:
        sock.close()
        be_shim(socket.socket(fileno=first))
        code = 0
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
