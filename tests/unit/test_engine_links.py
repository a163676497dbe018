from __future__ import annotations

from ground.records import container_record
from sampan.engine.links import Link, environment, host_lines
from sampan.engine.records import EndpointRecord


def link(ports: tuple[str, ...] = (), ipv6: str | None = None) -> Link:
    target = container_record(name="db", ExposedPorts={port: {} for port in ports}, Env=["PATH=/bin", "USER=me", "bad"])
    endpoint = EndpointRecord(id="e", network_id="n", container_id=target.id, ipv4="172.17.0.2/16", ipv6=ipv6)
    return Link("data-base", target, endpoint)


def test_host_lines() -> None:
    assert host_lines([link()]) == ["172.17.0.2\tdata-base c0ffee000000 db"]
    assert host_lines([link(ipv6="fd00::2/64")])[1] == "fd00::2\tdata-base c0ffee000000 db"


def test_environment() -> None:
    assert environment("web", [link()]) == ["DATA_BASE_NAME=/web/data-base", "DATA_BASE_ENV_USER=me"]
    found = environment("web", [link(("81/tcp", "53/udp", "80/tcp"))])
    assert found[:5] == [
        "DATA_BASE_PORT=tcp://172.17.0.2:80",
        "DATA_BASE_PORT_80_TCP=tcp://172.17.0.2:80",
        "DATA_BASE_PORT_80_TCP_ADDR=172.17.0.2",
        "DATA_BASE_PORT_80_TCP_PORT=80",
        "DATA_BASE_PORT_80_TCP_PROTO=tcp",
    ]
    assert {"DATA_BASE_PORT_80_TCP_START=tcp://172.17.0.2:80", "DATA_BASE_PORT_80_TCP_PORT_END=81"} <= set(found)
    assert "DATA_BASE_PORT_53_UDP_PROTO=udp" in found
    assert not any("53_UDP_START" in item for item in found)
