from __future__ import annotations

import os
from pathlib import Path

import pytest

from ground.records import container_record
from sampan.engine import resolver
from sampan.engine.resolver import Place, ResolvConf, resolv_conf

HOST, PLAIN, NAMED = Place.HOST, Place.PLAIN, Place.NAMED
SIX = ["2001:4860:4860::8888", "2001:4860:4860::8844"]


@pytest.fixture(autouse=True)
def of_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resolver, "HOST_RESOLV_CONF", tmp_path / "host.conf")
    monkeypatch.setattr(resolver, "RESOLVED_RESOLV_CONF", tmp_path / "resolved.conf")
    return tmp_path / "host.conf"


def made(place: Place, *, ipv6: bool = False, **host: object) -> ResolvConf:
    return resolv_conf(container_record(host=host), place, ipv6=ipv6)


def body(conf: ResolvConf) -> list[str]:
    return [line for line in conf.text.splitlines() if line and not line.startswith("#")]


def comments(conf: ResolvConf) -> list[str]:
    return conf.text.partition("# Based on")[2].splitlines()[1:]


@pytest.mark.parametrize(
    ("text", "place", "host", "expected"),
    [
        ("nameserver 9.9.9.9\nsearch a b\noptions ndots:1\n", PLAIN, {}, ["nameserver 9.9.9.9", "search a b", "options ndots:1"]),
        ("nameserver 127.0.0.53\n", PLAIN, {}, ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]),
        ("nameserver 127.0.0.53\n", HOST, {}, ["nameserver 127.0.0.53"]),
        ("nameserver ::1\nnameserver 2001:db8::1\nnameserver 9.9.9.9\n", PLAIN, {}, ["nameserver 9.9.9.9"]),
        ("nameserver 9.9.9.9\nsearch a\n", PLAIN, {"Dns": ["1.1.1.1"], "DnsSearch": ["."]}, ["nameserver 1.1.1.1"]),
        ("nameserver 9.9.9.9\n", PLAIN, {"Dns": ["127.0.0.1"]}, ["nameserver 127.0.0.1"]),
        ("nameserver 9.9.9.9\n", HOST, {"DnsSearch": ["x", "y"]}, ["nameserver 9.9.9.9", "search x y"]),
        ("nameserver 9.9.9.9\n", PLAIN, {"DnsOptions": ["rotate"]}, ["nameserver 9.9.9.9", "options rotate"]),
        ("nameserver 9.9.9.9\nsearch a\n", NAMED, {}, ["nameserver 127.0.0.11", "search a", "options ndots:0"]),
        ("nameserver 9.9.9.9\noptions edns0 ndots:2\n", NAMED, {}, ["nameserver 127.0.0.11", "options edns0 ndots:2"]),
        ("nameserver 9.9.9.9\noptions ndots:x\n", NAMED, {}, ["nameserver 127.0.0.11", "options ndots:0"]),
        ("; no\nnameserver\ndomain a\nsortlist 1.2.3.4\n", NAMED, {}, ["nameserver 127.0.0.11", "search a", "options ndots:0", "sortlist 1.2.3.4"]),
        ("options trust-ad\noptions rotate", PLAIN, {}, ["nameserver 8.8.8.8", "nameserver 8.8.4.4", "options trust-ad rotate"]),
    ],
)  # fmt: skip
def test_what_the_file_says(of_host: Path, text: str, place: Place, host: dict[str, object], expected: list[str]) -> None:
    of_host.write_text(text)
    assert body(made(place, **host)) == expected


@pytest.mark.parametrize(
    ("text", "ipv6", "host", "expected"),
    [
        ("nameserver 9.9.9.9\nnameserver 127.0.0.53\n", False, {}, "9.9.9.9 host(127.0.0.53)"),
        ("nameserver 2001:db8::1\n", False, {}, "host(2001:db8::1)"),
        ("nameserver 2001:db8::1\n", True, {}, "2001:db8::1"),
        ("nameserver fe80::1%eth0\n", True, {}, "host(fe80::1%eth0)"),
        ("nameserver 9.9.9.9\n", False, {"Dns": ["127.0.0.53"]}, "127.0.0.53"),
        ("", False, {}, "8.8.8.8 8.8.4.4"),
        ("", True, {}, f"8.8.8.8 8.8.4.4 {SIX[0]} {SIX[1]}"),
    ],
)
def test_who_is_asked_by_the_name_server(
    of_host: Path, text: str, ipv6: bool, host: dict[str, object], expected: str
) -> None:
    of_host.write_text(text)
    assert " ".join(map(str, made(NAMED, ipv6=ipv6, **host).upstreams)) == expected


def test_comments_say_where_it_is_from(of_host: Path) -> None:
    of_host.write_text("nameserver 127.0.0.1\nnameserver nonsense\n")
    assert comments(made(NAMED, DnsSearch=["x"], DnsOptions=["ndots:3"])) == [
        "# ExtServers: [host(127.0.0.1)]", "# Invalid nameservers: [nonsense]", "# Overrides: [search options]",
        "# Option ndots from: override",
    ]  # fmt: skip
    assert f"'{of_host}' (internal resolver)" in made(NAMED).text
    assert made(NAMED).text.endswith("# Option ndots from: internal\n")
    assert made(HOST).text.endswith(f"# Based on host file: '{of_host}'\n# Invalid nameservers: [nonsense]\n# Overrides: []\n")
    assert f"'{of_host}' (legacy)\n# Used default nameservers.\n" in made(PLAIN).text


def test_servers_behind_the_stub_of_systemd_resolved(of_host: Path) -> None:
    of_host.write_text("nameserver 127.0.0.53\n")
    of_host.with_name("resolved.conf").write_text("nameserver 192.0.2.1\n")
    assert body(made(PLAIN)) == ["nameserver 192.0.2.1"]
    assert body(made(HOST)) == ["nameserver 127.0.0.53"]
    assert [server.address for server in made(NAMED).upstreams] == ["192.0.2.1"]


def test_a_host_without_the_file() -> None:
    assert body(made(HOST)) == []
    assert body(made(PLAIN, ipv6=True)) == [f"nameserver {server}" for server in ("8.8.8.8", "8.8.4.4", *SIX)]


@pytest.mark.parametrize(("options", "dotted_only"), [([], False), (["ndots:0"], False), (["ndots:1"], True), (["ndots:" + "9" * 5000], True)])
def test_names_without_a_dot(options: list[str], dotted_only: bool) -> None:
    assert made(NAMED, DnsOptions=options).dotted_only is dotted_only


def test_an_edited_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolver.write(path, "one\n")
    inode = path.stat().st_ino
    resolver.write(path, "two\n")
    assert (path.read_text(), path.stat().st_ino) == ("two\n", inode)
    path.write_text("mine\n")
    resolver.write(path, "three\n")
    assert path.read_text() == "mine\n"


def test_a_file_that_a_container_made_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolver.write(path, "one\n")
    os.truncate(path, size := 1 << 40)  # a hole; who reads it has no memory left
    resolver.write(path, "two\n")
    assert path.stat().st_size == size
