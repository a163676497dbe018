from __future__ import annotations

import os
from pathlib import Path

import pytest

from ground.records import container_record
from sampan.api.errors import InvalidArgument
from sampan.engine import files
from sampan.engine.records import EndpointRecord

OURSELVES = (os.getuid(), os.getgid())

ENDPOINT = EndpointRecord(id="e", network_id="n", container_id="c", ipv4="10.0.0.7/24")


def hosts(host_network: bool = False, gateways: tuple[str, ...] = ("10.0.0.1",), **host: object) -> list[str]:
    record = container_record(host=host, Domainname="example.org")
    return files.hosts(record, [ENDPOINT], host_network=host_network, gateways=gateways).splitlines()


def test_hosts() -> None:
    lines = hosts(ExtraHosts=["peer:10.1.1.1", "six:fe80::1", "up:host-gateway"])
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-4:] == [
        "10.1.1.1\tpeer", "fe80::1\tsix", "10.0.0.1\tup", "10.0.0.7\tc0ffee000000.example.org c0ffee000000",
    ]  # fmt: skip


def test_a_host_name_with_a_domain_is_found_without_it_too() -> None:
    lines = files.hosts(container_record(Hostname="keel.example.org"), [ENDPOINT], host_network=False, gateways=()).splitlines()
    assert lines[-1] == "10.0.0.7\tkeel.example.org keel"


def test_hosts_of_the_host() -> None:
    lines = hosts(host_network=True, ExtraHosts=["peer:10.1.1.1"])
    assert lines == [*Path("/etc/hosts").read_text().rstrip("\n").splitlines(), "10.1.1.1\tpeer"]


@pytest.mark.parametrize(("content", "expected"), [(b"10.9.9.9\tcaf\xe9\n", b"10.9.9.9\tcaf\xe9\n"), (None, b"127.0.0.1\tlocalhost\n")])
def test_hosts_of_a_host_without_the_file_or_of_another_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, expected: bytes
) -> None:
    monkeypatch.setattr(files, "HOST_HOSTS", tmp_path / "hosts")
    if content is not None:
        (tmp_path / "hosts").write_bytes(content)
    bound = files.write_files(
        tmp_path / "files", container_record(), [], host_network=True, gateways=(), resolv_conf="nameserver 10.0.0.1\n", owner=OURSELVES
    )
    assert bound["/etc/hosts"].read_bytes().startswith(expected)


def test_bad_extra_hosts() -> None:
    with pytest.raises(InvalidArgument, match="invalid extra host 'peer'"):
        hosts(ExtraHosts=["peer"])
    with pytest.raises(InvalidArgument, match="has no gateway"):
        hosts(gateways=(), ExtraHosts=["up:host-gateway"])


def test_written_files_are_readable_by_all(tmp_path: Path) -> None:
    found = files.write_files(
        tmp_path / "f", container_record(), [ENDPOINT], host_network=False, gateways=(), resolv_conf="", owner=OURSELVES
    )
    assert set(found) == {"/.dockerenv", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
    assert found["/etc/hostname"].read_text() == "c0ffee000000\n"
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in found.values())
