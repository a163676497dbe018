"""The runtime suite: a container's life from create to delete."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sampan.api.errors import NotFound
from sampan.api.runtime import RuntimeCapability
from sampan.testing.runtime_ground import Workshop
from sampan.testing.selection import needs


class LifeCases:
    """Operations do what they say, on what there is and on what has ended."""

    def test_created_is_not_started(self, workshop: Workshop) -> None:
        """`create` runs nothing of the program's; `delete` without a start leaves nothing."""
        container = workshop.container(workshop.spec("echo ran")).create()
        assert container.main.is_silent(0.1)
        assert os.readlink(f"/proc/{container.main.pid}/ns/pid_for_children") != os.readlink("/proc/self/ns/pid")
        container.delete()
        assert container.main.read_to_end() == b""

    def test_delete_kills(self, workshop: Workshop) -> None:
        """`delete` of a running container kills every process, in whatever session, and is done twice
        without an error."""
        container = workshop.idle(workshop.spec("setsid sleep 1000 & exec sleep 1001"))
        pids = container.processes()
        container.delete()
        container.delete()
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []

    def test_delete_kills_in_the_hosts_pid_namespace(self, workshop: Workshop) -> None:
        """Without a pid namespace of its own nothing but the cgroup tells what belongs to a container."""
        spec = workshop.spec("setsid sleep 1000 & echo ready; exec sleep 1001")
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
        container = workshop.idle(spec)
        container.main.read_until(b"ready")
        container.delete()
        assert container.main.wait() == 137

    def test_signal_everyone(self, workshop: Workshop) -> None:
        """Every process gets the signal, not the first alone."""
        container = workshop.idle(workshop.spec("sleep 1000 & echo ready; wait $!; echo $?; exec sleep 1000"))
        container.main.read_until(b"ready\n")
        container.signal(signal.SIGTERM, everyone=True)
        assert container.main.read_until(b"\n") == b"143\n"

    def test_signal_to_what_has_ended(self, workshop: Workshop) -> None:
        """There is no one to signal: `NotFound`."""
        container = workshop.container(workshop.spec("true"))
        container.run()
        with pytest.raises(NotFound):
            container.signal(signal.SIGTERM)

    def test_processes(self, workshop: Workshop) -> None:
        """The pids are those of the caller's pid namespace, the first process among them."""
        container = workshop.idle(workshop.spec("sleep 1000 & sleep 1001 & echo ready; wait"))
        container.main.read_until(b"ready")
        pids = container.processes()
        assert container.main.pid in pids
        assert sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids) == [
            "sh",
            "sleep",
            "sleep",
        ]

    @needs(RuntimeCapability.PAUSE)
    def test_pause_and_resume(self, workshop: Workshop) -> None:
        """A paused container does nothing, and takes up where it was."""
        container = workshop.idle(workshop.spec("exec cat"))
        container.main.write(b"one\n")
        container.main.read_until(b"one\n")
        container.pause()
        container.main.write(b"two\n")
        assert container.main.is_silent(0.2)
        container.resume()
        container.main.read_until(b"two\n")

    @needs(RuntimeCapability.PAUSE)
    def test_delete_while_paused(self, workshop: Workshop) -> None:
        """A frozen process can be killed."""
        container = workshop.idle()
        container.pause()
        container.delete()
        assert container.main.wait() == 137

    def test_many_at_once(self, workshop: Workshop) -> None:
        """Containers don't know of each other."""
        containers = [workshop.idle(workshop.spec("hostname; exec sleep 1000")) for _ in range(3)]
        containers[1].delete()
        assert containers[0].main.read_until(b"suite")
        assert len(containers[2].processes()) == 1
