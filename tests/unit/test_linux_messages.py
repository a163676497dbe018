"""Messages between our processes."""

from __future__ import annotations

import socket

import pytest

from sampan.linux import messages

MESSAGE = {"id": 1, "result": ["π", None, True, 1.5, {"a": {}}]}


def test_what_is_encoded_is_decoded() -> None:
    assert messages.decode(messages.encode(MESSAGE)) == MESSAGE
    assert messages.decode(messages.encode(MESSAGE) + b"\n") == MESSAGE


@pytest.mark.parametrize("size", [10, messages.DATAGRAM, 10 * messages.DATAGRAM])
def test_what_is_sent_is_received_however_long(size: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        messages.send(ours, messages.encode({"text": "x" * size}))
        assert messages.receive(theirs) == ({"text": "x" * size}, [])


@pytest.mark.parametrize("payload", [b"", b"{", b'{"a":', b"{}{}", b"{} x", b"nonsense", b"\xff", b'{"a":1'])
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        messages.decode(payload)


@pytest.mark.parametrize("payload", [b"[]", b"1", b"{}{}", b"@12", b"@x"])
def test_a_peer_that_sends_no_message_is_refused(payload: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(payload)
        with pytest.raises(ValueError, match="receive from a peer"):
            messages.receive(theirs)
