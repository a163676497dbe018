"""`network explain`, obstacles, and the policy for published ports, on daemons of their own."""

from __future__ import annotations

import json

from ground.daemon import Daemon
from ground.waiting import wait_until

DROP = "add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }\n"


def serve(daemon: Daemon, *options: str) -> None:
    script = "mkdir /w; echo here > /w/index.html; exec httpd -f -p 80 -h /w"
    daemon.docker("run", "-d", "--name", "web", *options, "busybox", "sh", "-c", script)
    wait_until(lambda: b":80 " in daemon.docker("exec", "web", "netstat", "-ltn").stdout, "the server listens")


def explain(daemon: Daemon, name: str) -> str:
    return str(daemon.sampan("network", "explain", name).stdout.decode())


def test_explain_tells_ports_and_what_stops_packets(own_daemon: Daemon) -> None:
    daemon = own_daemon
    serve(daemon, "-p", "8080:80")
    told = explain(daemon, "web")
    assert told.startswith("web is in network bridge as eth0 (driver bridge):\n  * it is at 172.31.77.2, by link sv-")
    assert "tcp to port 8080 of every IPv4 address of this host reaches it at 172.31.77.2:80" in told
    assert "by the proxy on port" in told
    assert "kept from their way" not in told

    daemon.docker("run", "-d", "--name", "beside", "--network", "container:web", "busybox", "sleep", "1000")
    assert explain(daemon, "beside").startswith("beside shares the network of web:\nweb is in network bridge")
    daemon.docker("run", "-d", "--name", "alone", "--network", "none", "busybox", "sleep", "1000")
    assert "no packet comes in or goes out" in explain(daemon, "alone")
    daemon.docker("create", "--name", "idle", "busybox")
    refused = daemon.sampan("network", "explain", "idle", check=None)
    assert refused.returncode and b"it is not running" in refused.stderr

    daemon.run("nft", "-f", "-", stdin=DROP.encode())
    obstacle = "table ip filter, chain FORWARD, drops what is forwarded from or to"
    assert obstacle in explain(daemon, "web")
    assert any(obstacle in warning for warning in json.loads(daemon.docker("info", "-f", "{{json .Warnings}}").stdout))
    daemon.stop()
    daemon.start()
    assert obstacle in daemon.log


def test_loopback_unless_asked(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.stop()
    daemon.start("--publish", "loopback")
    serve(daemon, "-p", "8080:80", "-p", "81", "-p", "0.0.0.0:8082:80")
    ports = daemon.api("GET", "/containers/web/json")["NetworkSettings"]["Ports"]
    assert ports["80/tcp"] == [
        {"HostIp": "0.0.0.0", "HostPort": "8082"},
        {"HostIp": "127.0.0.1", "HostPort": "8080"},
        {"HostIp": "::1", "HostPort": "8080"},
    ]
    assert [item["HostIp"] for item in ports["81/tcp"]] == ["127.0.0.1", "::1"]
    assert len({item["HostPort"] for item in ports["81/tcp"]}) == 1
    for address in ("127.0.0.1", "[::1]"):
        assert daemon.run("curl", "-s", "-m", "3", f"http://{address}:8080/").stdout == b"here\n"
    gateway = "172.31.77.1"
    daemon.run("curl", "-s", "-m", "3", f"http://{gateway}:8080/", check=7)
    assert daemon.run("curl", "-s", "-m", "3", f"http://{gateway}:8082/").stdout == b"here\n"
