"""The closed tree of errors: every error that a driver or the engine raises on purpose is one of these.

A message says operation, object, cause; `remedy` says what to do about it. An `OSError` or a library's error is
translated at one place per driver and chained with `from`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class SampanError(Exception):
    """Base of the tree. `str()` gives the message and, where there is one, the remedy."""

    status: ClassVar[int] = 500

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class NotModified(SampanError):
    """The object is already in the state asked for (HTTP 304)."""

    status = 304


class InvalidArgument(SampanError):
    """What the caller asked is malformed or contradicts itself (HTTP 400)."""

    status = 400


class Forbidden(SampanError):
    """The caller may not do this (HTTP 403)."""

    status = 403


class NotFound(SampanError):
    """The named object does not exist (HTTP 404)."""

    status = 404


class Conflict(SampanError):
    """The object exists but its state forbids the operation, or the name is taken (HTTP 409)."""

    status = 409


class System(SampanError):
    """The host failed: a system call, a full disk, a helper process (HTTP 500)."""

    status = 500


class Unsupported(SampanError):
    """This host, this driver or this version cannot do it (HTTP 501)."""

    status = 501


class Unavailable(SampanError):
    """It could be done, but not now: a part is down, a deadline passed (HTTP 503)."""

    status = 503


_KINDS: dict[str, type[SampanError]] = {
    kind.__name__: kind
    for kind in (NotModified, InvalidArgument, Forbidden, NotFound, Conflict, System, Unsupported, Unavailable)
}


def to_wire(error: SampanError) -> dict[str, str]:
    """Give the error as plain data, to cross from a shim or a child to the daemon."""
    return {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}


def from_wire(data: dict[str, str]) -> SampanError:
    """Give back what `to_wire` packed; an unknown kind becomes `System`."""
    return _KINDS.get(data.get("kind", ""), System)(data.get("message", "unknown error"), remedy=data.get("remedy", ""))


@contextmanager
def host_errors(operation: str) -> Iterator[None]:
    """Turn an `OSError` into `System`: `operation` says what was done to what."""
    try:
        yield
    except OSError as error:
        raise System(f"{operation}: {error}") from error
