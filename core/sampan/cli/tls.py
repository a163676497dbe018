"""TLS on the client's side. In memory, because only so can the writing side be closed while reading goes on."""

from __future__ import annotations

import socket
import ssl

from sampan.cli.endpoint import Endpoint
from sampan.cli.failure import CliError

CHUNK = 65536


class TlsWire:
    """A connected TLS session, with the shape of `sampan.cli.transport.PlainWire`."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        self.socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    def handshake(self) -> None:
        """Agree on keys; raises `ssl.SSLError` or `OSError`."""
        while True:
            try:
                self._session.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                self._feed()
            except ssl.SSLError:
                self.socket.sendall(self._outgoing.read())  # the alert that tells the server why
                raise
        self.socket.sendall(self._outgoing.read())

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self.socket.fileno()

    def receive(self) -> bytes:
        """Give all that can be read, waiting for the first of it; b"" at the end."""
        plain = b""
        while True:
            try:
                data = self._session.read(CHUNK)
            except ssl.SSLWantReadError:
                if plain:
                    return plain
                self._feed()
                continue
            except ssl.SSLZeroReturnError:
                return plain
            except ssl.SSLError as error:
                raise CliError(
                    f"TLS: {error.reason or error}", remedy="Check the certificates on both sides"
                ) from error
            if not data:
                return plain
            plain += data

    def encode(self, data: bytes) -> bytes:
        """Encrypt."""
        view = memoryview(data)
        while view:
            view = view[self._session.write(view) :]
        return self._outgoing.read()

    def encode_end(self) -> bytes:
        """Give the close_notify that ends our direction."""
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # it wants the peer's close_notify, which comes when the peer is done
        return self._outgoing.read()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _feed(self) -> None:
        data = self.socket.recv(CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def handshake(sock: socket.socket, endpoint: Endpoint) -> TlsWire:
    """Speak TLS on a connected socket; `CliError` names the certificate's fault."""
    files = endpoint.tls
    assert files is not None
    try:
        context = ssl.create_default_context(cafile=files.ca or None) if files.verify else _unverified()
        if files.cert:
            context.load_cert_chain(files.cert, files.key or None)
        wire = TlsWire(sock, context, endpoint.host)
        wire.handshake()
    except (ssl.SSLError, OSError) as error:
        sock.close()
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error
        raise CliError(
            f"TLS with the daemon at {endpoint.address} failed: {reason}",
            remedy="Check --tlscacert, --tlscert and --tlskey, or the files in SAMPAN_CERT_PATH",
        ) from error
    return wire


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
