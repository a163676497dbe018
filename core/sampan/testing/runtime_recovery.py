"""The runtime suite: a container whose shim has died."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from sampan.api.errors import Unsupported
from sampan.api.runtime import RuntimeCapability
from sampan.testing.runtime_ground import Workshop
from sampan.testing.selection import needs, needs_refusal

COUNTING = "trap 'echo after; exit 7' TERM; echo before; while :; do sleep 0.02; done"


class RecoveryCases:
    """What `recover` says, asked as by a fresh shim: nobody holds the old one's ends of the streams."""

    @needs(RuntimeCapability.RECOVER)
    def test_recover(self, workshop: Workshop) -> None:
        """The container goes on, what the driver has kept of its streams is whole, and its `wait` tells how it ended."""
        container = workshop.idle(workshop.spec(COUNTING))
        container.main.read_until(b"before\n")
        assert container.recover()
        container.signal(signal.SIGTERM)
        if container.main.stdout >= 0:
            assert container.main.read_to_end() == b"after\n"
        assert container.recovered is not None
        assert container.recovered.wait() == 7

    @needs(RuntimeCapability.RECOVER)
    def test_recover_twice(self, workshop: Workshop) -> None:
        """The fresh shim may die as well; a signal that ends the container is told as 128 and its number."""
        container = workshop.idle(workshop.spec("sleep 1000"))
        assert container.recover()
        assert container.recover()
        container.signal(signal.SIGKILL)
        assert container.recovered is not None
        assert container.recovered.wait() == 137

    @needs(RuntimeCapability.RECOVER)
    def test_recover_after_the_end(self, workshop: Workshop) -> None:
        """There is nothing to go on with."""
        container = workshop.container(workshop.spec("true"))
        container.run()
        assert not container.recover()

    @needs(RuntimeCapability.RECOVER)
    def test_recover_by_another_release(self, workshop: Workshop) -> None:
        """A handle with a version that the driver does not know is refused, not guessed at; the container can be deleted."""
        container = workshop.idle(workshop.spec("sleep 1000"))
        known = container.handle
        assert known is not None
        container.handle = replace(known, version=known.version + 1000)
        with pytest.raises(Unsupported):
            container.recover()
        container.handle = known

    @needs_refusal(RuntimeCapability.RECOVER)
    def test_no_recovery(self, workshop: Workshop) -> None:
        """A driver that can't go on says so."""
        container = workshop.idle(workshop.spec("sleep 1000"))
        assert not container.recover()
