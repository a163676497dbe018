from __future__ import annotations

import pytest

from sampan.api.errors import InvalidArgument
from sampan.engine.names import check_name, new_id, random_name


@pytest.mark.parametrize("name", ["ab", "a0", "web-1.2_x", "A" * 255])
def test_good_names(name: str) -> None:
    check_name("container", name)


@pytest.mark.parametrize("name", ["", "a", "-a", ".a", "_a", "a b", "a/b", "a\n", "ab\n", "é1", "a:b", "a" * 256, "../x"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"(?s)Invalid container name \(.*\), only \[a-zA-Z0-9\]"):
        check_name("container", name)


def test_names_that_we_give_are_good_and_differ() -> None:
    names = {random_name() for _ in range(200)}
    assert len(names) > 100
    for name in names:
        check_name("container", name)


def test_ids() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(item) == 64 and int(item, 16) >= 0 for item in ids)
