"""Names in sandboxes: real queries, by another implementation of DNS, in network namespaces of the test's own."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dnslib import AAAA, EDNS0, QTYPE, RCODE, RR, TXT, A, DNSRecord

from ground import dns
from ground.dns import World, ask_by_tcp, ask_by_udp, look_up, question
from ground.netd import netds
from ground.waiting import wait_until
from sampan.engine.discovery import Discovery, Member, Sandbox, Upstream
from sampan.engine.netd import Netd
from sampan.linux.netlink import Netlink, add_address, add_veth, link_index, replace_route, set_link
from sampan.netd.door import open_door
from sampan.netd.names import Names
from sampan.netd.nameserver import NameServer, Room
from sampan.netd.outside import Outside
from sampan.testing.namespaces import Namespace

WEB = Member("c1" * 32, ("web", "www", "c1c1c1c1c1c1"), ("10.1.0.2", "fd00::2"))
DB = Member("c2" * 32, ("db", "store.example.com", "c2c2c2c2c2c2"), ("10.1.0.3",))
SERVERS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")


class Engine:
    """The part of an engine that has to do with names, on a loop of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.netd: Netd = self.run(self._make())

    async def _make(self) -> Netd:
        netd = Netd(self.state)
        self.discovery = Discovery(netd)
        return netd

    def run(self, work: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]

    def serve(self, sandbox: Sandbox, where: Namespace) -> None:
        """Serve, and wait for sampan-netd, as no start does."""
        self.run(self.discovery.serve(sandbox, where.fd))
        wait_until(lambda: self.netd.connected, "sampan-netd is there")

    def join(self, *members: Member, network: str = "n1") -> None:
        for member in members:
            self.run(self.discovery.join(network, member))

    def end(self) -> None:
        """Let go, as the death of a daemon does: sampan-netd goes on."""
        self.discovery.close()
        self.run(self.netd.close())

    def close(self) -> None:
        for container_id in ("c9" * 32, "c8" * 32):
            self.run(self.discovery.forget(container_id))
        self.end()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def engine(tmp_path: Path, stack: ExitStack) -> Engine:
    engine = Engine(tmp_path)
    stack.callback(lambda: wait_until(lambda: not netds(tmp_path), "sampan-netd ends"))
    stack.callback(engine.close)
    return engine


@pytest.fixture
def box(stack: ExitStack) -> Namespace:
    return sandbox(stack)


def sandbox(stack: ExitStack) -> Namespace:
    """Make a sandbox with its loopback up, and an `outside` link to a world that has the addresses of SERVERS."""
    made, world = Namespace(), Namespace()
    stack.callback(made.close)
    stack.callback(world.close)

    def near() -> None:
        with Netlink() as kernel:
            kernel.run(set_link("lo", up=True), add_veth("outside", peer="wire", netns=world.fd))
            index = link_index("outside")
            kernel.run(
                add_address(index, "192.0.2.9/24"), set_link(index, up=True),
                replace_route("0.0.0.0/0", gateway="192.0.2.1", index=index),
            )  # fmt: skip

    def far() -> None:
        with Netlink() as kernel:
            index = link_index("wire")
            kernel.run(
                *(add_address(index, f"{address}/24") for address in SERVERS), set_link(index, up=True), set_link("lo", up=True)
            )

    made.run(near)
    world.run(far)
    made.world = world  # type: ignore[attr-defined]
    return made


def serve_world(stack: ExitStack, box: Namespace, address: str, reply: dns.Reply) -> World:
    server = box.world.run(World, address, reply)  # type: ignore[attr-defined]
    stack.callback(server.close)
    return server  # type: ignore[no-any-return]


def with_address(address: str) -> dns.Reply:
    def reply(query: DNSRecord, transport: str) -> bytes:
        answer = query.reply()
        answer.add_answer(RR(query.q.qname, QTYPE.A, ttl=60, rdata=A(address)))
        return bytes(answer.pack())

    return reply


def with_code(code: str) -> dns.Reply:
    def reply(query: DNSRecord, transport: str) -> bytes:
        answer = query.reply()
        answer.header.rcode = getattr(RCODE, code)
        return bytes(answer.pack())

    return reply


def silent(query: DNSRecord, transport: str) -> None:
    return None


def served(*servers: str, **changes: Any) -> Sandbox:
    return Sandbox(
        "c9" * 32, ("n1",), servers=tuple(Upstream(server) for server in servers), network_names={"n1": "front"}, **changes
    )


