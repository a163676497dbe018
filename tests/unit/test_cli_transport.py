"""The HTTP client against a socket: framing, streams, errors, hijack, half-close, and TLS."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.cli.client import Client, filters_query
from sampan.cli.commands.attach import exec_status
from sampan.cli.endpoint import Endpoint, TlsFiles, TlsFlags, resolve
from sampan.cli.failure import CliError, DaemonError, Unreachable
from sampan.cli.stdcopy import Demultiplexer


@contextlib.contextmanager
def served(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[Client]:
    """Serve one connection on a unix socket with `answer`; what it raises fails the test."""
    failures: list[BaseException] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10)
                    answer(connection)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Client(Endpoint(f"unix://{path}", path=str(path)))
        finally:
            thread.join()
    if failures:
        raise failures[0]


def head(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1)
    return data.decode()


def drip(connection: socket.socket, data: bytes) -> None:
    """Send byte by byte, so that every boundary falls between two reads."""
    for at in range(len(data)):
        connection.sendall(data[at : at + 1])


def replying(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        head(connection)
        drip(connection, data)

    return answer


def test_get_with_a_length(tmp_path: Path) -> None:
    seen = []

    def answer(connection: socket.socket) -> None:
        seen.append(head(connection))
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}trailing')

    with served(tmp_path / "s", answer) as client:
        assert client.get("/x", {"q": "a b&c", "all": True, "no": False, "none": None, "l": ["1", "2"]}) == {"a": 1}
    assert seen[0].startswith("GET /x?q=a%20b%26c&all=1&l=1&l=2 HTTP/1.1\r\n")


def test_chunked_body_in_single_bytes(tmp_path: Path) -> None:
    body = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\n[1,2\r\n2\r\n,3\r\n1\r\n]\r\n0\r\nT: v\r\n\r\n"
    )
    with served(tmp_path / "s", replying(body)) as client:
        assert client.get("/x") == [1, 2, 3]


def test_interim_responses_are_passed_over(tmp_path: Path) -> None:
    with served(tmp_path / "s", replying(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")) as client:
        assert client.post("/x") is None


def test_json_stream_splits_values_and_utf8_anywhere(tmp_path: Path) -> None:
    values = [{"status": "é€😀"}, {"n": 1}, [2]]
    text = "\n".join(json.dumps(value, ensure_ascii=False) for value in values[:2]) + json.dumps(values[2])
    with (
        served(tmp_path / "s", replying(b"HTTP/1.1 200 OK\r\n\r\n" + text.encode())) as client,
        client.stream("GET", "/events") as response,
    ):
        assert list(response.json_stream()) == values


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "unknown transfer coding"),
    ],
)
def test_broken_answers_are_named(tmp_path: Path, data: bytes, reason: str) -> None:
    with served(tmp_path / "s", replying(data)) as client, pytest.raises(CliError, match=reason):
        client.get("/x")


def test_daemon_errors_carry_status_and_message(tmp_path: Path) -> None:
    reply = b'HTTP/1.1 409 Conflict\r\nContent-Length: 18\r\n\r\n{"message":"busy"}'
    with served(tmp_path / "s", replying(reply)) as client, pytest.raises(DaemonError, match="daemon: busy") as caught:
        client.delete("/x")
    assert caught.value.code == 409


def test_upload_is_chunked_and_an_early_error_is_read(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        assert "Transfer-Encoding: chunked" in head(connection)
        connection.sendall(b'HTTP/1.1 400 Bad\r\nContent-Length: 17\r\n\r\n{"message":"bad"}')
        connection.shutdown(socket.SHUT_RD)

    with served(tmp_path / "s", answer) as client, pytest.raises(DaemonError, match="bad"):
        client.upload("/images/load", None, (b"x" * 65536 for _ in range(200)))


def test_hijack_keeps_bytes_glued_to_the_head_and_half_closes(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        request = head(connection)
        assert "Upgrade: tcp" in request
        assert "Connection: Upgrade" in request
        connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nglued")
        received = b""
        while data := connection.recv(100):
            received += data
        connection.sendall(received.upper())

    with served(tmp_path / "s", answer) as client, client.hijack("/containers/x/attach") as response:
        wire, first = response.detach()
        assert first in (b"", b"glued")
        wire.socket.sendall(wire.encode(b"typed"))
        wire.socket.shutdown(socket.SHUT_WR)
        rest = first
        while data := wire.receive():
            rest += data
        assert rest == b"gluedTYPED"


def test_exec_status_is_asked_for_until_there_is_one() -> None:
    answers = [{"Running": True, "ExitCode": None}, {"Running": True, "ExitCode": 0}, {"Running": False, "ExitCode": 3}]

    class Replies(Client):
        def get(self, path: str, query: object = None) -> dict[str, object]:
            return answers.pop(0)

    assert exec_status(Replies(Endpoint("unix:///x", path="/x")), "e") == 3
    assert answers == []


def test_no_daemon_says_where_and_how_to_start_it(tmp_path: Path) -> None:
    client = Client(Endpoint("unix:///x", path=str(tmp_path / "none")))
    with pytest.raises(Unreachable, match=r"unix:///x: No such file.*sampan daemon"):
        client.get("/x")


@pytest.mark.parametrize(
    ("host", "environ", "expected"),
    [
        (None, {}, ("/run/sampan.sock", "", 0)),
        (None, {"DOCKER_HOST": "unix:///d"}, ("/d", "", 0)),
        (None, {"DOCKER_HOST": "unix:///d", "SAMPAN_HOST": "unix:///s"}, ("/s", "", 0)),
        ("unix:///h", {"SAMPAN_HOST": "unix:///s"}, ("/h", "", 0)),
        ("tcp://h:1234", {}, ("", "h", 1234)),
        ("tcp://[::1]:1234", {}, ("", "::1", 1234)),
        ("h", {}, ("", "h", 2375)),
        ("tcp://h", {"DOCKER_TLS_VERIFY": "1"}, ("", "h", 2376)),
    ],
)
def test_endpoint(host: str | None, environ: dict[str, str], expected: tuple[str, str, int]) -> None:
    found = resolve(host, TlsFlags(), environ)
    assert (found.path, found.host, found.port) == expected
    assert bool(found.tls) == ("DOCKER_TLS_VERIFY" in environ)


@pytest.mark.parametrize("host", ["ssh://h", "unix://", "tcp://h:x", "tcp://h:99999"])
def test_endpoint_refuses(host: str) -> None:
    with pytest.raises(CliError, match="invalid address"):
        resolve(host, TlsFlags(), {})


def test_filters() -> None:
    assert json.loads(filters_query(("name=a", "name=b", "label=x=y")) or "") == {
        "name": {"a": True, "b": True}, "label": {"x=y": True},
    }  # fmt: skip
    assert filters_query(()) is None


def test_frames_cut_anywhere() -> None:
    data = b"\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\3err\1\0\0\0\0\0\0\0"
    for cut in range(len(data)):
        frames = Demultiplexer()
        got: dict[int, bytes] = {}
        for part in (data[:cut], data[cut:]):
            for stream, payload in frames.feed(part):
                got[stream] = got.get(stream, b"") + payload
        assert got == {1: b"out", 2: b"err"}


def test_frames_refuse_what_is_no_frame() -> None:
    with pytest.raises(CliError, match="unrecognized input header"):
        list(Demultiplexer().feed(b"plain text"))
    with pytest.raises(CliError, match="boom"):
        list(Demultiplexer().feed(b"\3\0\0\0\0\0\0\4boom"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, made with the openssl program."""
    folder = tmp_path_factory.mktemp("certificates")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem",
         "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@contextlib.contextmanager
