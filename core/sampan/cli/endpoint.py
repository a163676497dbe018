"""Where the daemon is: an address from -H, the environment or the default, and the TLS files that go with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from sampan.cli.failure import CliError

DEFAULT_HOST = "unix:///run/sampan.sock"


class TlsFiles(NamedTuple):
    """Paths of PEM files; `verify` says whether the server's certificate is checked against `ca`."""

    verify: bool
    ca: str
    cert: str
    key: str


class Endpoint(NamedTuple):
    """A parsed address: a unix socket's `path`, or else `host` and `port`, with `tls` if it is spoken."""

    address: str
    path: str = ""
    host: str = ""
    port: int = 0
    tls: TlsFiles | None = None


class TlsFlags(NamedTuple):
    """The TLS options as given on the command line; None means not given."""

    tls: bool | None = None
    verify: bool | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def resolve(host: str | None, flags: TlsFlags, environ: Mapping[str, str]) -> Endpoint:
    """Give the endpoint: the flag, then SAMPAN_HOST, then DOCKER_HOST, then the default.

    Raises `CliError` for an address that is neither unix:// nor tcp://.
    """
    address = host or environ.get("SAMPAN_HOST") or environ.get("DOCKER_HOST") or DEFAULT_HOST
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = ("unix", address) if address.startswith("/") else ("tcp", address)
    if scheme == "unix":
        if not rest:
            raise CliError(f"invalid address {address!r}: no path", remedy="Use unix:///path/to.sock")
        return Endpoint(address, path=rest)
    if scheme not in ("tcp", "http", "https"):
        raise CliError(
            f"invalid address {address!r}: unknown scheme {scheme!r}",
            remedy="Use unix://PATH or tcp://HOST:PORT",
        )
    tls = _tls(flags, environ, implied=scheme == "https")
    name, port = _split_port(address, rest.rstrip("/"), 2376 if tls else 2375)
    return Endpoint(address, host=name, port=port, tls=tls)


def _split_port(address: str, text: str, default: int) -> tuple[str, int]:
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        name, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise CliError(f"invalid address {address!r}: bad port {port!r}", remedy="Use tcp://HOST:PORT")
    return name or "127.0.0.1", int(port) if port else default


def _tls(flags: TlsFlags, environ: Mapping[str, str], *, implied: bool) -> TlsFiles | None:
    verify = flags.verify
    if verify is None:
        verify = bool(environ.get("SAMPAN_TLS_VERIFY") or environ.get("DOCKER_TLS_VERIFY"))
    named = (flags.ca, flags.cert, flags.key) != (None, None, None)
    if flags.tls is False or not (verify or flags.tls or implied or named or environ.get("DOCKER_TLS")):
        return None
    folder = environ.get("SAMPAN_CERT_PATH") or environ.get("DOCKER_CERT_PATH")
    if folder is None:
        folder = f"{environ.get('HOME', '')}/.docker"
    found = [
        explicit if explicit is not None else _if_there(f"{folder}/{name}")
        for explicit, name in ((flags.ca, "ca.pem"), (flags.cert, "cert.pem"), (flags.key, "key.pem"))
    ]
    return TlsFiles(verify, *found)


def _if_there(path: str) -> str:
    return path if os.path.exists(path) else ""  # noqa: PTH110  pathlib costs 8 ms at start-up
