"""sampand: settings in, an engine and its HTTP server up, and down again on SIGTERM."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampan import __version__, plugins
from sampan.api.errors import InvalidArgument, SampanError
from sampan.engine.engine import Engine
from sampan.http.resources import build_router
from sampan.http.server import Server
from sampan.http.tls import TlsSettings
from sampan.linux import malloc
from sampan.settings import Settings, load

log = logging.getLogger("sampan.daemon")

GRACE = 5.0
"""Seconds that requests under way get when the daemon stops."""

HUNG_GRACE = 2.0
"""Seconds that threads of drivers and hooks get after that. One that hangs can't be stopped, but Python waits for it."""

FIRST_FD = 3
"""The first descriptor that systemd hands over (sd_listen_fds(3))."""


def run(overrides: Mapping[str, Any], config_file: str | None) -> int:
    """Run the daemon until it is told to stop; give the exit status. Errors go to stderr, a line each."""
    try:
        settings = load(overrides, config_file, os.environ)
    except SampanError as error:
        sys.stderr.write(f"sampan daemon: {error}\n")
        return 1
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    _raise_descriptor_limit()
    malloc.share_one_heap()
    try:
        asyncio.run(_serve(settings))
    except SampanError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error("%s", error)
        return 1
    return 0


def _raise_descriptor_limit() -> None:
    """Have as many descriptors as may be: each running container takes some. The zygote sets containers' back."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave() -> None:
    """End though a driver hangs: all is closed, and Python would wait for its thread for ever."""
    log.warning("a driver or a hook still hangs: leaving it behind")
    logging.shutdown()
    os._exit(0)


async def _serve(settings: Settings) -> None:
    notify_socket = os.environ.pop("NOTIFY_SOCKET", "")  # ours alone: a runtime program would speak to it as well
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    _check_hosts(settings)
    registry = plugins.discover()
    engine = await Engine.open(settings, registry)
    server = Server(build_router(engine))
    try:
        for host in settings.hosts:
            await _listen(server, host, settings)
        _write_pidfile(settings.pidfile)
        log.info(
            "sampan %s is ready on %s, storage driver %s",
            __version__,
            ", ".join(settings.hosts),
            engine.storage.default,
        )
        malloc.give_back()  # what only the start needed
        _notify(notify_socket, "READY=1")
        await stop.wait()
        _notify(notify_socket, "STOPPING=1")
        log.info("stopping; containers go on")
    finally:
        engine.events.close()
        await server.close(GRACE)
        await engine.close()
        _remove_pidfile(settings.pidfile)
        leaving = threading.Timer(HUNG_GRACE, _leave)
        leaving.daemon = True
        leaving.start()


def _check_hosts(settings: Settings) -> None:
    """Refuse a plain TCP socket that nobody said was meant: whoever reaches it is root here."""
    has_tls = settings.tlscert is not None and settings.tlskey is not None
    if settings.tlsverify and not (has_tls and settings.tlscacert):
        raise InvalidArgument("tlsverify needs tlscacert, tlscert and tlskey")
    for host in settings.hosts:
        if host.startswith("tcp://") and not settings.tlsverify and not settings.insecure_tcp:
            raise InvalidArgument(
                f"listen on {host}: without client certificates anyone who can reach it is root on this host",
                remedy="give --tlsverify with --tlscacert, --tlscert, --tlskey; or --insecure-tcp if that is what you want",
            )


async def _listen(server: Server, host: str, settings: Settings) -> None:
    scheme, _, rest = host.partition("://")
    if scheme == "unix":
        await server.listen_unix(Path(rest), 0o660, _group(settings.group))
    elif scheme == "tcp":
        address, _, port = rest.rpartition(":")
        if not (port.isascii() and port.isdigit() and int(port[:6]) < 65536):
            raise InvalidArgument(f"listen on {host}: {port!r} is no port", remedy="write tcp://ADDRESS:PORT")
        tls = None
        if settings.tlscert is not None and settings.tlskey is not None:
            tls = TlsSettings(settings.tlscert, settings.tlskey, settings.tlscacert if settings.tlsverify else None)
        if tls is None or tls.client_ca is None:
            log.warning("listening on %s without client certificates: whoever can reach it is root on this host", host)
        await server.listen_tcp(address.strip("[]"), int(port), tls)
    else:
        for fd in _handed_over():
            await server.listen_fd(fd)


def _handed_over() -> list[int]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise InvalidArgument(
            "listen on fd://: no sockets were handed over", remedy="start the daemon by its systemd socket unit"
        )
    count = os.environ.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit() and 0 < int(count[:4]) <= 64):
        raise InvalidArgument(f"listen on fd://: LISTEN_FDS is {count!r}, not the number of sockets handed over")
    return list(range(FIRST_FD, FIRST_FD + int(count)))


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _notify(address: str, state: str) -> None:
    """Tell systemd, if it asked to be told (sd_notify(3))."""
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            log.warning("notify %s: %s", address, error.strerror)


def _write_pidfile(path: Path | None) -> None:
    if path is not None:
        path.write_text(f"{os.getpid()}\n")


def _remove_pidfile(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
