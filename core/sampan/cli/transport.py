"""A small HTTP/1.1 client over a unix, TCP or TLS socket: one exchange per connection, streams, and the hijack.

Written here because `http.client` and its email parser cost more start-up time than the whole command may take, and can't
give the raw connection after an upgrade. RFC 9112; what it refuses: header lines without end, unknown transfer codings.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sampan.cli.endpoint import Endpoint
from sampan.cli.failure import CliError, Unreachable

if TYPE_CHECKING:
    from sampan.cli.tls import TlsWire

CHUNK = 65536
MAX_HEAD = 1 << 18

Body = bytes | Iterable[bytes] | None


class PlainWire:
    """A connected socket as `TlsWire` also is: bytes in, and bytes made ready to be sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self.socket.fileno()

    def receive(self) -> bytes:
        """Give the next bytes, b"" at the end. Leaves nothing buffered, so waiting on the descriptor is enough."""
        return self.socket.recv(CHUNK)

    def encode(self, data: bytes) -> bytes:
        """Give what must go on the socket so that the peer reads `data`."""
        return data

    def encode_end(self) -> bytes:
        """Give what must go on the socket before its writing side is shut down."""
        return b""

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def connect(endpoint: Endpoint) -> PlainWire | TlsWire:
    """Connect; `Unreachable` says where, why, and how to start the daemon."""
    try:
        sock = _connect_unix(endpoint.path) if endpoint.path else _connect_tcp(endpoint.host, endpoint.port)
    except OSError as error:
        raise Unreachable(
            f"cannot connect to the Sampan daemon at {endpoint.address}: {error.strerror or error}",
            remedy=_remedy(endpoint, error),
        ) from error
    if endpoint.tls is None:
        return PlainWire(sock)
    from sampan.cli.tls import handshake

    return handshake(sock, endpoint)


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_tcp(host: str, port: int) -> socket.socket:
    sock = socket.create_connection((host, port), timeout=30)
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _remedy(endpoint: Endpoint, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "Run it as root, or as a member of the group that owns the socket"
    if not endpoint.path:
        return "Is the daemon running there, and is its address right? See `sampan daemon --help`, option -H"
    option = "" if endpoint.path == "/run/sampan.sock" else f" -H unix://{endpoint.path}"
    return f"Is it running? Start it as root with: sampan daemon{option}"


class Response:
    """An answer whose head was read; the body is read as it comes. Close it, or use it as a context manager."""

    def __init__(self, wire: PlainWire | TlsWire, method: str) -> None:
        self._wire = wire
        self._buffer = b""
        self.status, self.headers = self._head()
        while 100 <= self.status < 200 and self.status != 101:
            self.status, self.headers = self._head()
        self._bodyless = method == "HEAD" or self.status in (101, 204, 304)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        self._wire.close()

    def fileno(self) -> int:
        """Give the descriptor to wait on for more of the body; see `has_body` first."""
        return self._wire.fileno()

    def has_body(self) -> bool:
        """Tell whether some of the body was read together with the head."""
        return bool(self._buffer)

    def detach(self) -> tuple[PlainWire | TlsWire, bytes]:
        """Give the raw connection after an upgrade, and the bytes of it that were already read."""
        left, self._buffer = self._buffer, b""
        return self._wire, left

    def chunks(self) -> Iterator[bytes]:
        """Give the body piece by piece, as it arrives."""
        if self._bodyless:
            return
        coding = self.headers.get("transfer-encoding", "").lower()
        if coding == "chunked":
            yield from self._chunked()
        elif coding:
            raise CliError(f"the daemon's answer has an unknown transfer coding {coding!r}")
        elif (length := self.headers.get("content-length")) is not None:
            yield from self._exactly(int(length))
        else:
            while data := self._some():
                yield data

    def read(self) -> bytes:
        """Give the whole body."""
        return b"".join(self.chunks())

    def json(self) -> Any:
        """Give the whole body, decoded from JSON; None if it is empty."""
        data = self.read()
        return json.loads(data) if data.strip() else None

    def json_stream(self) -> Iterator[Any]:
        """Give each of a stream of JSON values as it arrives, whether or not lines separate them."""
        decoder = json.JSONDecoder()
        text = ""
        pending = b""
        for chunk in self.chunks():
            pending += chunk
            whole = _whole_utf8(pending)
            text += pending[:whole].decode("utf-8", "replace")
            pending = pending[whole:]
            while text := text.lstrip():
                try:
                    value, end = decoder.raw_decode(text)
                except ValueError:
                    break
                yield value
                text = text[end:]
        if text.strip():
            raise CliError("the daemon's answer ends inside a JSON value", remedy="Look at the daemon's log")

    def _head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD:
                raise CliError("the daemon's answer has an endless header")
            if not self._fill():
                raise CliError(
                    "the daemon closed the connection without an answer",
                    remedy="Is it a Docker Engine API, and with TLS or without? Look at the daemon's log",
                )
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        parts = first.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise CliError(f"what answers is no HTTP server: {first[:60]!r}", remedy="Check the address given with -H")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(parts[1]), headers

    def _chunked(self) -> Iterator[bytes]:
        while size := int(self._line().split(b";")[0], 16):
            yield from self._exactly(size)
            self._line()
        while self._line():
            pass

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD or not self._fill():
                raise CliError("the daemon's answer is cut off", remedy="Look at the daemon's log")
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            data = self._some()
            if not data:
                raise CliError("the daemon's answer is cut off", remedy="Look at the daemon's log")
            if len(data) > count:
                data, self._buffer = data[:count], data[count:]
            count -= len(data)
            yield data

    def _some(self) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self._receive()

    def _fill(self) -> bool:
        data = self._receive()
        self._buffer += data
        return bool(data)

    def _receive(self) -> bytes:
        try:
            return self._wire.receive()
        except ConnectionResetError:
            return b""


def _whole_utf8(data: bytes) -> int:
    """Give how many bytes of `data` come before a UTF-8 sequence that is cut off at its end."""
    for back in range(1, min(4, len(data)) + 1):
        lead = data[-back]
        if lead & 0xC0 != 0x80:
            need = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            return len(data) if back >= need else len(data) - back
    return len(data)


def send(endpoint: Endpoint, method: str, target: str, headers: Mapping[str, str], body: Body = None) -> Response:
    """Open a connection, send one request and read the answer's head.

    `body`: bytes go with a length, an iterable of bytes is sent chunked. An early answer to an upload is still read.
    """
    wire = connect(endpoint)
    try:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {endpoint.host or 'sampan'}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT"):
            lines.append("Content-Length: 0")
        head = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"
        try:
            _write(wire, head + body if isinstance(body, bytes) else head)
            if body is not None and not isinstance(body, bytes):
                for piece in body:
                    if piece:
                        _write(wire, b"%x\r\n%b\r\n" % (len(piece), piece))
                _write(wire, b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon may have answered with an error and hung up; its answer is worth more than ours
        return Response(wire, method)
    except BaseException:
        wire.close()
        raise


def _write(wire: PlainWire | TlsWire, data: bytes) -> None:
    wire.socket.sendall(wire.encode(data))


def file_chunks(fd: int) -> Iterator[bytes]:
    """Give what a file descriptor yields until its end, to be sent as a body."""
    while data := os.read(fd, CHUNK):
        yield data
