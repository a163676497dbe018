"""`make bench-network`: networks beside dockerd, and with and without waiting sandboxes, in one run, taking turns.

Each engine has a network namespace of its own as its host. What is measured: the network's part of a start, starts with
published ports, iperf3 between containers and from the host, and questions to the name server. Everything is in seconds:
streams and questions as the time that a fixed amount takes. dockerd (Debian's docker.io) and iperf3 must be there.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench_start import dockerd, share_image

from ground.daemon import new_daemon
from sampan.bench import report
from sampan.bench.network import PORTS
from sampan.bench.network import Plan as DriverPlan
from sampan.bench.network import find as find_driver
from sampan.bench.network import measure as measure_drivers
from sampan.bench.report import Measurement, Report
from sampan.linux.namespaces import call_in_netns

SETUP = "network's part of a start"
START = "start, {} ports published"
REMOVE = "remove of that, {} ports"
BETWEEN = "1 GB from container to container"
BY_ADDRESS = "1 GB from the host, by address"
BY_PORT = "1 GB from the host, by 127.0.0.1 and a port"
NAMES = "1,000 names, one after the other"
NAMES_AT_ONCE = "10,000 names, 32 at once"

SETTLE = 0.3
"""Seconds between two starts: what an engine does afterwards is not the next one's."""

ONCE = 1000
"""So many ports, and more, are measured in the first round only: dockerd takes a minute for them."""

ANSWER_SECONDS = 2.0
"""A question that has no answer by then is asked again."""


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=600)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class Engine:
    """An engine to be measured, by its API, and what it took."""

    name: str
    socket: str
    pid: int
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the API; give the answer. Ends the program for a status of 400 and up."""
        connection = Connection(self.socket)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{self.name}: {method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text.strip() else None

    def create(self, ports: int = 0, network: str = "bridge", name: str = "") -> str:
        """Create a container that sleeps, with ports from 20000 on published under their own numbers."""
        numbers = [f"{20000 + number}/tcp" for number in range(ports)]
        host = {
            "PortBindings": {number: [{"HostPort": number.partition("/")[0]}] for number in numbers},
            "NetworkMode": network,
        }
        body = {
            "Image": "busybox", "Cmd": ["sleep", "100000"], "ExposedPorts": {number: {} for number in numbers},
            "HostConfig": host,
        }  # fmt: skip
        return str(self.api("POST", f"/v1.41/containers/create?name={name}", body)["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        self.api("POST", f"/v1.41/containers/{container}/start")

    def remove(self, container: str) -> None:
        """Kill and remove a container."""
        self.api("DELETE", f"/v1.41/containers/{container}?force=1")

    def inspect(self, container: str) -> Any:
        """Give all there is about a container."""
        return self.api("GET", f"/v1.41/containers/{container}/json")

    @contextlib.contextmanager
    def timed(self, case: str) -> Iterator[None]:
        """Measure what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds.setdefault(case, []).append(time.perf_counter() - start)


# ---------------------------------------------------------------- what is measured


def starts(engine: Engine, ports: Sequence[int]) -> None:
    """Start and remove a container for each number of published ports; note what the network took of it."""
    for count in (0, *ports):
        container = engine.create(count)
        time.sleep(SETTLE)
        with engine.timed(START.format(count)):
            engine.start(container)
        if engine.name != "dockerd" and count == 0:
            spans = engine.api("GET", f"/containers/{container}/trace")["Spans"]
            network = [span["DurationNs"] for span in spans if span["Phase"] in ("network.sandbox", "network.attach")]
            engine.seconds.setdefault(SETUP, []).append(sum(network) / 1e9)
        with engine.timed(REMOVE.format(count)):
            engine.remove(container)


def streams(engine: Engine) -> None:
    """Send a gigabyte each way."""
    one, two = engine.create(name="one"), engine.create(ports=1, name="two")
    for container in (one, two):
        engine.start(container)
    client, server = (engine.inspect(container)["State"]["Pid"] for container in (one, two))
    address = engine.inspect(two)["NetworkSettings"]["IPAddress"]
    for case, pid, to in ((BETWEEN, client, address), (BY_ADDRESS, engine.pid, address), (BY_PORT, engine.pid, "127.0.0.1")):
        engine.seconds.setdefault(case, []).append(iperf(pid, server, to))
    for container in (one, two):
        engine.remove(container)


def iperf(client: int, server: int, address: str) -> float:
    """Send a gigabyte from the namespace of one process to that of another; give the seconds."""
    listening = subprocess.Popen(
        [*inside(server), "iperf3", "-s", "-1", "-p", "20000", "--forceflush"], stdout=subprocess.PIPE, text=True
    )
    assert listening.stdout is not None
    for line in listening.stdout:
        if "listening" in line:
            break
    command = [*inside(client), "iperf3", "-c", address, "-p", "20000", "-n", "1000M", "-J"]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    listening.stdout.close()
    if "error" in done:
        listening.terminate()
    listening.wait(30)
    if "error" in done:
        raise SystemExit(f"iperf3 to {address}: {done['error']}")
    return float(done["end"]["sum_sent"]["seconds"])


