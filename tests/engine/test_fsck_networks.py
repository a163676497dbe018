"""fsck and networks: what a driver lost is named and swept while others start and stop; what is damaged is mended or told."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from ground.daemon import Daemon
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import Netlink, link_index
from sampan.linux.uppers import add_macvlan


def check(daemon: Daemon) -> dict[str, Any]:
    return daemon.api("GET", "/sampan/system/fsck")


def repair(daemon: Daemon) -> dict[str, Any]:
    return daemon.api("POST", "/sampan/system/fsck")


def run(daemon: Daemon, *options: str) -> str:
    return daemon.docker("run", "-d", *options, "busybox", "sleep", "9999").stdout.decode().strip()


def ip(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    done = daemon.run("ip", "-json", *arguments)
    return json.loads(done.stdout or b"[]")


def links(daemon: Daemon) -> set[str]:
    return {link["ifname"] for link in ip(daemon, "link")}


def in_container(daemon: Daemon, container: str, *command: str) -> bytes:
    pid = daemon.api("GET", f"/containers/{container}/json")["State"]["Pid"]
    return daemon.run("nsenter", f"--net=/proc/{pid}/ns/net", *command).stdout


def test_links_and_ports_of_nobody_are_named_and_swept(daemon: Daemon) -> None:
    kept = run(daemon, "-p", "18080:80")
    before = links(daemon)
    bridge = f"sp{daemon.mark}"
    mark = f"sampan {daemon.engine_id} bridge endpoint {'ab' * 32}"
    daemon.run("ip", "link", "add", "lost0", "type", "bridge")
    daemon.run("ip", "link", "set", "lost0", "alias", mark, "master", bridge, check=None)
    daemon.run("ip", "link", "add", "theirs0", "type", "bridge")
    found = check(daemon)["Damage"]
    assert [(fault["Area"], fault["Subject"], fault["Repairable"]) for fault in found] == [
        ("networks", f"link lost0 ({mark})", True)
    ]
    assert "lost0" in links(daemon), "to check changes nothing"
    report = repair(daemon)
    assert [fault["Subject"] for fault in report["Mended"]] == [f"link lost0 ({mark})"]
    assert report["Damage"] == [] == check(daemon)["Damage"]
    after = links(daemon)
    assert after >= before | {"theirs0"}, "sandboxes that wait come meanwhile"
    assert "lost0" not in after
    daemon.run("ip", "link", "delete", "theirs0")
    assert daemon.api("GET", f"/containers/{kept}/json")["State"]["Running"]


def test_a_lost_link_in_a_sandbox_that_lives_on(daemon: Daemon) -> None:
    """A daemon that is killed inside `connect` leaves such a one."""
    daemon.docker("network", "create", "-d", "macvlan", "--internal", "alone")
    container = run(daemon, "--network", "alone")
    parent = next(link for link in links(daemon) if link.startswith("sm-"))
    pid = daemon.api("GET", f"/containers/{container}/json")["State"]["Pid"]
    group = int(daemon.engine_id, 16)

    def half_attached() -> None:
        with Path(f"/proc/{pid}/ns/net").open() as sandbox, Netlink() as kernel:
            kernel.run(add_macvlan("eth9", lower=link_index(parent), netns=sandbox.fileno(), group=group))

    call_in_netns(daemon.netns, half_attached)
    (fault,) = check(daemon)["Damage"]
    assert fault["Subject"] == "link eth9 of a sandbox (not named yet)"
    assert repair(daemon)["Damage"] == []
    assert b"eth9" not in in_container(daemon, container, "ip", "link")
    assert b"eth0" in in_container(daemon, container, "ip", "link")


def test_what_is_missing_on_the_host_is_made_again(daemon: Daemon) -> None:
    container = run(daemon, "-p", "18081:80")
    table = f"sampan_{daemon.engine_id}"
    daemon.run("nft", "flush", "map", "inet", table, "ports4")
    found = check(daemon)["Damage"]
    assert {(fault["Subject"], fault["Problem"]) for fault in found} == {
        (f"container {container[:12]}", "port 18081/tcp is not published")
    }
    report = repair(daemon)
    assert (len(report["Mended"]), report["Damage"]) == (1, [])
    assert b"18081" in daemon.run("nft", "list", "map", "inet", table, "ports4").stdout


def test_a_flush_of_all_tables_is_mended(daemon: Daemon) -> None:
    """`systemctl restart nftables` does that, behind the engine's back."""
    with_port, without, going = run(daemon, "-p", "18083:80"), run(daemon), run(daemon, "-p", "18084:80")
    daemon.run("nft", "flush", "ruleset")
    daemon.docker("rm", "-f", going)
    assert {fault["Subject"] for fault in check(daemon)["Damage"]} == {
        f"container {with_port[:12]}", f"container {without[:12]}"
    }  # fmt: skip
    assert repair(daemon)["Damage"] == []
    run(daemon, "-p", "18084:80")


def test_what_is_missing_in_the_container_takes_a_person(daemon: Daemon) -> None:
    container = run(daemon)
    in_container(daemon, container, "ip", "route", "delete", "default")
    report = repair(daemon)
    (fault,) = report["Damage"]
    assert report["Mended"] == []
    assert "default route" in fault["Problem"] and "disconnect and connect" in fault["Remedy"]
    daemon.docker("network", "disconnect", "bridge", container)
    daemon.docker("network", "connect", "bridge", container)
    assert check(daemon)["Damage"] == []


def test_a_container_that_may_change_its_network_is_not_judged(daemon: Daemon) -> None:
    container = run(daemon, "--cap-add", "NET_ADMIN")
    in_container(daemon, container, "ip", "route", "delete", "default")
    report = check(daemon)
    assert report["Damage"] == []
    assert report["Skipped"] == [f"the network of container {container[:12]}, which it may change itself (NET_ADMIN)"]


def test_sweeping_takes_nothing_from_those_who_start(daemon: Daemon) -> None:
    """Containers start and stop, networks come and go, and all the while orphans appear and are swept."""
    engine = daemon.engine_id
    over = threading.Event()
    failures: list[str] = []

    def live(number: int) -> None:
        try:
            for turn in range(6):
                network = f"n{number}-{turn}"
                daemon.docker("network", "create", network)
                daemon.docker("run", "--rm", "--network", network, "busybox", "ip", "route", "get", "8.8.8.8")
                daemon.docker("run", "--rm", "-p", "80", "busybox", "ip", "route", "get", "8.8.8.8")
                daemon.docker("network", "rm", network)
        except AssertionError as error:
            failures.append(str(error))

    def sweep() -> None:
        number = 0
        while not over.is_set():
            number += 1
            name = f"lost{number}"
            daemon.run("ip", "link", "add", name, "type", "bridge")
            daemon.run("ip", "link", "set", name, "alias", f"sampan {engine} bridge endpoint {number:064x}")
            report = repair(daemon)
            unexpected = [fault for fault in [*report["Mended"], *report["Damage"]] if "lost" not in fault["Subject"]]
            if unexpected or name in links(daemon):
                failures.append(f"{name}: {report}")

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    lives = [threading.Thread(target=live, args=(number,)) for number in range(2)]
    for thread in lives:
        thread.start()
    for thread in lives:
        thread.join()
    over.set()
    sweeper.join()
    assert failures == []
    assert check(daemon)["Damage"] == []
