"""Who a process runs as: `--user` resolved against the container's own passwd and group files.

The files are hostile: they are read bounded, through the root's own descriptor, and only where they are regular files.
"""

from __future__ import annotations

from dataclasses import dataclass

from sampan.api.errors import InvalidArgument

MAX_ID = 2**31 - 1
"""The largest uid or gid taken, as runc's libcontainer takes it: no wrapping round to root."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """The container's passwd and group files."""

    passwd: bytes = b""
    group: bytes = b""


@dataclass(frozen=True, slots=True)
class User:
    """Numeric ids, and the home directory. `groups` begin with `gid`, as Docker's do (CVE-2022-36109)."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(text: str, accounts: Accounts, extra_groups: list[str]) -> User:
    """Resolve `[user][:group]`, names or numbers, and `--group-add`. Raises `InvalidArgument` in Docker's words."""
    user, colon, group = text.partition(":")
    if "\0" in text or "\n" in text:
        raise InvalidArgument(f"invalid user {text!r}: it contains control characters")
    uid, gid, home, name = 0, 0, "/", ""
    entries = _passwd(accounts.passwd)
    number = _number(user) if user else 0
    for entry in entries:
        if (user and entry[0] == user) or (number is not None and entry[1] == number):
            name, uid, gid, home = entry
            break
    else:
        if number is None:
            raise InvalidArgument(f"unable to find user {user}: no matching entries in passwd file")
        uid = number
    groups = _groups(accounts.group)
    supplementary = [g_gid for _, g_gid, members in groups if name and name in members]
    if colon and group:
        gid = _group_id(group, groups)
        supplementary = []
    added = [_group_id(item, groups) for item in extra_groups]
    return User(uid, gid, tuple(dict.fromkeys([gid, *supplementary, *added])), home or "/")


def _number(text: str) -> int | None:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit():
        return None
    if not _is_id(text):
        raise InvalidArgument(f"uids and gids must be in range 0-{MAX_ID}")
    return int(text)


def _group_id(text: str, groups: list[tuple[str, int, list[str]]]) -> int:
    number = _number(text)
    for name, gid, _ in groups:
        if name == text or gid == number:
            return gid
    if number is None:
        raise InvalidArgument(f"Unable to find group {text}")
    return number


def _lines(data: bytes) -> list[list[str]]:
    return [line.split(":") for line in data.decode("utf-8", "replace").split("\n") if line and line[0] != "#"]


def _passwd(data: bytes) -> list[tuple[str, int, int, str]]:
    found = []
    for fields in _lines(data):
        if len(fields) >= 6 and _is_id(fields[2]) and _is_id(fields[3]):
            found.append((fields[0], int(fields[2]), int(fields[3]), fields[5]))
    return found


def _groups(data: bytes) -> list[tuple[str, int, list[str]]]:
    found = []
    for fields in _lines(data):
        if len(fields) >= 3 and _is_id(fields[2]):
            members = fields[3].split(",") if len(fields) > 3 else []
            found.append((fields[0], int(fields[2]), members))
    return found


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID
