"""What a handler gets: the request, its query by Docker's rules, and its body as a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from sampan.api.errors import InvalidArgument

JSON_LIMIT = 16 << 20
_FALSE = frozenset(("", "0", "no", "false", "none"))


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other end.

    `uid` and `pid` on a unix socket, `certificate` (`ssl.getpeercert()`) with mutual TLS.
    """

    address: str
    uid: int | None = None
    pid: int | None = None
    certificate: dict[str, Any] | None = None


class Query:
    """The query string. A name given twice keeps both values; `get*` takes the first, as Docker does."""

    def __init__(self, text: str = "") -> None:
        self._values: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=1000)
        except ValueError as error:
            raise InvalidArgument(f"parse query string: {error}") from error
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: str = "") -> str:
        """Give the first value."""
        return self._values[name][0] if name in self._values else default

    def get_list(self, name: str) -> list[str]:
        """Give every value, in order."""
        return list(self._values.get(name, ()))

    def get_bool(self, name: str, default: bool = False) -> bool:
        """Docker's rule: empty, `0`, `no`, `false` and `none` are false, anything else is true."""
        return self.get(name).strip().lower() not in _FALSE if name in self._values else default

    def get_int(self, name: str, default: int = 0) -> int:
        """Give a decimal number; absent or empty is `default`. `InvalidArgument` for anything else."""
        text = self.get(name).strip()
        if not text:
            return default
        digits = text[1:] if text[0] in "+-" else text
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
            raise InvalidArgument(f'invalid value for query parameter {name}: "{text}" is not an integer')
        return int(text)

    def filters(self, name: str = "filters") -> dict[str, list[str]]:
        """Give `{"key": ["value"]}`, also out of the older `{"key": {"value": true}}`.

        `InvalidArgument` for other JSON. Of the older form only what is `true` counts.
        """
        text = self.get(name)
        if not text:
            return {}
        decoded = _decode_json(text.encode(), "invalid filter")
        if decoded is None:
            return {}
        if not isinstance(decoded, dict):
            raise InvalidArgument('invalid filter: it must be JSON like {"label":["a=b"]}')
        return {key: _filter_values(key, values) for key, values in decoded.items()}


def _filter_values(key: str, values: Any) -> list[str]:
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    if isinstance(values, dict) and all(isinstance(given, bool) for given in values.values()):
        return [value for value, given in values.items() if given]
    raise InvalidArgument(f'invalid filter: the values of "{key}" must be a list of strings')


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"invalid value {text}")


def _int_of_64_bits(text: str) -> int:
    """Take what a Go client could have sent: more fits in no field, and the kernel would refuse it later and in other words."""
    number = int(text)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"number {number} does not fit in 64 bits")
    return number


def _decode_json(data: bytes, failure: str) -> Any:
    try:
        decoded = json.loads(data, parse_int=_int_of_64_bits, parse_constant=_refuse_constant)
        if b"\\ud" in data.lower():  # a lone surrogate is no text that could be stored or sent: replace it
            decoded = json.loads(json.dumps(decoded, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError as error:
        raise InvalidArgument(f"{failure}: nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are of this kind
        raise InvalidArgument(f"{failure}: {error}") from error
    return decoded


class Body:
    """The request's body, pulled: nothing is taken from the client faster than it is read here.

    Reading raises `ClientGone` if the client goes before its end, so a truncated body never looks whole.
    """

    def __init__(self, receive: Callable[[], Awaitable[bytes]], length: int | None) -> None:
        self._receive = receive
        self.length = length
        """As announced; None if chunked."""

    async def stream(self) -> AsyncIterator[bytes]:
        """Give the body piece by piece, as it arrives."""
        while data := await self._receive():
            yield data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.stream()

    async def read(self, limit: int = JSON_LIMIT) -> bytes:
        """Give the whole body; `InvalidArgument` if it is longer than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        while data := await self._receive():
            parts.append(data)
            size += len(data)
            if size > limit:
                raise InvalidArgument(f"request body is larger than {limit} bytes")
        return b"".join(parts)


class Request:
    """One request. The router fills in `params` and `version` and takes the version off `path`."""

    __slots__ = ("method", "path", "params", "query", "headers", "version", "body", "peer", "upgrade")

    def __init__(
        self,
        method: str,
        path: str,
        *,
        query: Query,
        headers: dict[str, str],
        body: Body,
        peer: Peer,
        upgrade: str = "",
        version: tuple[int, int] = (1, 51),
    ) -> None:
        self.method = method
        self.path = path
        self.params: dict[str, str] = {}
        self.query = query
        self.headers = headers
        self.version = version
        self.body = body
        self.peer = peer
        self.upgrade = upgrade

    async def json(self, limit: int = JSON_LIMIT) -> Any:
        """Give the decoded JSON body, None if there is no body.

        `InvalidArgument`, in Docker's words, for anything else.
        """
        content_type = self.headers.get("content-type", "")
        if self.body.length == 0:
            if content_type:
                _check_json_type(content_type)
            return None
        _check_json_type(content_type)
        data = await self.body.read(limit)
        if not data.strip():
            raise InvalidArgument("invalid JSON: got EOF while reading request body")
        return _decode_json(data, "invalid JSON")


def _check_json_type(content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().lower()
    if not media_type:
        raise InvalidArgument(f"malformed Content-Type header ({content_type}): mime: no media type")
    if media_type != "application/json":
        raise InvalidArgument(f"unsupported Content-Type header ({content_type}): must be 'application/json'")
