"""Our reading and writing of DNS messages, with dnslib as the witness."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from dnslib import EDNS0, QTYPE, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.netd import dns

LABEL = st.text("abcxyzABC019-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)


@settings(deadline=None)
@given(NAME, st.sampled_from(["A", "AAAA", "PTR", "TXT", "HTTPS"]), st.none() | st.integers(0, 65535))
def test_what_dnslib_packs_is_read(name: str, kind: str, room: int | None) -> None:
    packed = DNSRecord.question(name, kind)
    if room is not None:
        packed.add_ar(EDNS0(udp_len=room))
    query = dns.parse(bytes(packed.pack()))
    assert (query.id, query.name, query.cls) == (packed.header.id, name.lower().encode(), dns.INTERNET)
    assert QTYPE.get(query.type) == kind
    assert (query.edns, query.room) == (room is not None, max(512, room or 0))


@settings(deadline=None)
@given(NAME, st.lists(st.ip_addresses(v=4), max_size=80), st.integers(512, 4096), st.booleans())
def test_what_we_pack_is_read_by_dnslib(name: str, addresses: list[ipaddress.IPv4Address], room: int, edns: bool) -> None:
    asked = DNSRecord.question(name)
    if edns:
        asked.add_ar(EDNS0(udp_len=room))
    query = dns.parse(bytes(asked.pack()))
    packed = dns.answer(query, dns.NOERROR, [dns.record(dns.A, one.packed) for one in addresses], room=room)
    answer = DNSRecord.parse(packed)
    assert len(packed) <= room
    assert (answer.header.id, answer.header.qr, answer.header.ra, answer.header.rd) == (asked.header.id, 1, 1, 1)
    assert str(answer.q.qname).rstrip(".") == name
    found = [str(record.rdata) for record in answer.rr]
    assert found == [str(one) for one in addresses][: len(found)]
    assert bool(answer.header.tc) == (len(found) < len(addresses))
    assert [record.rtype for record in answer.ar] == [QTYPE.OPT] * edns
    assert dns.answers(packed, bytes(asked.pack()))
    shortened = DNSRecord.parse(dns.truncated(packed))
    assert (shortened.header.tc, shortened.rr, shortened.q) == (1, [], answer.q)


@settings(deadline=None)
@given(NAME)
def test_names(name: str) -> None:
    query = dns.parse(bytes(DNSRecord.question("x").pack()))
    answer = DNSRecord.parse(dns.answer(query, dns.NOERROR, [dns.record(dns.PTR, dns.pack_name(name))]))
    assert str(answer.rr[0].rdata) == f"{name}."


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["abcdefgh"] * 30)])
def test_what_cannot_be_a_name(name: str) -> None:
    assert dns.pack_name(name) == b""


@settings(deadline=None)
@given(st.ip_addresses())
def test_addresses_in_reverse(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert dns.address_of(address.reverse_pointer.encode()) == address.packed


@pytest.mark.parametrize("name", ["1.2.3.in-addr.arpa", "1.2.3.256.in-addr.arpa", "a.b.c.d.in-addr.arpa", "x" * 63 + ".ip6.arpa", "arpa"])
def test_what_is_no_address(name: str) -> None:
    assert dns.address_of(name.encode()) == b""


@settings(deadline=None)
@given(st.binary(max_size=600) | st.binary(max_size=80).map(lambda data: bytes.fromhex("123401000001000000000001") + data))
def test_nothing_else_is_raised_for_any_bytes(data: bytes) -> None:
    try:
        query = dns.parse(data)
    except dns.NotAnswered:
        return
    except dns.Refused as refused:
        answer = dns.refusal(data, refused.code)
        assert answer[:2] == data[:2]
        assert dns.code_of(answer) in (dns.FORMERR, dns.NOTIMP)
        return
    assert len(query.name) < 255
    assert dns.answers(dns.answer(query, dns.NOERROR), data)
    dns.address_of(query.name)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_no_bytes_are_taken_for_an_answer_but_the_right_ones(data: bytes) -> None:
    asked = bytes(DNSRecord.question("example.org").pack())
    if dns.answers(data, asked):
        assert data[:2] == asked[:2]
        assert data[12 : len(asked)].lower() == asked[12:]


def test_letters_of_either_case_are_the_same_question() -> None:
    asked = bytes(DNSRecord.question("eXample.ORG").pack())
    other = DNSRecord.question("example.org")
    other.header.id = int.from_bytes(asked[:2], "big")
    reply = bytes(other.reply().pack())
    assert dns.answers(reply, asked)
    assert not dns.answers(asked, asked)  # no answer, but a query
    with contextlib.suppress(dns.NotAnswered):
        dns.parse(reply)
        raise AssertionError("an answer was taken for a query")
