"""Listens on unix sockets, TCP ports and descriptors handed over, and keeps count of the connections."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

from sampan.api.errors import Conflict, InvalidArgument, System
from sampan.http.connection import App, Connection
from sampan.http.exchange import Limits
from sampan.http.response import json_response
from sampan.http.tls import TlsSettings, TlsTransport

_BACKLOG = 1024
_ABORT_TIME = 5.0


class Server:
    """Serves `app` to every client of its listeners, within `limits`."""

    def __init__(self, app: App, limits: Limits | None = None) -> None:
        self._app = app
        self._limits = limits or Limits()
        self._listeners: list[asyncio.Server] = []
        self._sockets: list[tuple[Path, int]] = []
        self._connections: set[Connection] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def listen_unix(self, path: Path | str, mode: int = 0o660, gid: int | None = None) -> None:
        """Listen on a unix socket that appears at `path` with its final mode and group.

        A socket left by a dead server is replaced; `Conflict` if a live one answers, or if `path` is
        something else.
        """
        path = Path(path)
        _check_free(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            listener.bind(str(temporary))
            if gid is not None:
                os.chown(temporary, -1, gid)
            temporary.chmod(mode)
            listener.listen(_BACKLOG)
            temporary.rename(path)
            inode = path.stat().st_ino
        except OSError as error:
            listener.close()
            temporary.unlink(missing_ok=True)
            raise System(f"listen on unix socket {path}: {error.strerror or error}") from error
        self._sockets.append((path, inode))
        await self._listen(listener, None)

    async def listen_tcp(self, host: str, port: int, tls: TlsSettings | None = None) -> int:
        """Listen on a TCP address, with TLS if given; give the port, which the kernel chooses for 0.

        Without TLS whoever reaches the port is root on this host: the caller has made sure that this was
        asked for.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            listener = socket.create_server((address[0], address[1]), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise System(f"listen on {host}:{port}: {error.strerror or error}") from error
        await self._listen(listener, tls)
        return int(listener.getsockname()[1])

    async def listen_fd(self, fd: int, tls: TlsSettings | None = None) -> None:
        """Listen on a descriptor that already listens (socket activation, sd_listen_fds(3)).

        It is ours from now on.
        """
        try:
            listener = socket.socket(fileno=fd)
            listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise InvalidArgument(f"listen on descriptor {fd}: {error.strerror}") from error
        if listener.type != socket.SOCK_STREAM or not listening:
            listener.detach()
            raise InvalidArgument(f"listen on descriptor {fd}: it is not a listening stream socket")
        await self._listen(listener, tls)

    async def close(self, grace: float = 10.0) -> None:
        """Take no more connections; let requests in hand end within `grace` seconds, then cancel them."""
        for listener in self._listeners:
            listener.close()
        for path, inode in self._sockets:
            if path.exists() and path.stat().st_ino == inode:
                path.unlink()
        self._listeners.clear()
        self._sockets.clear()
        for connection in list(self._connections):
            connection.finish()
        if not await self._emptied(grace):
            for connection in list(self._connections):
                connection.abort()
            await self._emptied(_ABORT_TIME)

    async def _emptied(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._none_left.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _listen(self, listener: socket.socket, tls: TlsSettings | None) -> None:
        context = None
        try:
            if tls is not None:
                context = tls.context()
        except InvalidArgument:
            listener.close()
            raise
        listener.setblocking(False)

        def accept() -> asyncio.BaseProtocol:
            if len(self._connections) >= self._limits.connections:
                return _TooMany(plain=context is None)
            connection = Connection(self._app, self._limits, self._forget)
            self._connections.add(connection)
            self._none_left.clear()
            return (
                connection
                if context is None
                else TlsTransport(connection, context, self._limits.handshake_time)
            )

        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            server = await loop.create_unix_server(accept, sock=listener, backlog=_BACKLOG)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit it
            server = await loop.create_server(accept, sock=listener, backlog=_BACKLOG)
        self._listeners.append(server)

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._none_left.set()


class _TooMany(asyncio.Protocol):
    """Turns a connection away."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._plain:
            body = json_response({"message": "too many connections: try again later"}).body
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        transport.close()


def _check_free(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Conflict(
                f"listen on unix socket {path}: a file that is not a socket is there", remedy="remove it"
            )
    except FileNotFoundError:
        return
    except OSError as error:
        raise System(f"listen on unix socket {path}: {error.strerror}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            raise Conflict(
                f"listen on unix socket {path}: cannot tell whether it is in use: {error}"
            ) from error
    raise Conflict(
        f"listen on unix socket {path}: another server answers there", remedy="stop it or use another path"
    )
