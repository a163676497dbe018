"""DNS messages: the question of a query, and answers to it; what comes from elsewhere is passed on as it is.

Of a hostile message only the first question is read, which may hold no pointer: there is nothing that could loop or grow.
Sources: RFC 1035 (4: messages), RFC 3596 (AAAA), RFC 6891 (EDNS), RFC 7766 (TCP).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
INTERNET = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

SMALLEST, LARGEST = 512, 0xFFFF
"""Bytes of an answer by UDP to a client that says nothing, and of any answer."""

TTL = 600
"""Seconds, as Docker says."""

_QR, _TC, _RD, _RA, _OPCODE = 0x8000, 0x0200, 0x0100, 0x0080, 0x7800
_HEADER = struct.Struct("!6H")
_NAME_OF_QUESTION = b"\xc0\x0c"
_V4, _V6 = b".in-addr.arpa", b".ip6.arpa"


class NotAnswered(Exception):
    """No query: a message that gets no answer at all."""


class Refused(Exception):
    """A query that is answered by a code alone."""

    def __init__(self, code: int) -> None:
        """`code`: FORMERR or NOTIMP."""
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Query:
    """A query's only question. `name` in lower case without the last dot; `raw` is the question as it came.

    `room`: bytes that the client takes by UDP. `edns`: whether it speaks EDNS.
    """

    id: int
    flags: int
    name: bytes
    type: int
    cls: int
    raw: bytes
    room: int = SMALLEST
    edns: bool = False


def parse(data: bytes) -> Query:
    """Read a query. Raises `NotAnswered`, `Refused`."""
    if len(data) < _HEADER.size:
        raise NotAnswered
    number, flags, questions, answers, authorities, more = _HEADER.unpack_from(data)
    if flags & _QR:
        raise NotAnswered
    if flags & _OPCODE:
        raise Refused(NOTIMP)
    if questions != 1:
        raise Refused(FORMERR)
    labels, at = [], _HEADER.size
    try:
        while length := data[at]:
            if length > 63 or at + length - _HEADER.size > 253:
                raise Refused(FORMERR)
            labels.append(data[at + 1 : at + 1 + length])
            at += 1 + length
        kind, cls = struct.unpack_from("!HH", data, at + 1)
    except (IndexError, struct.error):
        raise Refused(FORMERR) from None
    end = at + 5
    room, edns = _edns(data, end) if more and not answers and not authorities else (SMALLEST, False)
    return Query(number, flags, b".".join(labels).lower(), kind, cls, data[_HEADER.size : end], room, edns)


def _edns(data: bytes, at: int) -> tuple[int, bool]:
    """Read the size that an OPT record offers, if it comes first, as it does from all who send one."""
    if data[at : at + 3] != b"\0\0\x29" or len(data) < at + 11:
        return SMALLEST, False
    return max(SMALLEST, int.from_bytes(data[at + 3 : at + 5])), True


def address_of(name: bytes) -> bytes:
    """Give the packed address that a name of in-addr.arpa or ip6.arpa stands for; b"" if it stands for none."""
    try:
        if name.endswith(_V4):
            parts = name.removesuffix(_V4).split(b".")
            return bytes(int(part) for part in reversed(parts)) if len(parts) == 4 else b""
        if name.endswith(_V6):
            nibbles = name.removesuffix(_V6).split(b".")
            return bytes.fromhex(b"".join(reversed(nibbles)).decode()) if len(nibbles) == 32 else b""
    except ValueError:
        pass
    return b""


def record(kind: int, data: bytes) -> bytes:
    """Give an answer's record about the question's name."""
    return _NAME_OF_QUESTION + struct.pack("!HHIH", kind, INTERNET, TTL, len(data)) + data


def pack_name(name: str) -> bytes:
    """Give a name as labels; b"" if it cannot be one."""
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    if any(not 0 < len(label) < 64 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        return b""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def answer(query: Query, code: int, records: Sequence[bytes] = (), *, room: int = LARGEST) -> bytes:
    """Give the answer; in less room it holds fewer records and says so."""
    own = b"\0\0\x29" + struct.pack("!HIH", 4096, 0, 0) if query.edns else b""
    left = room - _HEADER.size - len(query.raw) - len(own)
    fitting = []
    for each in records:
        left -= len(each)
        if left < 0:
            break
        fitting.append(each)
    flags = _QR | _RA | (query.flags & _RD) | (_TC if len(fitting) < len(records) else 0) | code
    return _HEADER.pack(query.id, flags, 1, len(fitting), 0, bool(own)) + query.raw + b"".join(fitting) + own


def refusal(data: bytes, code: int) -> bytes:
    """Give an answer that only names a code, to a query that could not be read."""
    number, flags = struct.unpack_from("!HH", data)
    return _HEADER.pack(number, _QR | (flags & (_OPCODE | _RD)) | code, 0, 0, 0, 0)


def code_of(reply: bytes) -> int:
    """Give an answer's code."""
    return reply[3] & 0x0F


def is_truncated(reply: bytes) -> bool:
    """Whether an answer says that more was to be said."""
    return bool(reply[2] & 0x02)


def answers(reply: bytes, query: bytes) -> bool:
    """Whether a message answers a query: its id, and its question in letters of either case."""
    if len(reply) < _HEADER.size or reply[:2] != query[:2] or not reply[2] & 0x80 or reply[4:6] != b"\0\1":
        return False
    end = _end_of_question(query)
    return reply[_HEADER.size : end].lower() == query[_HEADER.size : end].lower()


def truncated(reply: bytes) -> bytes:
    """Give an answer without its records, that says it lacks them."""
    head = reply[:2] + bytes((reply[2] | 0x02, reply[3])) + b"\0\1" + bytes(6)
    return head + reply[_HEADER.size : _end_of_question(reply)]


def _end_of_question(message: bytes) -> int:
    at = _HEADER.size
    while message[at]:
        at += 1 + message[at]
    return at + 5
