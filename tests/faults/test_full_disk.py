"""A disk that is full while containers end: whoever waits hears of it, and with room again all is as it should be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ground.daemon import new_daemon
from ground.leaks import check_nothing_left


@pytest.mark.parametrize("networks", [("one",), ("one", "two")])
def test_a_container_ends_on_a_full_disk(tmp_path: Path, networks: tuple[str, ...]) -> None:
    with new_daemon() as daemon:
        daemon.root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", daemon.root], check=True)
        daemon.start()
        daemon.api("POST", "/sampan/images/bootstrap")
        for name in networks:
            daemon.api("POST", "/networks/create", {"Name": name})
        joined = [part for name in networks for part in ("--network", name)]
        daemon.docker("run", "-d", "--name", "cc", "-p", "8098:80", *joined, "busybox", "sleep", "600")
        full = daemon.root / "full"
        subprocess.run(["dd", "if=/dev/zero", f"of={full}", "bs=4k"], check=False, capture_output=True)
        daemon.docker("kill", "cc", timeout=20)
        assert daemon.api("GET", "/containers/cc/json")["State"]["Status"] == "exited"
        os.unlink(full)
        daemon.docker("start", "cc")
        daemon.docker("rm", "-f", "cc")
        check_nothing_left(daemon)
        daemon.stop()
