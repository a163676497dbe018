"""DNS by another implementation (dnslib): queries sent from a sandbox, and servers of the world outside."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from dnslib import RR, DNSRecord

NAMESERVER = ("127.0.0.11", 53)
__all__ = ["NAMESERVER", "RR", "DNSRecord", "World", "ask_by_tcp", "ask_by_udp", "look_up", "question", "world"]

PATIENCE = 10.0


def ask_by_udp(query: bytes, server: tuple[str, int] = NAMESERVER, patience: float = PATIENCE) -> bytes:
    """Send a datagram from the calling thread's network namespace; give the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(patience)
        sock.connect(server)
        sock.send(query)
        return sock.recv(65535)


def ask_by_tcp(query: bytes, server: tuple[str, int] = NAMESERVER) -> bytes:
    with socket.create_connection(server, PATIENCE) as sock:
        sock.sendall(struct.pack("!H", len(query)) + query)
        return receive(sock)


def receive(sock: socket.socket) -> bytes:
    (length,) = struct.unpack("!H", _exactly(sock, 2))
    return _exactly(sock, length)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def question(name: str, kind: str = "A") -> DNSRecord:
    return DNSRecord.question(name, kind)


def look_up(name: str, kind: str = "A") -> list[str]:
    """Give the answers' data as text, for a code of 0; fails with the code's name for another."""
    answer = DNSRecord.parse(ask_by_udp(question(name, kind).pack()))
    assert answer.header.rcode == 0, f"{name}: {answer.header.rcode}"
    return [str(record.rdata) for record in answer.rr]


Reply = Callable[[DNSRecord, str], "bytes | list[bytes] | None"]
"""What a server says to a query that came by `udp` or `tcp`: one message, more of them, or nothing."""


class World:
    """A DNS server on an address of the calling thread's network namespace. `queries` are (transport, client, message)."""

    def __init__(self, address: str, reply: Reply) -> None:
        self.queries: list[tuple[str, tuple[str, int], DNSRecord]] = []
        self._reply = reply
        self._udp = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket(self._udp.family, socket.SOCK_STREAM)
        self._udp.bind((address, 53))
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._tcp.bind((address, 53))
        self._tcp.listen()
        self._threads = [threading.Thread(target=serve) for serve in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while True:
            try:
                data, client = self._udp.recvfrom(65535)
            except OSError:
                return
            if not data:
                return
            for answer in self._answers(data, "udp", client):
                self._udp.sendto(answer, client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                sock, client = self._tcp.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError, EOFError):
                sock.settimeout(PATIENCE)
                for answer in self._answers(receive(sock), "tcp", client):
                    sock.sendall(struct.pack("!H", len(answer)) + answer)

    def _answers(self, data: bytes, transport: str, client: tuple[str, int]) -> list[bytes]:
        query = DNSRecord.parse(data)
        self.queries.append((transport, client, query))
        answer = self._reply(query, transport)
        return answer if isinstance(answer, list) else [] if answer is None else [answer]


@contextlib.contextmanager
def world(address: str, reply: Reply) -> Iterator[World]:
    server = World(address, reply)
    try:
        yield server
    finally:
        server.close()
