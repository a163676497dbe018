"""`userns-remap`: whose subordinate ids the containers' users are outside. Docker's rules (moby's `parseRemappedRoot`).

Every container then has a user namespace of its own with the same maps, in which ids are 0, 1, 2, … without a gap. On disk owners stay as
they are without one: roots and volumes are shown through the maps. So the setting can be changed at any time, and nothing is chowned.
Sources: `user_namespaces(7)`, `subuid(5)`.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.storage import StorageCapability
from sampan.engine.storage import Storage
from sampan.linux.namespaces import IdMaps, IdRange, new_userns

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")

DEFAULT_USER = "dockremap"
"""The user that `default` stands for, as in Docker."""

MAX_RANGES = 340
"""Lines of a map that the kernel takes."""

T = TypeVar("T")


def root_of(maps: IdMaps | None) -> tuple[int, int]:
    """Give uid and gid, on the host, of the root of containers with these maps; without maps the host's root."""
    return (0, 0) if maps is None else (maps.uid(0), maps.gid(0))


def check_user(maps: IdMaps, uid: int, gids: Sequence[int]) -> None:
    """See that a process can have these ids inside. Raises `InvalidArgument`."""
    wrong = f"uid {uid}" if maps.uid(uid) < 0 else next((f"gid {gid}" for gid in gids if maps.gid(gid) < 0), "")
    if wrong:
        raise InvalidArgument(
            f"run as {wrong}: the container's user namespace has no such id",
            remedy="give userns-remap's user more subordinate ids, or add --userns=host",
        )


def check_shifts(storage: Storage) -> None:
    """See that a storage driver's roots can be shown through maps. Raises `Unsupported`."""
    if StorageCapability.IDMAP not in storage.capabilities:
        raise Unsupported(
            f"show a root of storage driver {storage.name} with shifted owners: the driver, or its file system here, can't",
            remedy="choose another storage driver, or add --userns=host",
        )


def load_maps(text: str) -> IdMaps | None:
    """Give the maps for a setting: `default`, `USER[:GROUP]` by name or number. None for "" and for root itself, as Docker does.

    Raises `InvalidArgument` for who isn't there or has no ids, `Unsupported` if the kernel does not take them.
    """
    if not text:
        return None
    user, colon, group = text.partition(":")
    account = _account(DEFAULT_USER if user == "default" and not colon else user)
    if account.pw_uid == 0:
        return None
    _check_group(group if colon else account.pw_name)
    found = IdMaps(_ranges(SUBUID, account), _ranges(SUBGID, account))
    try:
        os.close(new_userns(found.uids, found.gids))
    except OSError as error:
        raise Unsupported(
            f"userns-remap {text}: this host makes no user namespace with these ids: {error.strerror}",
            remedy=f"look at {SUBUID}, {SUBGID} and the sysctl user.max_user_namespaces",
        ) from error
    return found


def _account(name: str) -> pwd.struct_passwd:
    remedy = f"make it: useradd --system --no-create-home --shell /usr/sbin/nologin {name}, and give it ids in {SUBUID} and {SUBGID}"
    if name.isascii() and name.isdigit():
        return _known(lambda: pwd.getpwuid(int(name)), f"userns-remap: uid {name} has no entry in /etc/passwd", "name a user that is there")
    return _known(lambda: pwd.getpwnam(name), f"userns-remap: there is no user {name!r}", remedy)


def _check_group(name: str) -> None:
    """The group must be there, but which ids its members get goes by the user, as `newgidmap(1)` does."""
    failed, remedy = f"userns-remap: there is no group {name!r}", "write USER:GROUP with a group that is there"
    if name.isascii() and name.isdigit():
        _known(lambda: grp.getgrgid(int(name)), failed, remedy)
    else:
        _known(lambda: grp.getgrnam(name), failed, remedy)


def _known(look: Callable[[], T], failed: str, remedy: str) -> T:
    try:
        return look()
    except (KeyError, OverflowError):
        raise InvalidArgument(failed, remedy=remedy) from None


def _ranges(file: Path, account: pwd.struct_passwd) -> tuple[IdRange, ...]:
    """Give the user's ranges in the order of the file, side by side from 0 on inside."""
    owners = (account.pw_name, str(account.pw_uid))
    ranges: list[IdRange] = []
    inside = 0
    for line in file.read_text().splitlines() if file.exists() else ():
        owner, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if owner in owners and first.isdigit() and count.isdigit() and int(count):
            ranges.append(IdRange(inside, int(first), int(count)))
            inside += int(count)
    if not ranges:
        raise InvalidArgument(
            f"userns-remap: user {account.pw_name} has no subordinate ids in {file}",
            remedy=f"add a line with ids that nobody has, such as {account.pw_name}:100000:65536",
        )
    if len(ranges) > MAX_RANGES:
        raise InvalidArgument(f"userns-remap: user {account.pw_name} has more than {MAX_RANGES} ranges in {file}")
    return tuple(ranges)
