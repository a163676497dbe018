"""SIGKILL of the daemon at random moments under load: after a restart fsck finds nothing, and everything works."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable

from ground.daemon import Daemon
from ground.leaks import check_nothing_left

ROUNDS = 3
SEED = random.randrange(1 << 30)


def load_of(daemon: Daemon, tar: bytes) -> list[Callable[[int], object]]:
    """What goes on when the daemon dies; each may fail then."""
    some = {"check": None}
    return [
        lambda n: daemon.docker("import", "-", f"made{n}", stdin=tar, **some),
        lambda n: daemon.docker("run", "--rm", "-v", "/a", f"made{n - 1}" if n else "busybox", "true", **some),
        lambda n: daemon.docker("run", "-v", f"vol{n}:/v", "busybox", "sh", "-c", "echo said; touch /v/x /y", **some),
        lambda n: daemon.docker("rmi", "-f", f"made{n - 2}", **some),
        lambda n: (daemon.docker("volume", "create", f"w{n}", **some), daemon.docker("volume", "rm", f"w{n}", **some)),
        lambda n: (
            daemon.docker("run", "--name", f"moved{n}", "busybox", "touch", "/new", **some),
            daemon.docker("commit", f"moved{n}", f"kept{n}", **some),
            daemon.sampan("storage", "migrate", f"moved{n}", "--to", "vfs", **some),
        ),
        lambda n: daemon.docker("container", "prune", "-f", **some),
        lambda n: daemon.sampan("system", "fsck", "--repair", **some),
    ]


def test_nothing_is_left_or_lost(own_daemon: Daemon) -> None:
    daemon = own_daemon
    chance = random.Random(SEED)
    tar = subprocess.run(["tar", "-cf", "-", "-C", "/usr/bin", "perl"], capture_output=True, check=True).stdout
    for _ in range(ROUNDS):
        over = threading.Event()

        def keep_on(step: Callable[[int], object], over: threading.Event) -> None:
            number = 0
            while not over.is_set():
                step(number)
                number += 1

        workers = [threading.Thread(target=keep_on, args=(step, over)) for step in load_of(daemon, tar)]
        for worker in workers:
            worker.start()
        time.sleep(chance.uniform(0.3, 2.5))  # the moment of death, by chance
        daemon.kill()
        over.set()
        for worker in workers:
            worker.join()
        daemon.start()
        report = daemon.api("GET", "/sampan/system/fsck?deep=1")
        assert report == {"Mended": [], "Damage": [], "Skipped": []}, f"seed {SEED}\n{daemon.log[-4000:]}"
        assert daemon.docker("run", "--rm", "busybox", "echo", "works").stdout == b"works\n"
    for container in daemon.api("GET", "/containers/json?all=1"):
        daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    for volume in daemon.api("GET", "/volumes")["Volumes"]:
        daemon.api("DELETE", f"/volumes/{volume['Name']}")
    check_nothing_left(daemon)
    daemon.stop()
