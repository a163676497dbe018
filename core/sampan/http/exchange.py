"""One request and its answer as bytes: h11 with stricter heads. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

import h11

from sampan.http.errors import BadRequest

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {101: b"UPGRADED"}
_EVENTS_PER_CALL = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a connection; times in seconds, sizes in bytes."""

    connections: int = 4096
    head_bytes: int = 64 << 10
    request_line_bytes: int = 32 << 10
    header_count: int = 100
    head_time: float = 30.0
    """From the first byte of a head to its last."""
    idle_time: float = 300.0
    """Between two requests of one connection."""
    handshake_time: float = 10.0
    drain_bytes: int = 256 << 10
    """How much of a body that the handler left unread is read away to keep the connection."""
    linger_time: float = 1.0
    """How long a closing connection takes in what the client still sends: a reset would eat the answer."""
    flush_time: float = 30.0
    """How long a closed connection may take to hand out what is already written."""
    eof_grace: float = 0.25
    """How long a handler may go on after its client closed the sending side.

    A hijack within it turns this to a half-close.
    """


_HEAD_END = re.compile(rb"\r?\n\r?\n")


def find_head_end(buffer: bytes | bytearray, start: int = 0) -> int:
    """Give the length of the head at the front of `buffer`, -1 if it is not all there.

    Lines ended by a bare LF count too.
    """
    match = _HEAD_END.search(buffer, start)
    return match.end() if match else -1


def _check_head(head: bytes, limits: Limits) -> None:
    """Refuse what two parsers could read in two ways, which h11 would let pass or mend."""
    lines = head[:-4].split(b"\r\n")
    if not head.endswith(b"\r\n\r\n") or any(b"\n" in line or b"\r" in line for line in lines):
        raise BadRequest("malformed request: a line of the head does not end with CR LF")
    if len(lines[0]) > limits.request_line_bytes:
        raise BadRequest(f"request line is longer than {limits.request_line_bytes} bytes", 414)
    if len(lines) - 1 > limits.header_count:
        raise BadRequest(f"request has more than {limits.header_count} header fields", 431)
    framing = []
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t"):
            raise BadRequest("malformed request: folded header line")
        name, _, value = line.partition(b":")
        if name.lower() in (b"content-length", b"transfer-encoding"):
            framing.append(name.lower())
            if b"," in value and name.lower() == b"content-length":
                raise BadRequest("malformed request: more than one Content-Length")
    if len(framing) > 1:
        raise BadRequest("malformed request: more than one Content-Length or Transfer-Encoding")
    if framing == [b"transfer-encoding"] and lines[0].endswith(b"HTTP/1.0"):
        raise BadRequest("malformed request: Transfer-Encoding with HTTP/1.0")


def _origin_form(target: str) -> str:
    """Give path and query of a request target.

    A proxy's absolute form (RFC 9112 §3.2.2) loses scheme and authority.
    """
    if target.startswith("/") or target == "*":
        return target
    scheme, mark, rest = target.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        raise BadRequest("malformed request: the target is not a path")
    authority, slash, path = rest.partition("/")
    return slash + path or "/"


class Exchange:
    """One request's framing in and its answer's framing out.

    Raises `BadRequest` where the client breaks HTTP.
    """

    def __init__(self, head: bytes, limits: Limits) -> None:
        _check_head(head, limits)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._h11.receive_data(head)
        event = self._next_event()
        if not isinstance(event, h11.Request):
            raise BadRequest("malformed request")
        self.method = event.method.decode("ascii")
        self.path, _, self.query = _origin_form(event.target.decode("ascii")).partition("?")
        self.http_version = event.http_version.decode("ascii")
        self.headers: dict[str, str] = {}
        for name_bytes, value_bytes in event.headers:
            name, value = name_bytes.decode("ascii"), value_bytes.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.body_complete = False
        """All of the request is in; `rest()` gives what came behind it."""
        length = self.headers.get("content-length")
        self.length = None if "transfer-encoding" in self.headers else int(length or 0)
        """Of the body, as announced; None if chunked."""
        # A body of known length needs no parser: its bytes pass by h11, uncopied (twice as fast, measured).
        self._left = self.length
        self._passing = b""
        self._expects = self._h11.they_are_waiting_for_100_continue
        if self.length == 0:
            self.body_complete = True

    @property
    def upgrade(self) -> str:
        """The protocol that the client wants to change to, in lower case; empty if none."""
        tokens = [token.strip().lower() for token in self.headers.get("connection", "").split(",")]
        if "upgrade" not in tokens or self.http_version != "1.1":
            return ""
        return self.headers.get("upgrade", "").strip().lower()

    @property
    def wants_continue(self) -> bool:
        """The client holds its body back until it hears `100 Continue`."""
        return self._expects and not self.body_complete

    def proceed(self) -> bytes:
        """Give the `100 Continue` that lets the body come."""
        self._expects = False
        return self._h11.send(h11.InformationalResponse(status_code=100, reason=b"Continue", headers=[]))

    def feed(self, data: bytes) -> None:
        """Take bytes of the body, and whatever comes glued behind it."""
        self._expects = False
        if self._left is None:
            self._h11.receive_data(data)
        else:
            self._passing += data

    def body(self) -> bytes:
        """Give the part of the body that is in; b"" says to `feed` more, unless `body_complete`."""
        if self.body_complete:
            return b""
        return self._chunked_body() if self._left is None else self._counted_body(self._left)

    def _counted_body(self, left: int) -> bytes:
        data, self._passing = self._passing[:left], self._passing[left:]
        self._left = left - len(data)
        self.body_complete = self._left == 0
        return data

    def _chunked_body(self) -> bytes:
        parts: list[bytes] = []
        while len(parts) < _EVENTS_PER_CALL:
            event = self._next_event()
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self.body_complete = True
                break
            else:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def rest(self) -> bytes:
        """Give, once, what came behind the request: the next one, or the first bytes of a hijacked stream."""
        if self._left is None:
            return self._h11.trailing_data[0]
        rest, self._passing = self._passing, b""
        return rest

    def head(self, status: int, headers: Iterable[tuple[str, str]]) -> bytes:
        """Give the answer's head.

        Without a Content-Length it is chunked, or ended by closing for HTTP/1.0.
        """
        self.started = True
        reason = _REASONS.get(status, b"")
        return self._h11.send(h11.Response(status_code=status, reason=reason, headers=list(headers)))

    def hijack_head(self, protocol: str, headers: Iterable[tuple[str, str]]) -> bytes:
        """Give the head after which the connection is a raw stream.

        101 if the client asked for it, else a bare 200.
        """
        self.started = True
        lines = [f"{name}: {value}" for name, value in headers]
        if self.upgrade:
            lines = ["HTTP/1.1 101 UPGRADED", *lines, "Connection: Upgrade", f"Upgrade: {protocol}"]
        else:
            lines = ["HTTP/1.1 200 OK", *lines]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def data(self, data: bytes) -> bytes:
        """Give a piece of the answer's body as it goes on the wire."""
        return self._h11.send(h11.Data(data=data))

    def end(self) -> bytes:
        """Give what ends the answer."""
        return self._h11.send(h11.EndOfMessage())

    @property
    def keep_alive(self) -> bool:
        """After `end`: another request may follow on this connection."""
        return self.body_complete and self._h11.our_state is h11.DONE

    def _next_event(self) -> object:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(f"malformed request: {error}", error.error_status_hint) from error
