from __future__ import annotations

import grp
import pwd
from pathlib import Path

import pytest

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.engine import remap
from sampan.engine.remap import check_user, load_maps, root_of
from sampan.linux.namespaces import IdMaps, IdRange

USERS = {"sailor": 1500, "dockremap": 1600, "root": 0}


@pytest.fixture(autouse=True)
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory with subuid and subgid; the users and groups are those of USERS."""

    def account(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", USERS[name], USERS[name], "", "/", "/bin/false"))

    def group(name: str) -> grp.struct_group:
        return grp.struct_group((name, "x", USERS[name], []))

    names = {number: name for name, number in USERS.items()}
    monkeypatch.setattr(remap.pwd, "getpwnam", account)
    monkeypatch.setattr(remap.pwd, "getpwuid", lambda number: account(names[number]))
    monkeypatch.setattr(remap.grp, "getgrnam", group)
    monkeypatch.setattr(remap.grp, "getgrgid", lambda number: group(names[number]))
    monkeypatch.setattr(remap, "SUBUID", tmp_path / "subuid")
    monkeypatch.setattr(remap, "SUBGID", tmp_path / "subgid")
    (tmp_path / "subuid").write_text("other:1:1\nsailor:100000:65536\n1500:300000:10\ndockremap:500000:1000\n")
    (tmp_path / "subgid").write_text("sailor:200000:65536\ndockremap:600000:1000\nbroken\nsailor:x:y\n")
    return tmp_path


@pytest.mark.parametrize("text", ["sailor", "1500", "sailor:sailor", "1500:1500", "sailor:dockremap"])
def test_the_ranges_of_a_user(text: str) -> None:
    maps = load_maps(text)
    assert maps == IdMaps((IdRange(0, 100_000, 65_536), IdRange(65_536, 300_000, 10)), (IdRange(0, 200_000, 65_536),))
    assert root_of(maps) == (100_000, 200_000)


def test_default_is_dockremap_and_nothing_or_root_is_none() -> None:
    assert load_maps("default") == IdMaps((IdRange(0, 500_000, 1000),), (IdRange(0, 600_000, 1000),))
    assert load_maps("") is None
    assert load_maps("root") is load_maps("0:0") is None
    assert root_of(None) == (0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody-here", "there is no user 'nobody-here'.*useradd"),
        ("99", "uid 99 has no entry in /etc/passwd"),
        ("9" * 30, "has no entry"),
        ("sailor:nobody-here", "there is no group 'nobody-here'"),
        ("sailor:", "there is no group ''"),
    ],
)
def test_who_is_not_there(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        load_maps(text)


def test_a_user_without_ids(accounts: Path) -> None:
    (accounts / "subgid").unlink()
    with pytest.raises(InvalidArgument, match="user sailor has no subordinate ids in .*subgid.*sailor:100000:65536"):
        load_maps("sailor")


def test_ranges_that_the_kernel_refuses(accounts: Path) -> None:
    (accounts / "subuid").write_text("sailor:100000:65536\nsailor:100000:65536\n")  # they overlap
    with pytest.raises(Unsupported, match="no user namespace with these ids: write .*uid_map: Invalid argument"):
        load_maps("sailor")
    (accounts / "subuid").write_text("".join(f"sailor:{number}000:10\n" for number in range(1, 400)))
    with pytest.raises(InvalidArgument, match="more than 340 ranges"):
        load_maps("sailor")


def test_ids_beyond_the_map() -> None:
    maps = IdMaps((IdRange(0, 100_000, 1000),), (IdRange(0, 100_000, 10),))
    check_user(maps, 999, (9,))
    with pytest.raises(InvalidArgument, match="run as uid 1000: the container's user namespace has no such id"):
        check_user(maps, 1000, (0,))
    with pytest.raises(InvalidArgument, match="run as gid 10:"):
        check_user(maps, 0, (0, 10))
