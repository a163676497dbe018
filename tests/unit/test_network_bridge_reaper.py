"""The bridge driver's reaper, with links that go when the test says so."""

from __future__ import annotations

import threading

import pytest

from sampan_network_bridge import reaper
from sampan_network_bridge.links import Veth
from sampan_network_bridge.reaper import Reaper

PATIENCE = 10.0


def veth(name: str) -> Veth:
    return Veth(name, "bridge", "mark", 1500, icc=True)


def test_who_waits_for_a_link_waits_for_one_deletion_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, deleted, go_on = threading.Event(), [], threading.Semaphore(0)

    def delete(link: Veth) -> None:
        begun.set()
        assert go_on.acquire(timeout=PATIENCE)
        deleted.append(link.name)

    monkeypatch.setattr(reaper, "PATIENCE", 0.01)
    monkeypatch.setattr(reaper, "shut", lambda link: True)
    monkeypatch.setattr(reaper, "delete_veth", delete)
    under_test = Reaper()
    for name in ("one", "two", "three"):
        under_test.take(veth(name))
    assert begun.wait(PATIENCE)
    under_test.take(veth("four"))
    go_on.release()
    settled = threading.Thread(target=under_test.settle)
    settled.start()
    settled.join(PATIENCE)
    assert (settled.is_alive(), len(deleted)) == (False, 1)
    go_on.release(3)
    under_test.close()
    assert sorted(deleted) == ["four", "one", "three", "two"]


def test_a_thread_that_cannot_be_had_now_is_had_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(reaper, "shut", lambda link: False)
    under_test = Reaper()
    with monkeypatch.context() as narrow, pytest.raises(RuntimeError):
        narrow.setattr(threading.Thread, "start", refuse)
        under_test.take(veth("one"))
    under_test.settle()
    under_test.take(veth("one"))
    under_test.settle()
    under_test.close()
