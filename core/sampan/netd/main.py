"""Where the process begins. Started by `sampan.engine.netd`, with a first connection and the engine's state directory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from sampan.linux.processes import keep_only
from sampan.netd.nameservers import NameServers
from sampan.netd.protocol import SOCKET
from sampan.netd.proxy import PortProxy
from sampan.netd.server import Server
from sampan.netd.service import Service

BACKLOG = 8


def main() -> None:
    """Serve until nobody needs it. Arguments: the connected descriptor, the state directory."""
    os.chdir("/")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keep_only((0, 1, 2, int(sys.argv[2])))  # the daemon's listening sockets may be among what was inherited
    first, state = socket.socket(fileno=int(sys.argv[2])), Path(sys.argv[3])
    logging.basicConfig(format="%(asctime)s %(levelname)s sampan-netd: %(message)s")
    for signum in (signal.SIGINT, signal.SIGHUP):  # meant for the daemon, where a terminal sends them
        signal.signal(signum, signal.SIG_IGN)
    Path("/proc/self/comm").write_text("sampan-netd")
    with asyncio.Runner() as runner:
        runner.run(_serve(first, state))


async def _serve(first: socket.socket, state: Path) -> None:
    server = Server(_services())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.done.set)
    with _bound(state) as listening:
        server.listen(listening)
        server.welcome(first)
        gc.freeze()
        await server.done.wait()
        server.close()


def _services() -> list[Service]:
    return [NameServers(), PortProxy()]


def _bound(state: Path) -> socket.socket:
    """Listen in the state directory, in place of a process that is gone: the daemon asks for a new one only then.

    The socket's file stays at the end: by then it may be another's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET, dir_fd=directory)
        sock.bind(f"/proc/self/fd/{directory}/{SOCKET}")
        sock.listen(BACKLOG)
    finally:
        os.close(directory)
    return sock
