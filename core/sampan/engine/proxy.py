"""The engine's proxy: published ports over IPv6 where the kernel cannot translate ([::1], and IPv6 to IPv4)."""

from __future__ import annotations

from sampan.engine.records import EndpointRecord


class Proxy:
    """Tells `sampan-netd` which endpoint's ports it passes on."""

    port = 0
    """Where it listens on every IPv6 address, TCP and UDP; 0 where there is none."""

    async def publish(self, endpoint: EndpointRecord) -> None:
        """Pass on to an endpoint's published ports from now on."""

    async def withdraw(self, endpoint_id: str) -> None:
        """Pass on nothing more to an endpoint. Idempotent."""
