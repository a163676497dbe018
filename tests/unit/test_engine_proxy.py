from __future__ import annotations

from sampan.engine.proxy import passages
from sampan.engine.records import EndpointRecord


def endpoint(*ports: tuple[str, int, int, str, int], ipv6: str | None = None) -> EndpointRecord:
    return EndpointRecord(id="e", network_id="n", container_id="c", ipv4="172.17.0.2/16", ipv6=ipv6, ports=list(ports))


def test_what_ipv6_may_ask_for_is_passed_on() -> None:
    """Not what is published on an IPv4 address, nor SCTP."""
    ports = [("tcp", 80, 8080, "", 1), ("udp", 90, 9000, "::1", 5), ("tcp", 1, 1, "127.0.0.1", 1), ("tcp", 2, 2, "0.0.0.0", 1),
             ("tcp", 3, 3, "::", 1), ("tcp", 4, 4, "2001:DB8::1", 1), ("sctp", 5, 5, "", 1)]  # fmt: skip
    assert passages(endpoint(*ports)) == [
        ("tcp", "", 8080, 1, "172.17.0.2", 80),
        ("udp", "::1", 9000, 5, "172.17.0.2", 90),
        ("tcp", "", 3, 1, "172.17.0.2", 3),
        ("tcp", "2001:db8::1", 4, 1, "172.17.0.2", 4),
    ]


def test_to_a_container_with_ipv6_it_goes_over_ipv6() -> None:
    assert passages(endpoint(("tcp", 80, 8080, "", 1), ipv6="fd00::2/64")) == [("tcp", "", 8080, 1, "fd00::2", 80)]
