"""Flows are forgotten in the namespace that was meant, by a socket that stays. What comes of it is seen by the network suite."""

from __future__ import annotations

import os
import socket

import pytest

from sampan.linux.conntrack import Flows
from sampan.linux.namespaces import call_in_netns, new_netns


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs CAP_SYS_ADMIN")
def test_flows_are_forgotten_by_a_socket_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    netns = new_netns()
    flows = call_in_netns(netns, Flows)
    try:
        monkeypatch.setattr(socket, "socket", None)  # closing one waits until the kernel has freed what nftables deleted
        for _ in range(3):
            flows.forget_to("10.0.0.2")
            flows.forget_to("fd00::2")
            flows.forget_sent_to(4, socket.IPPROTO_UDP, {53, 54})
        flows.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            flows.forget_to("10.0.0.2")
    finally:
        flows.close()
        os.close(netns)
