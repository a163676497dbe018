"""The storage suite: restarts, kills at any moment, and many threads."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sampan.api.storage import SnapshotKind, StorageDriver
from sampan.testing.killing import killed_before_line
from sampan.testing.storage_ground import PLAIN, Start, Told, all_told, make_layer
from sampan.testing.trees import HandMadeLayer, in_mounts

LINES = 2000


class CrashCases:
    """What was acknowledged is there, and nothing is there by halves."""

    def test_a_restart_changes_nothing(self, driver: StorageDriver, start: Start) -> None:
        """All snapshots, their states, contents and mounts are as before."""
        make_layer(driver, "one", None, files=["file"])
        make_layer(driver, "two", "one", files=["more"])
        driver.prepare("active", "two", PLAIN)
        driver.view("view", "two", PLAIN)
        in_mounts(driver.mounts("active"), lambda root: (root / "mine").write_text("x"))
        told = list(driver.walk())
        mounts = {key: driver.mounts(key) for key in ("active", "view")}
        assert mounts == {key: driver.mounts(key) for key in mounts}
        driver.close()
        again = start()
        assert list(again.walk()) == told
        assert {key: again.mounts(key) for key in mounts} == mounts
        assert sorted(in_mounts(again.mounts("active"), os.listdir)) == ["file", "mine", "more"]

    def test_kill(self, driver: StorageDriver, start: Start) -> None:
        """Whatever was acknowledged before a kill -9 is there, and nothing is there by halves."""
        driver.close()
        dice = random.Random(5)
        expected: dict[str, tuple[str, str | None, SnapshotKind]] = {}
        for number in range(12):
            acknowledged = _run_and_kill(start, number, list(expected.values()), dice)
            after = start()
            under_way = acknowledged.play(expected)
            found = {info.key: (info.key, info.parent, info.kind) for info in after.walk()}
            assert found in (expected, under_way)
            expected = found
            committed = [key for key, (_, _, kind) in found.items() if kind is SnapshotKind.COMMITTED]
            for key in committed[-3:]:
                after.view("check", key, PLAIN)
                shown = in_mounts(after.mounts("check"), lambda root: (root / "file").read_text())
                assert shown == _line(key) * LINES
                after.remove("check")
            after.close()

    @pytest.mark.parametrize("operation", ["prepare", "view", "apply", "commit", "remove", "remove a layer", "open"])
    def test_kill_between_any_two_steps(
        self, driver: StorageDriver, driver_root: Path, start: Start, operation: str
    ) -> None:  # fmt: skip
        """An operation that is cut off, wherever it is, happened or did not; then everything works."""
        make_layer(driver, "base", None, files=["file"])
        driver.close()
        for number in range(1, 2000):
            driver = start()
            before = _set_scene(driver)
            driver.close()
            if operation == "open":
                killed_before_line(25, start, lambda driver: driver.remove("key"))
                before = all_told(start())
                was_killed = killed_before_line(number, lambda: None, lambda _: start())
            else:
                was_killed = killed_before_line(number, start, lambda driver: _do(driver, operation))
            driver = start()
            after = all_told(driver)
            possible = dict(before)
            _OUTCOMES[operation](possible)
            assert after in ((before, possible) if was_killed else (possible,)), f"killed before line {number}"
            assert list(driver.check()) == [], f"killed before line {number}"
            for key, (_, parent, kind) in after.items():
                shown = in_mounts(driver.look(key), os.listdir)
                if kind is SnapshotKind.COMMITTED or operation != "apply":
                    assert ("file" in shown) is (parent is not None or key == "base"), f"killed before line {number}"
            for key in reversed(list(after)):
                if key != "base":
                    driver.remove(key)
            driver.close()
            if not was_killed:
                assert number > 3
                return
        raise AssertionError(f"{operation} did not end within 2000 lines")

    def test_threads_on_different_keys(self, driver: StorageDriver) -> None:
        """Operations on different snapshots run at once."""
        make_layer(driver, "base", None, files=["file"])

        def live(number: int) -> None:
            for turn in range(6):
                key = f"{number}-{turn}"
                driver.prepare(key, "base", PLAIN)
                driver.apply(key, HandMadeLayer(files=[key]))
                driver.commit(f"{key}-name", key)
                driver.view(key, f"{key}-name", PLAIN)
                assert driver.mounts(key)
                driver.usage(key)
                driver.remove(key)
                if turn % 2:
                    driver.remove(f"{key}-name")

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(live, number) for number in range(4)]:
                future.result()
        kept = sorted(f"{number}-{turn}-name" for number in range(4) for turn in (0, 2, 4))
        assert sorted(info.key for info in driver.walk()) == sorted(["base", *kept])
        for key in kept:
            driver.view("check", key, PLAIN)
            assert sorted(in_mounts(driver.mounts("check"), os.listdir)) == sorted(["file", key[:-5]])
            driver.remove("check")


def _set_scene(driver: StorageDriver) -> dict[str, Told]:
    """Have the layer `top` and the active snapshot `key`, each on `base`."""
    make_layer(driver, "top", "base", files=["more"])
    driver.prepare("key", "base", PLAIN)
    driver.apply("key", HandMadeLayer(files=["mine"]))
    return all_told(driver)


def _do(driver: StorageDriver, operation: str) -> None:
    match operation:
        case "prepare":
            driver.prepare("new", "base", PLAIN)
        case "view":
            driver.view("new", "base", PLAIN)
        case "apply":
            driver.apply("key", HandMadeLayer(files=["another"]))
        case "commit":
            driver.commit("name", "key")
        case "remove":
            driver.remove("key")
        case "remove a layer":
            driver.remove("top")


_OUTCOMES: dict[str, Callable[[dict[str, Told]], object]] = {
    "prepare": lambda told: told.update(new=("new", "base", SnapshotKind.ACTIVE)),
    "view": lambda told: told.update(new=("new", "base", SnapshotKind.VIEW)),
    "apply": lambda told: None,
    "commit": lambda told: (told.pop("key"), told.update(name=("name", "base", SnapshotKind.COMMITTED))),
    "remove": lambda told: told.pop("key"),
    "remove a layer": lambda told: told.pop("top"),
    "open": lambda told: None,
}


class Acknowledged:
    """What a killed process said before: `begin` before each operation and `done` after it."""

    def __init__(self, text: str) -> None:
        """Take the lines it wrote; one that was cut off does not count."""
        self._lines = [line.split(" ") for line in text.split("\n")[:-1]]

    def play(self, snapshots: dict[str, Told]) -> dict[str, Told]:
        """Do to `snapshots` what was acknowledged; give what it is if the one under way counts too."""
        under_way: list[str] | None = None
        for word, *operation in self._lines:
            if word == "done":
                _play(snapshots, operation)
            under_way = operation if word == "begin" else None
        possible = dict(snapshots)
        if under_way is not None:
            _play(possible, under_way)
        return possible


def _play(snapshots: dict[str, Told], operation: list[str]) -> None:
    name, key, other = operation
    if name == "prepare":
        snapshots[key] = (key, other or None, SnapshotKind.ACTIVE)
    elif name == "commit":
        snapshots[other] = (other, snapshots.pop(key)[1], SnapshotKind.COMMITTED)
    else:
        del snapshots[key]


def _line(name: str) -> str:
    """Give each line of the file in the committed snapshot `name`."""
    return f"contents of {name}\n"


def _run_and_kill(start: Start, number: int, present: list[Told], dice: random.Random) -> Acknowledged:
    """Work on a driver in a child until it has said a random number of lines, and kill it there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _work(start(), number, present, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        text = b""
        wanted = dice.randint(1, 60)
        while text.count(b"\n") < wanted and (part := pipe.read(256)):
            text += part
        os.kill(pid, signal.SIGKILL)
        while part := pipe.read(4096):
            text += part
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child failed by itself"
    return Acknowledged(text.decode())


def _work(driver: StorageDriver, number: int, present: list[Told], pipe: int) -> None:
    """Prepare, fill, commit and remove until killed, with a word before and after each."""

    def say(word: str, name: str, key: str, other: str = "") -> None:
        os.write(pipe, f"{word} {name} {key} {other}\n".encode())

    def remove(key: str) -> None:
        say("begin", "remove", key)
        driver.remove(key)
        say("done", "remove", key)

    committed = [key for key, _, kind in present if kind is SnapshotKind.COMMITTED]
    for key, _, kind in present:
        if kind is SnapshotKind.ACTIVE:
            remove(key)
    turn = 0
    while True:
        turn += 1
        key, name, parent = f"k{number}.{turn}", f"n{number}.{turn}", committed[-1] if committed else ""
        say("begin", "prepare", key, parent)
        driver.prepare(key, parent or None, PLAIN)
        say("done", "prepare", key, parent)
        driver.apply(key, HandMadeLayer(contents={"file": _line(name) * LINES}))
        if turn % 3 == 0:
            remove(key)
            continue
        say("begin", "commit", key, name)
        driver.commit(name, key)
        say("done", "commit", key, name)
        committed.append(name)
        if turn % 4 == 0:
            remove(committed.pop())
