"""The Dockerfile instructions that `docker import --change` and `docker commit --change` take.

Source of the accepted set and the texts: moby's `builder/dockerfile` (`BuildFromConfig`, "is not a valid
change command").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from sampan.api.errors import InvalidArgument
from sampan.api.types import ContainerConfig, HealthConfig

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SHELL = ["/bin/sh", "-c"]
_HEALTH_OPTIONS = ("interval", "timeout", "start-period", "start-interval", "retries")


def apply_changes(config: ContainerConfig, changes: Iterable[str]) -> ContainerConfig:
    """Give a copy of `config` with every change made. Raises `InvalidArgument` for one that is malformed or
    unknown."""
    config = config.model_copy(deep=True)
    for change in changes:
        for line in re.sub(r"\\\n", "", change).splitlines():
            text = line.strip()
            if text and not text.startswith("#"):
                _apply(config, text)
    return config


def _apply(config: ContainerConfig, text: str) -> None:
    word, _, rest = text.partition(" ")
    name, rest = word.upper(), rest.strip()
    if name not in _CHANGES:
        raise InvalidArgument(f"{word} is not a valid change command", remedy=f"use {', '.join(_CHANGES)}")
    if not rest:
        raise InvalidArgument(f"{name} requires at least one argument")
    _CHANGES[name](config, rest)


def _cmd(config: ContainerConfig, rest: str) -> None:
    config.cmd = _command(config, rest)


def _entrypoint(config: ContainerConfig, rest: str) -> None:
    config.entrypoint = _command(config, rest)


def _command(config: ContainerConfig, rest: str) -> list[str]:
    listed = _json_list(rest)
    return listed if listed is not None else [*(config.shell or _SHELL), rest]


def _json_list(rest: str) -> list[str] | None:
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest)
    except ValueError:
        return None
    return value if all(isinstance(part, str) for part in value) else None


def _env(config: ContainerConfig, rest: str) -> None:
    for key, value in _pairs("ENV", rest):
        config.env = [entry for entry in config.env if entry.partition("=")[0] != key] + [f"{key}={value}"]


def _label(config: ContainerConfig, rest: str) -> None:
    config.labels.update(_pairs("LABEL", rest))


def _pairs(name: str, rest: str) -> list[tuple[str, str]]:
    """Read `k=v k2="v 2"`, or the old form `k v with spaces`."""
    words = _words(rest)
    if "=" not in words[0]:
        key, _, value = rest.partition(" ")
        if not value:
            raise InvalidArgument(f"{name} must have two arguments")
        return [(key, value.strip())]
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgument(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs.append((key, value))
    return pairs


def _words(text: str) -> list[str]:
    """Split at blanks outside quotes; quotes and backslashes are taken away."""
    words: list[str] = []
    word, quote, begun, escaped = "", "", False, False
    for char in text:
        if escaped:
            word, escaped = word + char, False
        elif char == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            word, quote = (word, "") if char == quote else (word + char, quote)
        elif char in "'\"":
            quote, begun = char, True
        elif char.isspace():
            if begun:
                words.append(word)
            word, begun = "", False
        else:
            word, begun = word + char, True
    if quote:
        raise InvalidArgument(f"unexpected end of statement while looking for matching {quote}: {text}")
    return [*words, word] if begun else words


def _expose(config: ContainerConfig, rest: str) -> None:
    for word in rest.split():
        match = _PORT.fullmatch(word)
        first = int(match[1]) if match else 0
        last = int(match[2]) if match and match[2] else first
        if match is None or not 0 < first <= last <= 65535:
            raise InvalidArgument(f"invalid containerPort: {word}")
        protocol = (match[3] or "tcp").lower()
        config.exposed_ports.update({f"{port}/{protocol}": {} for port in range(first, last + 1)})


def _user(config: ContainerConfig, rest: str) -> None:
    config.user = _one("USER", rest)


def _workdir(config: ContainerConfig, rest: str) -> None:
    path = _one("WORKDIR", rest)
    config.working_dir = path if path.startswith("/") else f"{config.working_dir.rstrip('/')}/{path}"


def _stopsignal(config: ContainerConfig, rest: str) -> None:
    config.stop_signal = _one("STOPSIGNAL", rest)


def _one(name: str, rest: str) -> str:
    words = _words(rest)
    if len(words) != 1:
        raise InvalidArgument(f"{name} requires exactly one argument")
    return words[0]


def _volume(config: ContainerConfig, rest: str) -> None:
    listed = _json_list(rest)
    for path in listed if listed is not None else rest.split():
        if not path.strip():
            raise InvalidArgument("VOLUME specified can not be an empty string")
        config.volumes[path] = {}


def _onbuild(config: ContainerConfig, rest: str) -> None:
    word = rest.partition(" ")[0].upper()
    if word in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidArgument(f"{word} isn't allowed as an ONBUILD trigger")
    config.on_build = [*(config.on_build or []), rest]


def _healthcheck(config: ContainerConfig, rest: str) -> None:
    options: dict[str, int] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", rest):
        if match[1] not in _HEALTH_OPTIONS:
            raise InvalidArgument(f"Unknown flag: {match[1]}")
        field = match[1].replace("-", "_")
        options[field] = int(match[2]) if field == "retries" and match[2].isdigit() else _duration(match[2])
        rest = rest[match.end() :]
    kind, _, command = rest.partition(" ")
    if kind.upper() == "NONE" and not command.strip():
        config.healthcheck = HealthConfig(test=["NONE"])
        return
    if kind.upper() != "CMD" or not command.strip():
        raise InvalidArgument(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    listed = _json_list(command.strip())
    test = ["CMD", *listed] if listed is not None else ["CMD-SHELL", command.strip()]
    config.healthcheck = HealthConfig.model_validate({"test": test, **options})


def _duration(text: str) -> int:
    if not re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
        raise InvalidArgument(f"time: invalid duration {json.dumps(text)}")
    return sum(int(float(number) * _UNIT_NS[unit]) for number, unit in _DURATION.findall(text))


_CHANGES: dict[str, Callable[[ContainerConfig, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