def inside(pid: int) -> list[str]:
    """Give the beginning of a command that runs in the network namespace of a process."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


def names(engine: Engine) -> None:
    """Ask the name server of a container for another's name, in a network of their own."""
    engine.api("POST", "/v1.41/networks/create", {"Name": "names", "CheckDuplicate": True})
    containers = [engine.create(network="names", name=name) for name in ("asker", "asked")]
    for container in containers:
        engine.start(container)
    asker = os.open(f"/proc/{engine.inspect('asker')['State']['Pid']}/ns/net", os.O_RDONLY)
    with contextlib.closing(call_in_netns(asker, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))) as asking:
        asking.settimeout(ANSWER_SECONDS)
        asking.connect(("127.0.0.11", 53))
        ask(asking, "asked", 10, 1)
        for case, count, at_once in ((NAMES, 1_000, 1), (NAMES_AT_ONCE, 10_000, 32)):
            with engine.timed(case):
                ask(asking, "asked", count, at_once)
    os.close(asker)
    for container in containers:
        engine.remove(container)
    engine.api("DELETE", "/v1.41/networks/names")


def ask(asking: socket.socket, name: str, count: int, at_once: int) -> None:
    """Ask for a name's IPv4 address `count` times, with up to `at_once` questions under way (RFC 1035)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    question = struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", 1, 1)
    sent, under_way = 0, set[int]()
    while under_way or sent < count:
        while len(under_way) < at_once and sent < count:
            asking.send(struct.pack("!H", sent) + question)
            under_way.add(sent)
            sent += 1
        try:
            answer = asking.recv(512)
        except TimeoutError:
            for number in under_way:
                asking.send(struct.pack("!H", number) + question)
            continue
        number, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", answer)
        if flags & 0xF or not answers:
            raise SystemExit(f"{name}: the name server answered with status {flags & 0xF} and {answers} records")
        under_way.discard(number)


# ---------------------------------------------------------------- the run


@contextlib.contextmanager
def engines() -> Iterator[list[Engine]]:
    """Start all engines with the same image."""
    with dockerd() as theirs, new_daemon() as daemon, new_daemon(environment={"SAMPAN_SANDBOX_POOL": "0"}) as bare:
        daemon.start()
        bare.start()
        for one in (daemon, bare):
            one.api("POST", "/sampan/images/bootstrap")
        share_image(daemon, theirs)
        yield [
            Engine("dockerd", theirs.host.removeprefix("unix://"), theirs.pid),
            Engine("sampan", str(daemon.socket), daemon.pid),
            Engine("sampan, none waiting", str(bare.socket), bare.pid),
        ]
        for one in (daemon, bare):
            one.stop()


def measure(rounds: int, ports: Sequence[int], tell: Callable[[str], None]) -> Report:
    """Measure everything; engines take turns, so that a noisy host is noisy for all of them."""
    with engines() as found:
        for number in range(1, rounds + 1):
            for engine in found:
                tell(f"round {number} of {rounds}: {engine.name}")
                starts(engine, [count for count in ports if count < ONCE or number == 1])
                streams(engine)
                names(engine)
    cases = [SETUP, START.format(0), *(case.format(count) for case in (START, REMOVE) for count in ports),
             BETWEEN, BY_ADDRESS, BY_PORT, NAMES, NAMES_AT_ONCE]  # fmt: skip
    return Report(
        "networks, medians",
        tuple(
            Measurement(engine.name, case, tuple(engine.seconds[case]))
            for case in cases
            for engine in found
            if case in engine.seconds
        ),
    )


def main() -> None:
    """Measure, print the tables, write JSON and SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ports", type=int, nargs="+", default=PORTS, help="numbers of ports to publish")
    parser.add_argument("--json", type=Path, default=Path("bench-network.json"))
    parser.add_argument("--svg", type=Path, default=Path("bench-network.svg"))
    options = parser.parse_args()
    done = measure(options.rounds, options.ports, lambda text: print(text, file=sys.stderr))
    print(report.table(done))
    print(report.table(measure_drivers([find_driver("bridge")], DriverPlan(ports=options.ports), lambda _: None)))
    options.json.write_text(report.as_json(done))
    options.svg.write_text(report.as_svg(done))
    for name in done.subjects():
        one, many = (done.find(START.format(count), name) for count in (min(options.ports), 206))
        if one and many and one.median and many.median:
            print(f"{name}: a start with 206 ports takes {many.median / one.median:.2f} times one with {min(options.ports)}")


if __name__ == "__main__":
    main()