def tls_served(certificates: Path, answer: Callable[[socket.socket, ssl.SSLObject], None]) -> Iterator[int]:
    """Serve one TLS connection on 127.0.0.1; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                with (
                    contextlib.suppress(ssl.SSLError, ConnectionError),
                    context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as session,
                ):
                    answer(connection, session)  # type: ignore[arg-type]

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def test_tls_half_close(certificates: Path) -> None:
    received = []

    def answer(_: socket.socket, session: ssl.SSLObject) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += session.read(1000)
        session.write(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        while data := session.read(1000):  # b"" only after close_notify: a ragged end raises
            received.append(data)
        session.write(b"after your end")

    with tls_served(certificates, answer) as port:
        files = TlsFiles(True, str(certificates / "cert.pem"), "", "")
        client = Client(Endpoint("tcp://x", host="127.0.0.1", port=port, tls=files))
        with client.hijack("/x") as response:
            wire, first = response.detach()
            assert first == b""
            wire.socket.sendall(wire.encode(b"typed"))
            wire.socket.sendall(wire.encode_end())
            assert wire.receive() == b"after your end"
    assert b"".join(received) == b"typed"


def test_tls_refuses_an_unknown_authority(certificates: Path) -> None:
    with tls_served(certificates, lambda *_: None) as port:
        client = Client(Endpoint("tcp://x", host="127.0.0.1", port=port, tls=TlsFiles(True, "", "", "")))
        with pytest.raises(CliError, match="self.signed certificate"):
            client.get("/x")


def test_unreadable_certificate_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        files = TlsFiles(True, os.devnull, "", "")
        client = Client(Endpoint("tcp://x", host="127.0.0.1", port=listener.getsockname()[1], tls=files))
        with pytest.raises(CliError, match="TLS with the daemon"):
            client.get("/x")
