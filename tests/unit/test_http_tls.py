"""TLS with half-close and client certificates.

Needs the system package `openssl` (its command makes the certificates).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from sampan.api.errors import InvalidArgument
from sampan.http.exchange import Limits
from sampan.http.request import Peer, Request
from sampan.http.response import AnyResponse, Response, Upgrade
from sampan.http.router import Router
from sampan.http.server import Server
from sampan.http.streams import Stream
from sampan.http.tls import TlsSettings

T = TypeVar("T")
FAST = Limits(handshake_time=0.2, linger_time=0.3, eof_grace=0.05)
PING = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_ca(directory: Path, name: str) -> None:
    openssl(
        *(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
        ),
        *(
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{directory}/{name}-key.pem",
            "-out",
            f"{directory}/{name}.pem",
        ),
    )


def make_certificate(directory: Path, ca: str, name: str) -> None:
    extensions = directory / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *(
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            f"/CN={name}",
        ),
        *("-keyout", f"{directory}/{name}-key.pem", "-out", f"{directory}/{name}.csr"),
    )
    openssl(
        *("x509", "-req", "-in", f"{directory}/{name}.csr", "-CA", f"{directory}/{ca}.pem", "-days", "1"),
        *("-CAkey", f"{directory}/{ca}-key.pem", "-CAcreateserial", "-extfile", str(extensions)),
        *("-out", f"{directory}/{name}.pem"),
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    make_ca(directory, "ca")
    make_ca(directory, "strangers")
    make_certificate(directory, "ca", "server")
    make_certificate(directory, "ca", "client")
    make_certificate(directory, "strangers", "stranger")
    return directory


class App:
    """Handlers, and what a stream read."""

    def __init__(self) -> None:
        self.read = b""
        self.lost = asyncio.Event()
        self.peer: object = None
        self.router = Router()
        self.router.add("GET", "/_ping", self.ping)
        self.router.add("POST", "/attach", self.attach)
        self.router.add("POST", "/half", self.half)

    async def ping(self, request: Request) -> AnyResponse:
        self.peer = request.peer
        return Response(200, b"OK")

    async def attach(self, request: Request) -> AnyResponse:
        async def run(stream: Stream) -> None:
            while data := await stream.read():
                self.read += data
                await stream.write(data)
            try:
                await stream.write(b"<after EOF>")
            except ConnectionError:
                self.lost.set()

        return Upgrade(run)

    async def half(self, request: Request) -> AnyResponse:
        async def run(stream: Stream) -> None:
            await stream.write(b"bye")
            stream.write_eof()
            while data := await stream.read():
                self.read += data
            self.lost.set()

        return Upgrade(run)


Check = Callable[[App], Awaitable[None]]


class Client:
    """A TLS client that can send close_notify and go on reading, as Go's does.

    Python's own cannot over a socket.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")
        self._pump(self.tls.do_handshake)

    def _flush(self) -> None:
        if self._out.pending:
            self.socket.sendall(self._out.read())

    def _pump(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.socket.recv(65536)
                if not data:
                    raise ConnectionResetError("end of file without close_notify") from None
                self._in.write(data)
            else:
                self._flush()
                return result

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self._flush()

    def close_notify(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self._flush()

    def read(self) -> bytes:
        try:
            return self._pump(lambda: self.tls.read(65536))
        except ssl.SSLZeroReturnError:
            return b""

    def until(self, mark: bytes) -> bytes:
        got = b""
        while mark not in got:
            data = self.read()
            assert data, got
            got += data
        return got

    def rest(self) -> bytes:
        got = b""
        while data := self.read():
            got += data
        return got


def client_context(certificates: Path, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if name is not None:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}-key.pem")
    return context


def serve(
    certificates: Path, talk: Callable[[int], None], check: Check | None = None, *, mutual: bool = False
) -> None:
    """Run `talk(port)` in a thread against a TLS server."""

    async def main() -> None:
        app = App()
        server = Server(app.router, FAST)
        ca = certificates / "ca.pem" if mutual else None
        tls = TlsSettings(certificates / "server.pem", certificates / "server-key.pem", ca)
        port = await server.listen_tcp("127.0.0.1", 0, tls)
        try:
            await asyncio.to_thread(talk, port)
            if check is not None:
                await asyncio.wait_for(check(app), 5)
        finally:
            await server.close(0.2)
        assert server.connections == 0

    asyncio.run(main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_half_close_leaves_the_output_open(certificates: Path, version: ssl.TLSVersion) -> None:
    def talk(port: int) -> None:
        context = client_context(certificates)
        context.minimum_version = context.maximum_version = version
        client = Client(port, context)
        with client.socket:
            client.send(PING)
            client.until(b"OK")
            client.send(
                b"POST /attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nglued "
            )
            client.send(bytes(100_000))
            client.close_notify()
            answer = client.rest()
            head, _, data = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 UPGRADED")
            assert data == b"glued " + bytes(100_000) + b"<after EOF>"

    serve(certificates, talk)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_server_half_close_leaves_the_input_open(certificates: Path, version: ssl.TLSVersion) -> None:
    def talk(port: int) -> None:
        context = client_context(certificates)
        context.minimum_version = context.maximum_version = version
        client = Client(port, context)
        with client.socket:
            client.send(b"POST /half HTTP/1.1\r\nHost: d\r\n\r\n")
            assert client.rest().endswith(b"bye")
            client.send(b"still here")
            client.close_notify()
            while client.socket.recv(65536):
                pass

    async def check(app: App) -> None:
        await app.lost.wait()
        assert app.read == b"still here"

    serve(certificates, talk, check)


def test_end_of_file_without_close_notify_is_a_loss(certificates: Path) -> None:
    def talk(port: int) -> None:
        client = Client(port, client_context(certificates))
        with client.socket:
            client.send(b"POST /attach HTTP/1.1\r\nHost: d\r\n\r\ncut")
            client.until(b"cut")
            client.socket.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                client.rest()

    async def check(app: App) -> None:
        await app.lost.wait()

    serve(certificates, talk, check)


def test_only_clients_of_the_ca_get_in(certificates: Path) -> None:
    def talk(port: int) -> None:
        good = Client(port, client_context(certificates, "client"))
        with good.socket:
            good.send(PING)
            good.until(b"OK")
        for name in (None, "stranger"):
            with pytest.raises(
                (ssl.SSLError, ConnectionError)
            ):  # TLS 1.3: the alert comes with the first read
                client = Client(port, client_context(certificates, name))
                with client.socket:
                    client.send(PING)
                    client.until(b"OK")

    async def check(app: App) -> None:
        assert isinstance(app.peer, Peer) and app.peer.certificate is not None
        assert app.peer.certificate["subject"] == ((("commonName", "client"),),)

    serve(certificates, talk, check, mutual=True)


def test_old_versions_are_refused(certificates: Path) -> None:
    def talk(port: int) -> None:
        run = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert run.returncode != 0
        assert "protocol version" in run.stderr

    serve(certificates, talk)


def test_plain_http_is_told_and_a_silent_client_dropped(certificates: Path) -> None:
    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(PING)
            answer = b""
            while data := plain.recv(4096):
                answer += data
            assert b"Client sent an HTTP request to an HTTPS server." in answer
        silent = socket.create_connection(("127.0.0.1", port), timeout=5)
        with silent, pytest.raises(ConnectionResetError):
            if silent.recv(1) == b"":
                raise ConnectionResetError

    serve(certificates, talk)


def test_unusable_files_are_named(tmp_path: Path, certificates: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(InvalidArgument, match=r"missing\.pem"):
        TlsSettings(missing, missing).context()
    with pytest.raises(InvalidArgument, match=r"missing\.pem"):
        TlsSettings(certificates / "server.pem", certificates / "server-key.pem", missing).context()
