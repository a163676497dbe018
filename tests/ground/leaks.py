"""What an engine must not leave behind once its containers are gone: mounts, links, rules, cgroups, processes, files."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ground.daemon import Daemon, processes_of
from sampan.linux import messages

PATIENCE = 3.0
"""Seconds that the kernel gets to take apart what was let go: veths, cgroups and zombies go asynchronously."""

SANDBOXES = 4
"""The setting sandbox-pool's default."""


def check_nothing_left(daemon: Daemon) -> None:
    """Fail with a list of what is left. Needs a running daemon without containers."""
    deadline = time.monotonic() + PATIENCE
    while found := leftovers(daemon):
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n  " + "\n  ".join(found))
        time.sleep(0.02)


def leftovers(daemon: Daemon) -> list[str]:
    """Name everything that belongs to no container, network or image."""
    engine_id = daemon.engine_id
    looks: list[Callable[[], list[str]]] = [
        lambda: _mounts(daemon),
        lambda: _cgroups(engine_id),
        lambda: _links(daemon),
        lambda: _published(daemon),
        lambda: _shims(daemon),
        lambda: _sandboxes(daemon),
        lambda: _directories(daemon),
        lambda: _snapshots(daemon),
    ]
    return [line for look in looks for line in look()]


def _mounts(daemon: Daemon) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines if str(daemon.base) in line]
    # The root is a disk of the test's; the other is there as long as the daemon.
    return [f"mount {place}" for place in places if place not in (str(daemon.root), f"{daemon.state}/name=sampan")]


def _cgroups(engine_id: str) -> list[str]:
    found = []
    for base, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"cgroup {base}/{name}" for name in names if engine_id in base]
        if base.count("/") > 6:
            names.clear()
    return found


def _links(daemon: Daemon) -> list[str]:
    """Veths, but for those of the sandboxes that wait for the next containers: `SANDBOXES` of a bridge, other end down."""
    done = daemon.run("ip", "-j", "link", "show", "type", "veth")
    waiting: Counter[str] = Counter()
    found = []
    for link in json.loads(done.stdout or b"[]"):
        if "LOWER_UP" not in link["flags"] and waiting[link.get("master", "")] < SANDBOXES:
            waiting[link.get("master", "")] += 1
        else:
            found.append(f"link {link['ifname']}")
    return found


def _published(daemon: Daemon) -> list[str]:
    """Ports are in maps, and in the sets of those that take the proxy; other sets hold what belongs to networks."""
    done = daemon.run("nft", "-j", "list", "ruleset")
    objects = json.loads(done.stdout)["nftables"]
    holding = [item["map"] for item in objects if "map" in item]
    holding += [item["set"] for item in objects if "set" in item and item["set"]["name"].endswith("_proxied")]
    return [f"nft {found['name']}: {found['elem']}" for found in holding if found.get("elem")]


def _shims(daemon: Daemon) -> list[str]:
    """Shims by what they have open in the state directory; clients, the daemon and its sampan-netd are not among them."""
    return [f"process {pid}" for pid in processes_of(daemon) if pid != daemon.pid and not _is_netd(pid)]


def _is_netd(pid: int) -> bool:
    """Whether it is sampan-netd, which stays while the daemon runs; what it serves is looked at by itself."""
    try:
        return b"sampan-netd" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _sandboxes(daemon: Daemon) -> list[str]:
    """Ask sampan-netd, if it was ever started, in whose sandboxes it answers names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as netd:
        try:
            netd.connect(str(daemon.state / "netd.sock"))
        except (FileNotFoundError, ConnectionRefusedError):
            return []
        netd.settimeout(PATIENCE)
        messages.send(netd, messages.encode({"id": 1, "op": "served"}))
        received = messages.receive(netd)
    return [f"names answered in container {container[:12]}" for container in (received[0]["result"] if received else ())]


def _directories(daemon: Daemon) -> list[str]:
    bases = (daemon.root / "containers", daemon.state / "containers")
    return [f"directory {path}" for base in bases for path in base.iterdir()]


def _snapshots(daemon: Daemon) -> list[str]:
    volumes = daemon.root / "volumes" / "local"
    return [f"volume {path.name}" for path in (volumes.iterdir() if volumes.is_dir() else ())]
