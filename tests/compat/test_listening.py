"""How a daemon listens: mutual TLS, socket activation, several engines side by side; and how it refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ground.certificates import Authority
from ground.daemon import Daemon, docker_client, new_daemon


def tls_options(authority: Authority, name: str) -> list[str]:
    certificate, key = authority.issue(name)
    return ["--tlsverify", "--tlscacert", str(authority.certificate), "--tlscert", str(certificate), "--tlskey", str(key)]


def test_docker_over_mutual_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path).create()
    server, client = tls_options(authority, "server"), tls_options(authority, "client")
    with new_daemon("-H", "tcp://127.0.0.1:2376", *server) as daemon:
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        docker = [docker_client(), "-H", "tcp://127.0.0.1:2376"]
        # stdin's end travels as a close_notify: what comes after it must still arrive
        piped = daemon.run(*docker, *client, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo after", stdin=b"abc\n")
        assert piped.stdout == b"abc\nafter\n"
        stranger = tls_options(Authority(tmp_path, "other").create(), "stranger")
        stranger[2] = str(authority.certificate)
        refused = daemon.run(*docker, *stranger, "version", check=None)
        assert refused.returncode != 0
        assert b"Server:" not in refused.stdout
        sampan = [sys.executable, "-m", "sampan.cli", "-H", "tcp://127.0.0.1:2376", *client]
        assert daemon.run(*sampan, "run", "-i", "--rm", "busybox", "cat", stdin=b"ours\n").stdout == b"ours\n"
        daemon.stop()


def test_plain_tcp_needs_to_be_asked_for() -> None:
    with new_daemon("-H", "tcp://127.0.0.1:2375") as daemon:
        refused = daemon.run(*daemon.command(), check=1)
        assert b"--insecure-tcp" in refused.stderr
        daemon.start("--insecure-tcp")
        assert daemon.run(docker_client(), "-H", "tcp://127.0.0.1:2375", "version").returncode == 0
        assert "whoever can reach it is root" in daemon.log
        daemon.stop()


def test_a_socket_that_systemd_hands_over() -> None:
    with new_daemon() as daemon, socket.socket(socket.AF_UNIX) as listener:
        path = daemon.base / "activated.sock"
        listener.bind(str(path))
        listener.listen()
        # what systemd does: the socket as descriptor 3, and the pid of the daemon in the environment
        script = f'exec 3<&{listener.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
        command = [part if part != daemon.host else "fd://" for part in daemon.command()]
        with (daemon.base / "log").open("ab") as log:
            daemon.process = subprocess.Popen(
                daemon.inside(["bash", "-c", script, "activate", *command]), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(daemon.netns, listener.fileno()),
            )  # fmt: skip
        environment = {**daemon.client_environment(), "DOCKER_HOST": f"unix://{path}"}
        done = subprocess.run([docker_client(), "version"], capture_output=True, env=environment, timeout=30, check=False)
        assert b"Server: Sampan" in done.stdout, daemon.log
        daemon.stop()


def test_two_engines_side_by_side(daemon: Daemon) -> None:
    with new_daemon() as other:
        other.netns, kept = os.dup(daemon.netns), other.netns  # on the same host, too
        os.close(kept)
        other.arguments = ["--bridge-subnet", "172.31.78.1/24"]
        other.start()
        other.api("POST", "/sampan/images/bootstrap")
        for engine in (daemon, other):
            engine.docker("run", "-d", "--name", "same", "-p", "80", "busybox", "sleep", "1000")
        assert daemon.api("GET", "/containers/same/json")["Id"] != other.api("GET", "/containers/same/json")["Id"]
        other.docker("rm", "-f", "same")
        other.stop()
    assert daemon.docker("exec", "same", "echo", "still here").stdout == b"still here\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('storage-drive = "vfs"\n', b"storage_drive: is not a setting"),
        ("root = [\n", b"read config file"),
        ('storage-driver = "zfs"\n', b"unknown storage driver 'zfs': known ones are btrfs, overlayfs, vfs"),
        ('[storage.overlayfs]\nspeed = "fast"\n', b"[storage.overlayfs]: speed"),
        ('log-level = "loud"\n', b"log_level"),
    ],
)
def test_a_bad_config_stops_the_daemon_with_the_reason(text: str, told: bytes) -> None:
    with new_daemon() as daemon:
        config = daemon.base / "config.toml"
        config.write_text(text)
        done = daemon.run(*daemon.command(), "--config", str(config), check=1)
        assert told in done.stderr
        assert b"Traceback" not in done.stderr


def test_an_unreadable_config_stops_the_daemon_with_the_reason() -> None:
    with new_daemon() as daemon:
        done = daemon.run(*daemon.command(), "--config", str(daemon.base), check=1)  # a directory: root can read anything else
        assert b"read config file" in done.stderr
        assert b"Is a directory" in done.stderr
