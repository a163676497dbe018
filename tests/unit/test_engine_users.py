from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument
from sampan.engine.users import MAX_ID, Accounts, User, resolve

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1001:The app:/srv/app:/bin/sh
short:x:7
homeless:x:1002:1002:::/bin/sh
1003:x:5:6:a name of digits:/five:/bin/sh
"""
GROUP = b"root:x:0:\nwheel:x:10:app,root\nvideo:x:44:app\napp:x:1001:\n"
ACCOUNTS = Accounts(PASSWD, GROUP)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (0, 10), "/root")),
        ("root", User(0, 0, (0, 10), "/root")),
        ("0", User(0, 0, (0, 10), "/root")),
        ("app", User(1000, 1001, (1001, 10, 44), "/srv/app")),
        ("1000", User(1000, 1001, (1001, 10, 44), "/srv/app")),
        ("app:video", User(1000, 44, (44,), "/srv/app")),
        ("app:77", User(1000, 77, (77,), "/srv/app")),
        ("1000:", User(1000, 1001, (1001, 10, 44), "/srv/app")),
        (":44", User(0, 44, (44,), "/root")),
        ("4242", User(4242, 0, (0,), "/")),
        ("4242:4243", User(4242, 4243, (4243,), "/")),
        ("homeless", User(1002, 1002, (1002,), "/")),
        ("1003", User(5, 6, (6,), "/five")),
        (str(MAX_ID), User(MAX_ID, 0, (0,), "/")),
    ],
)
def test_users(text: str, expected: User) -> None:
    assert resolve(text, ACCOUNTS, []) == expected


def test_groups_are_added() -> None:
    assert resolve("app", ACCOUNTS, ["video", "99", "root"]).groups == (1001, 10, 44, 99, 0)
    assert resolve("4242:1", ACCOUNTS, ["wheel"]).groups == (1, 10)


def test_an_image_without_files_knows_numbers_only() -> None:
    assert resolve("", Accounts(), []) == User(0, 0, (0,), "/")
    assert resolve("5:6", Accounts(), ["7"]) == User(5, 6, (6, 7), "/")
    with pytest.raises(InvalidArgument, match="unable to find user root: no matching entries in passwd file"):
        resolve("root", Accounts(), [])


@pytest.mark.parametrize("text", ["4294967296", "4294967295", "2147483648", "-1", "0:4294967296", "0:-5", "9" * 5000])
def test_ids_do_not_wrap_round_to_root(text: str) -> None:
    with pytest.raises(InvalidArgument, match="uids and gids must be in range 0-2147483647"):
        resolve(text, ACCOUNTS, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "unable to find user nobody: no matching entries in passwd file"),
        ("short", "unable to find user short"),
        ("--5", "unable to find user --5"),
        ("0:nogroup", "Unable to find group nogroup"),
        ("app\nroot", "control characters"),
        ("٣", "unable to find user ٣"),
    ],
)
def test_unknown_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        resolve(text, ACCOUNTS, [])
    with pytest.raises(InvalidArgument, match="Unable to find group nothing"):
        resolve("", ACCOUNTS, ["nothing"])


@pytest.mark.parametrize(
    "line",
    [
        b"app:x:4294967296:0::/:/bin/sh",
        b"app:x:-1:0::/:/bin/sh",
        b"app:x:" + b"9" * 10_000 + b":0::/:/bin/sh",
        b"app:x:0x0:0::/:/bin/sh",
        b"app:x: 0:0::/:/bin/sh",
        b"app:x::0::/:/bin/sh",
    ],
)
def test_a_line_with_a_strange_id_is_no_account(line: bytes) -> None:
    with pytest.raises(InvalidArgument, match="unable to find user app"):
        resolve("app", Accounts(line), [])


def test_only_a_newline_ends_a_line() -> None:
    gecos = "x:x:9:9:a\u2028root:x:0:0:/:\x0bapp:x:0:0::/:/bin/sh\n".encode()
    with pytest.raises(InvalidArgument, match="unable to find user app"):
        resolve("app", Accounts(gecos), [])


@given(text=st.text(max_size=40), passwd=st.binary(max_size=300), group=st.binary(max_size=300))
def test_hostile_files_and_names_end_in_a_user_or_a_clear_refusal(text: str, passwd: bytes, group: bytes) -> None:
    try:
        user = resolve(text, Accounts(passwd, group), [])
    except InvalidArgument:
        return
    assert 0 <= user.uid <= MAX_ID
    assert 0 <= user.gid <= MAX_ID
    assert all(0 <= gid <= MAX_ID for gid in user.groups)
