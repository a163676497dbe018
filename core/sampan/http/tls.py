"""TLS between a socket's transport and a `Connection`, by `ssl.MemoryBIO`.

asyncio's own TLS transport ends the whole connection at the peer's close_notify, but `docker run -i` sends
just that at the end of stdin and still wants the output. Here close_notify is a half-close, in both
directions. An end of file without close_notify is not: it may be an attacker's cut, and counts as a lost
connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sampan.api.errors import InvalidArgument

_READ_SIZE = 1 << 18
_PLAIN_ANSWER = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files in PEM. With `client_ca`, only clients whose certificate it signed get in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Load the files; `InvalidArgument` says which cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # SSLError is an OSError
            raise InvalidArgument(
                f"load TLS certificate {self.certificate} with key {self.key}: {error}"
            ) from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as error:
                raise InvalidArgument(f"load CA of TLS clients {self.client_ca}: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class TlsTransport(asyncio.Protocol, asyncio.Transport):
    """To the socket's transport a protocol, to the inner protocol a transport.

    A handshake has `handshake_time` seconds.
    """

    def __init__(self, inner: asyncio.Protocol, context: ssl.SSLContext, handshake_time: float) -> None:
        super().__init__()
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._handshake_time = handshake_time
        self._raw: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._established = False
        self._eof_received = False
        self._eof_sent = False

    # The protocol side: what the socket's transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's hello."""
        self._raw = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(self._handshake_time, self._raw.abort)

    def data_received(self, data: bytes) -> None:
        """Decrypt."""
        self._incoming.write(data)
        if self._established or self._shake_hands(data):
            self._decrypt()
        self._flush()

    def eof_received(self) -> bool:
        """The TCP connection ended for reading; without a close_notify before it, that is no orderly end."""
        if not self._eof_received:
            self.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the inner protocol, also if it never was connected."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that the client is slow."""
        if self._established:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client took what there was."""
        if self._established:
            self._inner.resume_writing()

    def _shake_hands(self, data: bytes) -> bool:
        assert self._raw is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self._raw.write(_PLAIN_ANSWER)
            self._flush()  # the alert that says why
            self._raw.close()
            return False
        if self._deadline is not None:
            self._deadline.cancel()
        self._established = True
        self._flush()
        self._inner.connection_made(self)
        return True

    def _decrypt(self) -> None:
        while not self._eof_received:
            try:
                data = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError:
                self.abort()
                return
            if data:
                self._inner.data_received(data)
            else:
                self._eof_received = True
                self._inner.eof_received()

    def _flush(self) -> None:
        assert self._raw is not None
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    # The transport side: what the inner protocol calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if not (self._eof_sent or self.is_closing()):
            self._tls.write(data)
            self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Encrypt and send them all."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Yes: a close_notify."""
        return True

    def write_eof(self) -> None:
        """Send close_notify; reading goes on."""
        if self._eof_sent or self.is_closing():
            return
        self._eof_sent = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # it also looks for the peer's close_notify, which is not there yet
            pass
        self._flush()

    def pause_reading(self) -> None:
        """Take no more from the client."""
        assert self._raw is not None
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        assert self._raw is not None
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        """Whether the client is being read."""
        return self._raw is not None and self._raw.is_reading()

    def is_closing(self) -> bool:
        """Whether the connection is ending or has ended."""
        return self._raw is None or self._raw.is_closing()

    def close(self) -> None:
        """Send close_notify and what is still queued, then end."""
        if self._raw is not None and self._established:
            self.write_eof()
        if self._raw is not None:
            self._raw.close()

    def abort(self) -> None:
        """End now."""
        if self._raw is not None:
            self._raw.abort()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when writers are held."""
        assert self._raw is not None
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Give how many encrypted bytes wait to be sent."""
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give the peer's certificate as `peercert`, and what the socket's transport knows."""
        if name == "peercert":
            return self._tls.getpeercert()
        if name == "ssl_object":
            return self._tls
        return default if self._raw is None else self._raw.get_extra_info(name, default)
