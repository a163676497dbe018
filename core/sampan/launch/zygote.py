"""The zygote: a small process that forks shims, so that a container start pays for no interpreter and no
imports.

Started once by the daemon (`sampan.launch.client.Zygote`), single-threaded, with everything imported that a
shim needs. It ends when
the daemon's socket closes; its shims live on. Its heap stays small and is frozen (`gc.freeze`): a fork
costs by the pages
that are mapped, and a shim keeps sharing the pages that it does not write to.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from sampan.api.errors import SampanError
from sampan.launch.birth import be_shim
from sampan.launch.rehearsal import rehearse
from sampan.linux import messages, overlay

logger = logging.getLogger(__name__)


def main(fd: int) -> None:
    """Serve the daemon on the SEQPACKET socket `fd` until it closes: `preload` modules and `spawn` shims."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # SIGINT and SIGHUP are for shims too
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the shims that end before us
    with socket.socket(fileno=fd) as sock, contextlib.suppress(ConnectionError):  # the daemon went away
        while (received := messages.receive(sock)) is not None:
            message, fds = received
            if message["op"] == "preload":
                _limit_descriptors(message["descriptors"])
                result: object = _preload(message["modules"], Path(message["scratch"]))
            else:
                result = _spawn(sock, fds[0])
            messages.send(sock, messages.encode({"id": message["id"], "result": result}))


def _limit_descriptors(count: int) -> None:
    """Give containers the soft limit that the daemon had before it raised its own: a process that sees more may try them all."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _preload(modules: list[str], scratch: Path) -> dict[str, str]:
    """Import modules, and rehearse in the empty directory `scratch`; give the reasons of modules that fail. Their
    shims will fail with the same reason.
    """
    failures = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a driver's import may raise anything
            failures[module] = f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):  # there is no overlay here
        overlay.takes_each_layer()  # asked once, for all shims
    try:
        rehearse(scratch)
    except (SampanError, OSError) as error:
        logger.warning("rehearse: %s; shims will be larger and slower", error)
    gc.collect()
    gc.freeze()
    return failures


def _spawn(sock: socket.socket, first: int) -> int:
    """Fork a shim and give its pid. `first` is the descriptor of its first connection, where its configuration
    waits.
    """
    pid = os.fork()
    if pid:
        os.close(first)
        return pid
    code = 1
    try:
        sock.close()
        be_shim(socket.socket(fileno=first))
        code = 0
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