# ---------------------------------------------------------------------- names


def test_members_are_found_by_all_their_names(engine: Engine, box: Namespace) -> None:
    engine.join(WEB, DB)
    engine.serve(served(), box)
    for name in ("web", "www", "c1c1c1c1c1c1", "WEB", "web.front", "Web.Front."):
        assert box.run(look_up, name) == ["10.1.0.2"], name
    assert box.run(look_up, "web", "AAAA") == ["fd00::2"]
    assert box.run(look_up, "store.example.com") == ["10.1.0.3"]
    assert sorted(box.run(look_up, "web", "ANY")) == ["10.1.0.2", "fd00::2"]


def test_what_a_known_name_does_not_have_is_no_data(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    outside = serve_world(stack, box, SERVERS[0], with_code("NXDOMAIN"))
    engine.join(DB)
    engine.serve(served(SERVERS[0]), box)
    for kind in ("AAAA", "MX", "TXT", "SRV", "HTTPS"):
        assert box.run(look_up, "db", kind) == []
    assert outside.queries == []


def test_reverse(engine: Engine, box: Namespace) -> None:
    engine.join(WEB, DB)
    engine.serve(served(), box)
    assert box.run(look_up, "2.0.1.10.in-addr.arpa", "PTR") == ["web.front."]
    nibbles = ".".join(reversed(socket.inet_pton(socket.AF_INET6, "fd00::2").hex()))
    assert box.run(look_up, f"{nibbles}.ip6.arpa", "PTR") == ["web.front."]


def test_members_of_one_name_take_turns(engine: Engine, box: Namespace) -> None:
    engine.join(*(Member(f"d{i}" * 32, (f"w{i}", "all"), (f"10.1.0.1{i}",)) for i in range(3)))
    engine.serve(served(), box)
    answers = [tuple(box.run(look_up, "all")) for _ in range(6)]
    assert all(sorted(answer) == ["10.1.0.10", "10.1.0.11", "10.1.0.12"] for answer in answers)
    assert {answer[0] for answer in answers} == {"10.1.0.10", "10.1.0.11", "10.1.0.12"}


def test_many_addresses_are_truncated_by_udp_and_whole_by_tcp(engine: Engine, box: Namespace) -> None:
    engine.join(*(Member(f"{i:064x}", (f"w{i}", "all"), (f"10.1.{i // 250}.{i % 250 + 1}",)) for i in range(600)))
    engine.serve(served(), box)
    short = DNSRecord.parse(box.run(ask_by_udp, question("all").pack()))
    assert (short.header.tc, 25 < len(short.rr) < 32) == (1, True)
    whole = DNSRecord.parse(box.run(ask_by_tcp, question("all").pack()))
    assert (whole.header.tc, len(whole.rr)) == (0, 600)
    query = question("all")
    query.add_ar(EDNS0(udp_len=1232))
    larger = box.run(ask_by_udp, query.pack())
    assert 1200 < len(larger) <= 1232
    assert DNSRecord.parse(larger).ar[0].rtype == QTYPE.OPT


def test_changes_are_answered_at_once(engine: Engine, box: Namespace) -> None:
    engine.join(WEB)
    engine.serve(served(), box)
    assert box.run(look_up, "web") == ["10.1.0.2"]
    engine.join(Member(WEB.container_id, ("renamed",), ("10.1.0.9",)))
    engine.serve(served(), box)
    assert box.run(look_up, "renamed") == ["10.1.0.9"]
    assert DNSRecord.parse(box.run(ask_by_udp, question("web").pack())).header.rcode != 0
    engine.join(DB, network="n2")
    engine.serve(Sandbox("c9" * 32, ("n1", "n2"), links={"database": "db"}), box)
    assert (box.run(look_up, "db"), box.run(look_up, "database")) == (["10.1.0.3"], ["10.1.0.3"])
    engine.run(engine.discovery.leave("n2", DB.container_id))
    engine.serve(Sandbox("c9" * 32, ("n1", "n2"), links={"database": "db"}), box)
    assert DNSRecord.parse(box.run(ask_by_udp, question("database").pack())).header.rcode != 0


def test_networks_are_asked_in_order_and_others_not_at_all(engine: Engine, box: Namespace) -> None:
    engine.join(Member("a" * 64, ("same",), ("10.1.0.1",)), network="n1")
    engine.join(Member("b" * 64, ("same",), ("10.2.0.1",)), network="n2")
    engine.join(Member("c" * 64, ("secret",), ("10.3.0.1",)), network="n3")
    engine.serve(Sandbox("c9" * 32, ("n2", "n1"), network_names={"n1": "one", "n2": "two"}, forwards=False), box)
    assert box.run(look_up, "same") == ["10.2.0.1"]
    assert box.run(look_up, "same.one") == ["10.1.0.1"]
    assert DNSRecord.parse(box.run(ask_by_udp, question("secret").pack())).header.rcode == RCODE.SERVFAIL
    assert DNSRecord.parse(box.run(ask_by_udp, question("1.0.3.10.in-addr.arpa", "PTR").pack())).header.rcode == 2


def test_a_server_of_the_containers_own_on_port_53(engine: Engine, box: Namespace) -> None:
    engine.join(WEB)
    engine.serve(served(), box)

    def own() -> list[socket.socket]:
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        udp.bind(("0.0.0.0", 53))
        tcp.bind(("0.0.0.0", 53))
        return [udp, tcp]

    for sock in box.run(own):
        stack_close = sock.close
        assert box.run(look_up, "web") == ["10.1.0.2"]
        stack_close()


def test_port_taken_by_a_process_of_the_container(engine: Engine, box: Namespace) -> None:
    from sampan.netd.door import PORT

    def own() -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", PORT))
        return udp

    with box.run(own):
        engine.join(WEB)
        engine.serve(served(), box)
        assert box.run(look_up, "web") == ["10.1.0.2"]


# ---------------------------------------------------------------------- the world


def test_the_world_is_asked_from_the_sandbox(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    outside = serve_world(stack, box, SERVERS[0], with_address("203.0.113.5"))
    engine.serve(served(SERVERS[0]), box)
    query = question("example.org")
    query.add_ar(EDNS0(flags="do", udp_len=1400))
    for _ in range(8):
        assert str(DNSRecord.parse(box.run(ask_by_udp, query.pack())).rr[0].rdata) == "203.0.113.5"
    assert all(client[0] == "192.0.2.9" for _, client, _ in outside.queries)
    assert len({client[1] for _, client, _ in outside.queries}) > 4
    ids = {asked.header.id for _, _, asked in outside.queries}
    assert len(ids) > 4
    assert query.header.id not in ids or len(ids) > 4
    assert all(asked.ar[0].edns_len == 1400 and asked.ar[0].edns_do for _, _, asked in outside.queries)


def test_a_server_on_the_hosts_loopback(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    engine.serve(Sandbox("c9" * 32, ("n1",), servers=(Upstream("127.0.0.77", from_host=True),)), box)
    stack.enter_context(dns.world("127.0.0.77", with_address("203.0.113.6")))
    assert box.run(look_up, "example.org") == ["203.0.113.6"]


def test_the_next_server_is_asked_when_one_fails_or_is_silent(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    servers = [
        serve_world(stack, box, SERVERS[0], silent),
        serve_world(stack, box, SERVERS[1], with_code("SERVFAIL")),
        serve_world(stack, box, SERVERS[2], with_address("203.0.113.7")),
    ]
    engine.serve(served(*SERVERS), box)
    assert box.run(look_up, "example.org") == ["203.0.113.7"]
    assert [len(server.queries) for server in servers] == [1, 1, 1]


def test_a_lost_packet_is_sent_again(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    once: list[int] = []

    def forgetful(query: DNSRecord, transport: str) -> bytes | None:
        once.append(1)
        return with_address("203.0.113.8")(query, transport) if len(once) > 1 else None  # type: ignore[return-value]

    serve_world(stack, box, SERVERS[0], forgetful)
    engine.serve(served(SERVERS[0]), box)
    assert box.run(look_up, "example.org") == ["203.0.113.8"]


def test_a_name_that_is_not_there_is_an_answer(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    serve_world(stack, box, SERVERS[0], with_code("NXDOMAIN"))
    second = serve_world(stack, box, SERVERS[1], with_address("203.0.113.9"))
    engine.serve(served(*SERVERS[:2]), box)
    assert DNSRecord.parse(box.run(ask_by_udp, question("example.org").pack())).header.rcode == RCODE.NXDOMAIN
    assert second.queries == []


def test_all_servers_failing_is_told_at_once(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    serve_world(stack, box, SERVERS[0], with_code("REFUSED"))
    engine.serve(served(SERVERS[0], SERVERS[1]), box)  # nobody listens on the second
    assert DNSRecord.parse(box.run(ask_by_udp, question("example.org").pack())).header.rcode == RCODE.REFUSED
    engine.serve(served(SERVERS[1]), box)
    assert DNSRecord.parse(box.run(ask_by_udp, question("example.org").pack())).header.rcode == RCODE.SERVFAIL


def test_answers_are_checked(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    """Another id, another question, no answer at all, and then the right one."""

    def forged(query: DNSRecord, transport: str) -> list[bytes]:
        right = with_address("203.0.113.10")(query, transport)
        assert isinstance(right, bytes)
        other_id = bytes([right[0] ^ 1]) + right[1:]
        other_name = with_address("203.0.113.66")(question("evil.org"), transport)
        assert isinstance(other_name, bytes)
        return [b"", b"\0", other_id, query.header.id.to_bytes(2) + other_name[2:], bytes(query.pack()), right]

    serve_world(stack, box, SERVERS[0], forged)
    engine.serve(served(SERVERS[0]), box)
    assert box.run(look_up, "example.org") == ["203.0.113.10"]


def long_text(query: DNSRecord, transport: str) -> bytes:
    answer = query.reply()
    if transport == "udp":
        answer.header.tc = 1
    else:
        for _ in range(5):
            answer.add_answer(RR(query.q.qname, QTYPE.TXT, ttl=60, rdata=TXT(b"x" * 200)))
    return bytes(answer.pack())


def test_truncated_answers(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    outside = serve_world(stack, box, SERVERS[0], long_text)
    engine.serve(served(SERVERS[0]), box)
    short = DNSRecord.parse(box.run(ask_by_udp, question("example.org", "TXT").pack()))
    assert (short.header.tc, short.rr) == (1, [])
    assert len(DNSRecord.parse(box.run(ask_by_tcp, question("example.org", "TXT").pack())).rr) == 5
    query = question("example.org", "TXT")
    query.add_ar(EDNS0(udp_len=4096))
    assert len(DNSRecord.parse(box.run(ask_by_udp, query.pack())).rr) == 5
    assert [transport for transport, _, _ in outside.queries] == ["udp", "tcp", "tcp", "udp", "tcp"]


def test_names_that_are_not_asked_outside(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    outside = serve_world(stack, box, SERVERS[0], with_address("203.0.113.11"))
    engine.serve(served(SERVERS[0], dotted_only=True), box)
    assert box.run(look_up, "single") == []
    assert box.run(look_up, "two.words") == ["203.0.113.11"]
    engine.serve(served(SERVERS[0], forwards=False), box)
    answer = DNSRecord.parse(box.run(ask_by_udp, question("two.words").pack()))
    assert answer.header.rcode == RCODE.SERVFAIL
    assert len(outside.queries) == 1


def test_a_server_that_is_ourselves_is_left_out(engine: Engine, box: Namespace) -> None:
    engine.serve(served("127.0.0.11"), box)
    assert DNSRecord.parse(box.run(ask_by_udp, question("example.org").pack())).header.rcode == RCODE.SERVFAIL


# ---------------------------------------------------------------------- deaths


def test_queries_wait_while_sampan_netd_starts(engine: Engine, box: Namespace) -> None:
    engine.join(WEB)
    engine.run(engine.discovery.serve(served(), box.fd))
    assert box.run(look_up, "web") == ["10.1.0.2"]
    assert str(DNSRecord.parse(box.run(ask_by_tcp, question("web").pack())).rr[0].rdata) == "10.1.0.2"


def test_a_start_that_is_cancelled_leaves_no_descriptor(engine: Engine, box: Namespace) -> None:
    engine.serve(served(), box)
    engine.run(engine.discovery.forget("c9" * 32))

    async def cancelled() -> None:
        task = asyncio.create_task(engine.discovery.serve(served(), box.fd))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = len(os.listdir("/proc/self/fd"))
    engine.run(cancelled())
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before, "its sockets are closed")
    engine.join(WEB)
    engine.serve(served(), box)
    assert box.run(look_up, "web") == ["10.1.0.2"]



def test_queries_wait_while_sampan_netd_is_away(engine: Engine, box: Namespace) -> None:
    engine.join(WEB)
    engine.serve(served(), box)
    (pid,) = netds(engine.state)
    sock = box.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(15)
        box.run(sock.connect, dns.NAMESERVER)
        for turn in range(20):
            if turn == 10:
                os.kill(pid, signal.SIGKILL)
            sock.send(question("web").pack())
            assert str(DNSRecord.parse(sock.recv(4096)).rr[0].rdata) == "10.1.0.2"
    assert pid not in netds(engine.state)


def test_names_go_on_without_a_daemon_and_are_taken_over(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    other = sandbox(stack)
    engine.join(WEB, DB)
    engine.serve(served(), box)
    engine.serve(Sandbox("c8" * 32, ("n1",)), other)
    pids = netds(engine.state)
    engine.end()
    assert box.run(look_up, "web") == ["10.1.0.2"]
    new = Engine(engine.state)
    stack.callback(new.close)
    new.join(WEB)
    new.serve(served(), box)
    assert box.run(look_up, "db") == ["10.1.0.3"]  # not told yet, so not forgotten
    new.run(new.discovery.settle())
    assert netds(engine.state) == pids
    assert box.run(look_up, "web") == ["10.1.0.2"]
    assert DNSRecord.parse(box.run(ask_by_udp, question("db").pack())).header.rcode == RCODE.SERVFAIL
    with pytest.raises(OSError):  # its sandbox is nobody's any more
        other.run(ask_by_udp, question("web").pack(), dns.NAMESERVER, 0.3)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: netds(engine.state) not in ([], pids) and new.netd.connected, "another sampan-netd serves")
    assert box.run(look_up, "web") == ["10.1.0.2"]


def test_a_daemon_and_its_netd_die_together(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    engine.join(WEB)
    engine.serve(served(), box)
    pids = netds(engine.state)
    engine.end()
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: not netds(engine.state), "it is gone")
    new = Engine(engine.state)
    stack.callback(new.close)
    new.join(WEB)
    new.serve(served(), box)
    new.run(new.discovery.settle())
    assert box.run(look_up, "web") == ["10.1.0.2"]


def test_a_daemon_that_ends_leaves_nothing_when_nobody_is_served(engine: Engine, box: Namespace) -> None:
    engine.serve(served(), box)
    engine.run(engine.discovery.forget("c9" * 32))
    assert netds(engine.state)
    engine.run(engine.netd.close())
    wait_until(lambda: not netds(engine.state), "sampan-netd ends")


def test_what_was_told_last_is_done_though_the_answers_before_were_not_read(engine: Engine, box: Namespace) -> None:
    engine.serve(served(), box)

    async def end_in_a_hurry() -> None:
        for _ in range(20):
            engine.netd.tell("hello")
        time.sleep(0.3)  # the answers come, and this loop does not read them
        os.kill(pid, signal.SIGSTOP)
        await engine.discovery.forget("c9" * 32)
        await engine.netd.close()

    (pid,) = netds(engine.state)
    engine.run(end_in_a_hurry())
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not netds(engine.state), "sampan-netd ends")


# ---------------------------------------------------------------------- abuse

HOSTILE = {
    "nothing": b"",
    "short": b"\x12\x34\x01",
    "no question": struct.pack("!6H", 1, 0x0100, 0, 0, 0, 0),
    "many questions": struct.pack("!6H", 2, 0x0100, 0xFFFF, 0, 0, 0) + b"\x01a\0\0\1\0\1" * 50,
    "pointer to itself": struct.pack("!6H", 3, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
    "pointer past the end": struct.pack("!6H", 4, 0x0100, 1, 0, 0, 0) + b"\xff\xff\0\1\0\1",
    "name without end": struct.pack("!6H", 5, 0x0100, 1, 0, 0, 0) + b"\x3f" + b"a" * 63 + b"\x3f",
    "name too long": struct.pack("!6H", 6, 0x0100, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1",
    "label of 64": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
    "an answer": struct.pack("!6H", 8, 0x8180, 1, 0, 0, 0) + b"\x01a\0\0\1\0\1",
    "update": struct.pack("!6H", 9, 0x2800, 1, 0, 0, 0) + b"\x01a\0\0\6\0\1",
    "many records promised": struct.pack("!6H", 10, 0x0100, 1, 0, 0, 0xFFFF) + b"\x03web\0\0\1\0\1" + b"\0\0\x29",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_messages_hurt_nobody(engine: Engine, box: Namespace, data: bytes) -> None:
    engine.join(WEB)
    engine.serve(served(), box)
    pids = netds(engine.state)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.create_connection(dns.NAMESERVER) as tcp:
            udp.sendto(data, dns.NAMESERVER)
            tcp.sendall(struct.pack("!H", len(data)) + data)

    box.run(send)
    assert box.run(look_up, "web") == ["10.1.0.2"]
    assert netds(engine.state) == pids


def test_tcp_clients_that_stall_do_not_hold_up_others(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    engine.join(WEB)
    engine.serve(served(), box)
    other = sandbox(stack)
    engine.serve(Sandbox("c8" * 32, ("n1",)), other)
    for _ in range(100):
        sock = box.run(socket.create_connection, dns.NAMESERVER)
        stack.callback(sock.close)
        sock.sendall(b"\xff\xff half of it")
    assert box.run(look_up, "web") == ["10.1.0.2"]
    query = question("web").pack()
    assert str(DNSRecord.parse(other.run(ask_by_tcp, query)).rr[0].rdata) == "10.1.0.2"


def test_a_sandbox_without_a_place_for_its_connection_has_one_when_another_ends(box: Namespace, stack: ExitStack) -> None:
    """All sandboxes share the places, and each may have one, whatever the others do."""
    names, outside, room = Names(), Outside(1), Room(1)
    stack.callback(outside.close)
    names.join("n1", WEB)
    query = question("web").pack()

    async def answered_by_tcp(where: Namespace) -> str:
        reply = await asyncio.to_thread(where.run, ask_by_tcp, query)
        return str(DNSRecord.parse(reply).rr[0].rdata)

    async def scenario() -> None:
        for where in (box, other := sandbox(stack)):
            door = open_door(where.fd)
            descriptors = [os.dup(where.fd), door.udp.detach(), door.tcp.detach()]
            stack.callback(NameServer(served(), names, descriptors, outside, room).close)
        first, second = [await asyncio.to_thread(box.run, socket.create_connection, dns.NAMESERVER) for _ in range(2)]
        with first, second:
            second.settimeout(10)
            second.sendall(struct.pack("!H", len(query)) + query)
            assert await answered_by_tcp(other) == "10.1.0.2"
            assert await asyncio.to_thread(select.select, [second], [], [], 1.5) == ([], [], [])
            first.close()
            assert await asyncio.to_thread(dns.receive, second)
        assert await answered_by_tcp(box) == "10.1.0.2"
        assert room.places <= 1
        stack.pop_all().close()

    asyncio.run(scenario())


def test_without_descriptors_connections_wait_and_nobody_is_busy(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    engine.join(WEB)
    engine.serve(served(), box)
    assert box.run(look_up, "web") == ["10.1.0.2"]
    (pid,) = netds(engine.state)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), 1000))
    stack.enter_context(box.run(socket.create_connection, dns.NAMESERVER))
    stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)).connect(str(engine.state / "netd.sock"))
    before = busy(pid)
    time.sleep(1.5)
    assert busy(pid) - before < 0.3
    assert box.run(look_up, "web") == ["10.1.0.2"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1000, 1000))
    assert DNSRecord.parse(box.run(ask_by_tcp, question("web").pack())).rr


def busy(pid: int) -> float:
    """Give the seconds that a process has had a processor."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_a_flood_in_one_sandbox_leaves_the_others_their_answers(engine: Engine, box: Namespace, stack: ExitStack) -> None:
    serve_world(stack, box, SERVERS[0], silent)
    engine.join(WEB)
    engine.serve(served(SERVERS[0]), box)
    other = sandbox(stack)
    serve_world(stack, other, SERVERS[0], with_address("203.0.113.12"))
    engine.serve(Sandbox("c8" * 32, ("n1",), servers=(Upstream(SERVERS[0]),)), other)
    ended = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(dns.NAMESERVER)
            number = 0
            while not ended.is_set():
                number += 1
                sock.send(question("web" if number % 2 else f"x{number}.org").pack())

    flooding = threading.Thread(target=box.run, args=(flood,))
    flooding.start()
    try:
        for _ in range(20):
            assert other.run(look_up, "web") == ["10.1.0.2"]
            assert other.run(look_up, "example.org") == ["203.0.113.12"]
    finally:
        ended.set()
        flooding.join()


def test_ipv6_member_and_code_in_another_class(engine: Engine, box: Namespace) -> None:
    engine.join(Member("e" * 64, ("six",), ("fd00::6",)))
    engine.serve(served(), box)
    assert (box.run(look_up, "six", "AAAA"), box.run(look_up, "six")) == (["fd00::6"], [])
    assert AAAA("fd00::6") == DNSRecord.parse(box.run(ask_by_udp, question("six", "AAAA").pack())).rr[0].rdata


