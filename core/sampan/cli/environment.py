"""Lists of `KEY=value`: `-e`, `--env-file`, `-l`, `--label-file`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def read_file(path: str, environ: Mapping[str, str]) -> list[str]:
    """Read a file of `KEY=value` lines; `KEY` alone takes the value from `environ`, or is left out if not set.

    Raises `ValueError` with the line's number, `OSError`.
    """
    from pathlib import Path

    data = Path(path).read_bytes()
    found = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"env file {path} contains invalid utf8 bytes at line {number}") from None
        line = line.lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name:
            raise ValueError(f"no variable name on line {number} of {path}: {line!r}")
        if any(letter.isspace() for letter in name):
            raise ValueError(f"variable {name!r} contains whitespaces, at line {number} of {path}")
        if equals:
            found.append(f"{name}={value}")
        elif name in environ:
            found.append(f"{name}={environ[name]}")
    return found


def environment(items: Iterable[str], files: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """Give Config.Env: the files first, then `-e`; a name without a value is taken from `environ`, else kept bare."""
    found = [line for path in files for line in read_file(path, environ)]
    for item in items:
        name, equals, _ = item.partition("=")
        if not name:
            raise ValueError(f"invalid environment variable: {item}")
        if equals:
            found.append(item)
        else:
            found.append(f"{name}={environ[name]}" if name in environ else name)
    return found


def labels(items: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """Give Config.Labels: the files first, then `-l`; a name alone has an empty value."""
    table = {}
    for item in [*(line for path in files for line in read_file(path, {})), *items]:
        name, _, value = item.partition("=")
        if not name:
            raise ValueError(f"invalid label: {item}")
        table[name] = value
    return table


def mapping(items: Iterable[str], what: str) -> dict[str, str]:
    """Give `KEY=value` options as a mapping. Raises `ValueError` for one without `=`."""
    table = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals):
            raise ValueError(f"invalid {what} {item!r}: it is NAME=VALUE")
        table[name] = value
    return table
