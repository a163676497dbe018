"""The runtime suite: a container's own namespaces and what is set in them."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.api.runtime import RuntimeCapability
from sampan.linux.namespaces import new_netns
from sampan.testing.runtime_ground import Workshop
from sampan.testing.selection import needs


class IsolationCases:
    """What a container sees and sets is its own."""

    def test_namespaces(self, workshop: Workshop) -> None:
        """Each namespace that the spec names is a new one, and the others are the caller's."""
        kinds = ("mnt", "pid", "net", "uts", "ipc", "user", "cgroup")
        output = workshop.run(f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done")
        ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
        assert [a != b for a, b in zip(output.lines, ours, strict=True)] == [True] * 5 + [False] * 2

    def test_first_process_is_init(self, workshop: Workshop) -> None:
        """The program itself is pid 1, sees no process from outside, and takes over orphans."""
        orphan = "until grep -q '^PPid:.1$' /proc/$$/status; do sleep 0.01; done; echo adopted >/dev/shm/fifo"
        script = 'mkfifo /dev/shm/fifo; echo $$; (sh -c "$ORPHAN" &); ls -d /proc/[0-9]* | wc -l; cat /dev/shm/fifo'
        first, seen, last = workshop.run(script, env=["PATH=/bin", f"ORPHAN={orphan}"]).lines
        assert (first, last) == ("1", "adopted")
        assert int(seen) < 10
        container = workshop.idle(workshop.spec("sleep 1000 & exec sleep 1001"))
        assert os.readlink(f"/proc/{container.main.pid}/exe").endswith("busybox")

    def test_end_of_init_is_the_end_of_all(self, workshop: Workshop) -> None:
        """Whatever else runs in the pid namespace ends with its first process, and streams end with it."""
        output = workshop.run("sleep 1000 & sleep 1000 & exit 5")
        assert output.code == 5

    def test_names_of_the_host(self, workshop: Workshop) -> None:
        """Host and domain name are the spec's, and the host's own stay as they are."""
        domain = Path("/proc/sys/kernel/domainname")
        before = os.uname().nodename, domain.read_text()
        spec = workshop.spec(f"hostname; cat {domain}")
        spec["domainname"] = "suite.example"
        assert workshop.container(spec).run().lines == ["suite", "suite.example"]
        assert (os.uname().nodename, domain.read_text()) == before

    def test_sysctl(self, workshop: Workshop) -> None:
        """Kernel parameters of the container's own namespaces are set, and the host's are not."""
        host = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
        spec = workshop.spec("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax")
        spec["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "123", "kernel.msgmax": "4321"}
        assert workshop.container(spec).run().lines == ["123", "4321"]
        assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == host

    @needs(RuntimeCapability.OWN_NETWORK)
    def test_given_network(self, workshop: Workshop) -> None:
        """The network namespace of the request is joined, and outlives the container."""
        netns = new_netns()
        try:
            container = workshop.container(workshop.spec("readlink /proc/self/ns/net"), netns=netns)
            assert container.run().text == f"net:[{os.fstat(netns).st_ino}]"
        finally:
            os.close(netns)
