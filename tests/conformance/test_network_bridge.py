from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from sampan.api.errors import Conflict, InvalidArgument, System
from sampan.api.network import Network, PortMapping, Subnet
from sampan.linux.netlink import Netlink, add_bridge, delete_link, set_link
from sampan.testing.namespaces import listen, reaches, unreachable
from sampan.testing.network import HOST, OUTSIDE, Lab, NetworkDriverSuite, address_of
from sampan.testing.network_ground import change
from sampan_network_bridge.driver import BridgeDriver
from sampan_network_bridge.firewall import Firewall
from sampan_network_bridge.links import veth_name

SWITCH = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
BRIDGE = "com.docker.network.bridge"


class TestBridge(NetworkDriverSuite):
    driver_class = BridgeDriver

    @pytest.mark.parametrize("seen", ["0", "1"])
    def test_without_icc_only_published_ports_are_reached(self, lab: Lab, seen: str) -> None:
        """Whether br_netfilter shows bridged packets to the table or not."""
        if lab.host.run(SWITCH.exists):
            lab.host.run(SWITCH.write_text, seen)
        elif seen == "1":
            pytest.skip("this kernel has no br_netfilter loaded")
        network = lab.network(options={f"{BRIDGE}.enable_icc": "false"})
        one, _, _ = lab.container(network)
        two, second, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
        with listen(two, 80) as server:
            assert unreachable(one, address_of(second), 80, server)
            assert reaches(one, HOST, 8080, server)
            assert reaches(two, HOST, 8080, server)

    def test_without_masquerade_the_own_address_is_seen(self, lab: Lab) -> None:
        network = lab.network(options={f"{BRIDGE}.enable_ip_masquerade": "false"})
        one, first, _ = lab.container(network)
        lab.outside.run(subprocess.run, ["ip", "route", "add", network.subnets[0].prefix, "via", HOST], check=True)
        with listen(lab.outside, 82) as server:
            assert reaches(one, OUTSIDE, 82, server) == address_of(first)

    def test_mtu_mac_and_host_binding(self, lab: Lab) -> None:
        options = {"com.docker.network.driver.mtu": "1400", f"{BRIDGE}.host_binding_ipv4": "127.0.0.1", f"{BRIDGE}.name": "br7"}
        network = lab.network(options=options, subnets=(Subnet("172.17.0.0/24", "172.17.0.1"),))
        sandbox, _, made = lab.container(network, ipv4="172.17.0.2/24", ports=(PortMapping("tcp", 80, 8080),))
        assert (made.mtu, made.mac) == (1400, "02:42:ac:11:00:02")
        with sandbox.run(Netlink) as kernel:
            eth0 = next(link for link in kernel.links() if link.name == "eth0")
        assert (eth0.mtu, eth0.mac) == (1400, "02:42:ac:11:00:02")
        assert "br7" in lab.host.links()
        with listen(sandbox, 80) as server:
            assert reaches(lab.host, "127.0.0.1", 8080, server)
            assert unreachable(lab.outside, HOST, 8080, server)

    def test_a_bad_option_makes_nothing(self, lab: Lab) -> None:
        before = lab.host.links()
        with pytest.raises(InvalidArgument, match="enable_icc"):
            lab.network(options={f"{BRIDGE}.enable_icc": "perhaps"})
        assert lab.host.links() == before

    def test_a_link_of_that_name_that_is_no_bridge(self, lab: Lab) -> None:
        with pytest.raises(Conflict, match="uplink"):
            lab.network(options={f"{BRIDGE}.name": "uplink"})

    def test_a_bridge_of_somebody_else_is_used_and_kept(self, lab: Lab) -> None:
        def make() -> None:
            with Netlink() as kernel:
                kernel.run(add_bridge("theirs"))

        lab.host.run(make)
        network = lab.network(options={f"{BRIDGE}.name": "theirs"})
        sandbox, endpoint, _ = lab.container(network)
        assert lab.check(network, endpoint, sandbox) == ()
        lab.detach(network, endpoint)
        lab.host.run(lab.driver.delete_network, network)
        assert "theirs" in lab.host.links()

    @pytest.mark.parametrize("name", ["10.0.0.9", "a;b{$c}", "-x", "ifname"])
    def test_a_bridge_may_have_an_odd_name(self, lab: Lab, name: str) -> None:
        """What is read back from the table is the same: the next daemon changes nothing."""
        network = lab.network(options={f"{BRIDGE}.name": name, f"{BRIDGE}.trusted_host_interfaces": "192.0.2.3"})
        sandbox, endpoint, _ = lab.container(network)
        assert lab.check(network, endpoint, sandbox) == ()
        lab.restart(network)
        assert lab.check(network, endpoint, sandbox) == ()
        lab.detach(network, endpoint)
        lab.host.run(lab.driver.delete_network, network)
        assert name not in lab.host.links()

    def test_a_network_that_cannot_be_made_whole_keeps_its_bridge(self, lab: Lab) -> None:
        """It was not when the driver opened, and is not for the next endpoint: those that are in it do not notice."""
        network = lab.network()
        lab.container(network)
        before = lab.host.links()
        lab.restart()
        lab.host.run(subprocess.run, ["nft", "flush ruleset; add table inet sampan_5a3bca7e"], check=True)
        with pytest.raises(System, match="nftables"):
            lab.attach(network, lab.endpoint(network), lab.namespace())
        assert lab.host.links() == before

    def test_another_engines_bridge_is_a_conflict(self, lab: Lab) -> None:
        lab.network(options={f"{BRIDGE}.name": "shared0"})
        other = lab.start(engine="0ther000")
        with pytest.raises(Conflict, match="5a3bca7e"):
            lab.host.run(other.create_network, Network("0c" * 32, "x", "bridge", (), False, {f"{BRIDGE}.name": "shared0"}))

    def test_a_link_of_somebody_else_by_an_endpoints_name_is_left_alone(self, lab: Lab) -> None:
        """Names have 15 bytes, so an engine with a like id may have it."""
        network = lab.network()
        endpoint = lab.endpoint(network)
        name = veth_name("5a3bca7e", endpoint.id)
        change(lab.host, add_bridge(name), set_link(name, alias="sampan 5a3b0000 bridge endpoint 77"))
        with pytest.raises(Conflict, match="5a3b0000"):
            lab.attach(network, endpoint, lab.namespace())
        lab.host.run(lab.driver.release, network, endpoint)
        lab.detach(network, endpoint)
        lab.restart(network)
        lab.host.run(lab.driver.gc, [network], [])
        assert name in lab.host.links()

    def test_a_port_costs_an_element_and_no_rule(self, lab: Lab) -> None:
        def rules() -> int:
            text = lab.host.run(subprocess.run, ["nft", "-a", "list", "ruleset"], capture_output=True, text=True).stdout
            return sum("# handle" in line and "{" not in line for line in text.splitlines())

        network = lab.network()
        before = rules()
        lab.container(network, ports=(PortMapping("tcp", 80, 20000, count=50), PortMapping("udp", 30000, 30000, count=500)))
        assert rules() == before > 0

    def test_check_finds_a_lost_table(self, lab: Lab) -> None:
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
        lab.host.run(subprocess.run, ["nft", "flush", "map", "inet", "sampan_5a3bca7e", "ports4"], check=True)
        assert lab.check(network, endpoint, sandbox) == ("port 8080/tcp is not published",)
        lab.driver = lab.start(network)
        lab.host.run(lab.driver.publish, network, endpoint, endpoint.ports)
        assert lab.check(network, endpoint, sandbox) == ()

    @pytest.mark.parametrize("loss", ["flush map inet sampan_5a3bca7e ports4", "flush ruleset"])
    def test_repair_publishes_what_is_lost(self, lab: Lab, loss: str) -> None:
        """While we run, as after a start: a flush by somebody else, of a map or of everything (`/etc/nftables.conf` does)."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080), PortMapping("tcp", 90, 90, count=3)))
        other, second, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8081),))
        assert lab.host.run(lab.driver.repair, network, endpoint) == ()
        lab.host.run(subprocess.run, ["nft", *loss.split()], check=True)
        assert lab.host.run(lab.driver.repair, network, endpoint)
        with listen(sandbox, 80) as server:
            assert reaches(lab.outside, HOST, 8080, server) == OUTSIDE
            lab.host.run(lab.driver.repair, network, second)
            assert reaches(other, HOST, 8080, server)
        assert lab.check(network, endpoint, sandbox) == lab.check(network, second, other) == ()
        assert lab.host.run(lab.driver.repair, network, endpoint) == ()

    def test_ports_mended_after_a_restart_are_the_endpoints_again(self, lab: Lab) -> None:
        """The daemon that mends them did not publish them: nobody else gets them, and they go with the endpoint."""
        network, port = lab.network(), PortMapping("tcp", 80, 8080)
        _, endpoint, _ = lab.container(network, ports=(port,))
        lab.host.run(subprocess.run, ["nft", "flush", "ruleset"], check=True)
        lab.restart(network)
        assert lab.host.run(lab.driver.repair, network, endpoint)
        with pytest.raises(Conflict, match="already allocated"):
            lab.container(network, ports=(port,))
        lab.detach(network, endpoint)
        other, second, _ = lab.container(network, ports=(port,))
        assert lab.check(network, second, other) == ()

    def test_a_sandbox_waits_while_its_bridge_is_made_again(self, lab: Lab) -> None:
        """Its link is in no bridge then, and no use."""
        network = lab.describe()
        before = lab.host.links()
        lab.host.run(lab.driver.create_network, network)
        (bridge,) = lab.host.links() - before
        sandbox, endpoint = lab.namespace(), lab.endpoint(network)
        lab.host.run(lab.driver.prepare, network, endpoint, sandbox.fd)
        change(lab.host, delete_link(bridge))
        lab.restart(network)
        lab.attach(network, endpoint, sandbox)
        assert lab.check(network, endpoint, sandbox) == ()

    def test_a_released_link_goes_by_itself_and_after_a_crash_by_a_sweep(self, lab: Lab) -> None:
        """Though its sandbox lives on: then the kernel leaves it to us."""
        network = lab.network()
        sandbox, endpoint, made = lab.container(network)
        lab.host.run(lab.driver.release, network, endpoint)
        assert any(made.host_interface in text for text in lab.host.run(lab.start(network).gc, [network], []))
        assert sandbox.links() == {"lo"}
        other, second, _ = lab.container(network)
        lab.host.run(lab.driver.release, network, second)
        lab.host.run(lab.driver.close)  # waits for what it owes
        assert other.links() == {"lo"}

    @pytest.mark.parametrize("action", ["attach", "publish", "create"])
    def test_whoever_comes_after_a_flush_gets_all_of_the_table_back(self, lab: Lab, action: str) -> None:
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080), PortMapping("tcp", 90, 90, count=3)))
        other, second, _ = lab.container(network)
        lab.host.run(subprocess.run, ["nft", "flush", "ruleset"], check=True)
        assert lab.check(network, endpoint, sandbox)
        if action == "attach":
            lab.container(network)
        elif action == "publish":
            lab.host.run(lab.driver.publish, network, second, (PortMapping("tcp", 80, 8081),))
        else:
            lab.network()
        assert lab.check(network, endpoint, sandbox) == lab.check(network, second, other) == ()
        with listen(sandbox, 80) as server:
            assert reaches(lab.outside, HOST, 8080, server) == OUTSIDE

    def test_the_table_is_read_again_only_after_a_change_of_anybody(self, lab: Lab) -> None:
        """A restart asks about every endpoint: each time the whole table would be a minute for a thousand."""

        def read_twice() -> tuple[bool, int]:
            one, other = firewall.published(), firewall.published()
            return one is other, len(one)

        network = lab.network()
        lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
        firewall = lab.host.run(Firewall, "5a3bca7e")
        assert lab.host.run(read_twice) == (True, 1)
        lab.host.run(subprocess.run, ["nft", "flush", "map", "inet", "sampan_5a3bca7e", "ports4"], check=True)
        assert lab.host.run(read_twice) == (True, 0)
        firewall.close()

    def test_gc_leaves_nothing_of_a_forgotten_network_in_the_table(self, lab: Lab) -> None:
        network, forgotten = lab.network(versions=(4, 6)), lab.describe(versions=(4, 6))

        def table() -> str:
            return str(lab.host.run(subprocess.run, ["nft", "list", "ruleset"], capture_output=True, text=True).stdout)

        before = table()
        lab.host.run(lab.driver.create_network, forgotten)
        assert table() != before
        lab.host.run(lab.driver.gc, [network], [])
        assert table() == before

    def test_without_its_table_it_takes_away_and_mends(self, lab: Lab) -> None:
        """Somebody flushed all tables of the host: what goes is gone, what stays is told and made again."""
        network, going = lab.network(), lab.network()
        sandbox, endpoint, _ = lab.container(network)
        _, leaving, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
        lab.host.run(subprocess.run, ["nft", "flush", "ruleset"], check=True)
        assert any("missing in table sampan_5a3bca7e" in line for line in lab.check(network, endpoint, sandbox))
        for _ in range(2):
            lab.detach(network, leaving)
            lab.host.run(lab.driver.delete_network, going)
        assert lab.host.run(lab.driver.repair, network, endpoint) == (f"network {network.name} in table sampan_5a3bca7e",)
        assert lab.check(network, endpoint, sandbox) == ()
        assert lab.host.run(lab.driver.repair, network, endpoint) == ()
        with listen(lab.outside, 82) as server:
            assert reaches(sandbox, OUTSIDE, 82, server) == HOST
        lab.container(network, ports=(PortMapping("tcp", 80, 8080),))

    def test_the_machines_own_kernel_view_agrees(self, lab: Lab) -> None:
        """Our netlink code is judged by somebody else's: pyroute2 sees what `attach` says it made."""
        import pyroute2
        network = lab.network()
        sandbox, endpoint, made = lab.container(network)

        def look() -> dict[str, object]:
            with pyroute2.IPRoute() as kernel:
                index = kernel.link_lookup(ifname="eth0")[0]
                link = kernel.get_links(index)[0]
                return {
                    "mac": link.get("address"),
                    "mtu": link.get("mtu"),
                    "state": link.get("operstate"),
                    "address": [f"{a.get('address')}/{a['prefixlen']}" for a in kernel.get_addr(index=index, family=2)],
                    "gateway": [r.get("gateway") for r in kernel.get_default_routes(family=2)],
                }

        assert sandbox.run(look) == {
            "mac": made.mac, "mtu": made.mtu, "state": "UP", "address": [endpoint.ipv4],
            "gateway": [network.subnets[0].gateway],
        }  # fmt: skip

    def test_a_client_that_keeps_sending_finds_the_next_container(self, lab: Lab) -> None:
        network, port = lab.network(), PortMapping("udp", 53, 5300)
        one, first, _ = lab.container(network, ports=(port,))
        with lab.outside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((HOST, 5300))
            with listen(one, 53, protocol="udp") as server:
                client.send(b"to one")
                assert server.recv(16) == b"to one"
            lab.detach(network, first)
            two, _, _ = lab.container(network, ports=(port,))
            with listen(two, 53, protocol="udp") as server:
                client.send(b"to two")
                assert server.recv(16) == b"to two"

    @pytest.mark.parametrize("count", [1, 30])
    def test_a_client_that_kept_sending_to_nobody_is_heard(self, lab: Lab, count: int) -> None:
        """Few ports and many: the kernel is asked in another way."""
        network = lab.network()
        with lab.outside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
            for port in (5300, 5300 + count - 1):
                client.sendto(b"to nobody", (HOST, port))
            one, _, _ = lab.container(network, ports=(PortMapping("udp", 53, 5300, count=count),))
            for port in (5300, 5300 + count - 1):
                with listen(one, port - 5300 + 53, protocol="udp") as server:
                    client.sendto(b"to one", (HOST, port))
                    assert server.recv(16) == b"to one"
