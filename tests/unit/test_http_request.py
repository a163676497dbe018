from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sampan.api.errors import InvalidArgument
from sampan.http.request import Body, Peer, Query, Request


def make(body: bytes, content_type: str | None = "application/json", *, chunked: bool = False) -> Request:
    pieces = [body[:3], body[3:]] if len(body) > 3 else [body]

    async def receive() -> bytes:
        return pieces.pop(0) if pieces else b""

    headers = {} if content_type is None else {"content-type": content_type}
    length = None if chunked else len(body)
    return Request("POST", "/", query=Query(), headers=headers, body=Body(receive, length), peer=Peer("test"))


def decode(*args: Any, **kwargs: Any) -> Any:
    return asyncio.run(make(*args, **kwargs).json())


def test_bool_by_dockers_rules() -> None:
    query = Query("a=1&b=true&c=yes&d=0&e=no&f=FALSE&g=none&h=&i=%20False%20&j")
    assert [name for name in "abcdefghij" if query.get_bool(name)] == ["a", "b", "c"]
    assert query.get_bool("absent") is False
    assert query.get_bool("absent", True) is True
    assert query.get_bool("h", True) is False


def test_int_and_list() -> None:
    query = Query("t=10&n=-1&bad=1x&empty=&u=%D9%A1&long=" + "9" * 30 + "&m=a&m=b%2Bc+d")
    assert query.get_int("t") == 10
    assert query.get_int("n") == -1
    assert query.get_int("absent", 7) == query.get_int("empty", 7) == 7
    for name in ("bad", "u", "long"):
        with pytest.raises(InvalidArgument, match=name):
            query.get_int(name)
    assert query.get_list("m") == ["a", "b+c d"]
    assert query.get("m") == "a"
    assert query.get_list("absent") == []
    assert "empty" in query and "absent" not in query


def test_query_that_is_not_utf8_or_a_flood_is_refused() -> None:
    for text in ("a=%ff", "&".join("a=1" for _ in range(2000))):
        with pytest.raises(InvalidArgument):
            Query(text)


def test_filters_in_both_forms() -> None:
    assert Query('filters={"label":["a=b","c"],"status":[]}').filters() == {
        "label": ["a=b", "c"],
        "status": [],
    }
    assert Query('filters={"dangling":{"true":true,"x":false}}').filters() == {"dangling": ["true"]}
    assert Query("").filters() == Query("filters=").filters() == Query("filters={}").filters() == {}
    for bad in ("[", "[]", "1", '{"a":1}', '{"a":[1]}', '{"a":{"b":1}}', "[" * 100_000):
        with pytest.raises(InvalidArgument, match="invalid filter"):
            Query(f"filters={bad}").filters()


def test_json() -> None:
    assert decode(b'{"a": [1, null]}') == {"a": [1, None]}
    assert decode(b'{"a": 1}', "application/json; charset=utf-8", chunked=True) == {"a": 1}
    assert decode(b"", None) is None
    assert decode(b"") is None


def test_json_surrogates_become_text_that_can_be_stored() -> None:
    assert decode(rb'{"a":"\ud800x","b":"\ud83d\ude00"}') == {"a": "?x", "b": "\U0001f600"}


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"{}", None, "malformed Content-Type header (): mime: no media type"),
        (b"{}", "text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        (b"", "text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        (b"{", "application/json", "invalid JSON: "),
        (b"{} {}", "application/json", "invalid JSON: "),
        (b"  ", "application/json", "invalid JSON: got EOF while reading request body"),
        (b'{"a": NaN}', "application/json", "invalid JSON: "),
        (b'"\xff"', "application/json", "invalid JSON: "),
        (b"[" * 200_000, "application/json", "invalid JSON: "),
        (b"1" * 10_000, "application/json", "invalid JSON: "),
    ],
)
def test_json_refusals(body: bytes, content_type: str | None, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode(body, content_type)
    assert str(caught.value).startswith(message)


def test_body_is_bounded() -> None:
    with pytest.raises(InvalidArgument, match="larger than 5 bytes"):
        asyncio.run(make(b"123456").body.read(5))
    assert asyncio.run(make(b"12345").body.read(5)) == b"12345"


def test_body_in_pieces() -> None:
    async def pieces() -> list[bytes]:
        return [piece async for piece in make(b"12345").body]

    assert asyncio.run(pieces()) == [b"123", b"45"]
