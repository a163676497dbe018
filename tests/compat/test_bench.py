"""`sampan bench` needs no daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SMALL = ["--rounds", "1", "--files", "50", "--bulk", "0", "--large", "1"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("storage", *SMALL, *arguments)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sampan.cli", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_drivers_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out, plot = tmp_path / "out.json", tmp_path / "out.svg"
    done = bench("--drivers", "overlayfs,vfs", "--root", str(place), "--json", str(out), "--svg", str(plot))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[-2:] == ["overlayfs", "vfs"]
    measured = {(found["subject"], found["case"]) for found in json.loads(out.read_text())["measurements"]}
    assert {("overlayfs", "prepare and mount"), ("vfs", "unpack the layer")} <= measured
    assert plot.read_text().startswith("<svg")
    assert list(place.iterdir()) == []


def test_a_driver_that_does_not_work_there_is_told(tmp_path: Path) -> None:
    done = bench("--drivers", "vfs,btrfs", "--root", f"btrfs={tmp_path}")
    assert done.returncode == 0
    assert f"btrfs: {tmp_path} is not on btrfs" in done.stdout
    none = bench("--drivers", "btrfs", "--root", str(tmp_path))
    assert (none.returncode, none.stdout) == (1, "")
    assert "is not on btrfs" in none.stderr


def test_an_unknown_driver_is_refused() -> None:
    done = bench("--drivers", "zfs")
    assert done.returncode == 1
    assert "zfs" in done.stderr


def test_network_drivers_are_measured_on_a_host_of_their_own(tmp_path: Path) -> None:
    links = set(os.listdir("/sys/class/net"))
    out = tmp_path / "out.json"
    done = run("network", "--rounds", "1", "--drivers", "bridge,none", "--json", str(out))
    assert done.returncode == 0, done.stderr
    measured = {(found["subject"], found["case"]): found["seconds"] for found in json.loads(out.read_text())["measurements"]}
    assert len(measured["bridge", "attach a prepared one"]) == len(measured["bridge", "attach, 1000 ports as a range"]) == 1
    assert "none: " in done.stdout  # it has no networks to make
    assert set(os.listdir("/sys/class/net")) == links


def test_a_network_driver_that_cannot_do_it_is_told() -> None:
    done = run("network", "--rounds", "1", "--opt", "com.docker.network.driver.mtu=none")
    assert done.returncode == 1
    assert "com.docker.network.driver.mtu" in done.stderr
