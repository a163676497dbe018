"""`stats`: what containers use, once or again and again. Each container has a connection, and a thread that reads it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from io import StringIO
from typing import Any

import click

from sampan.cli.client import Client, current, filters_query, quote
from sampan.cli.failure import CliError
from sampan.cli.flags import Command
from sampan.cli.listing import short_id
from sampan.cli.table import show
from sampan.cli.units import binary_size, human_size

_HEADERS = {
    "Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}  # fmt: skip
_SHOWN = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")

_REFRESH = 0.5
"""Seconds between two pictures, as docker's."""

_HOME, _TO_LINE_END, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command("stats", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Show all containers, not only running ones.")
@click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template.")
@click.option("--no-stream", is_flag=True, help="Show what is used now, and end.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten the output.")
@click.argument("containers", nargs=-1, metavar="[CONTAINER...]")
def stats(containers: tuple[str, ...], everything: bool, template: str | None, no_stream: bool, no_trunc: bool) -> int:
    """Display a live stream of container(s) resource usage statistics."""
    board = _Board(current(), stream=not no_stream)
    if containers:
        for name in containers:
            board.add(name)
        board.wait_for_first()
        if error := board.first_error():
            raise error
    else:
        if not no_stream:
            board.follow_events(everything)
        for item in current().get("/containers/json", {"all": everything}):
            board.add(item["Id"])
        board.wait_for_first()
    if no_stream:
        show(board.rows(no_trunc), _HEADERS, _SHOWN, template=template)
        return 0
    while not (containers and board.is_over):
        sys.stdout.write(_picture(board.rows(no_trunc), template))
        sys.stdout.flush()
        time.sleep(_REFRESH)
    return 0


def _picture(rows: list[dict[str, Any]], template: str | None) -> str:
    """Draw over what was there before: a cleared screen would flicker."""
    shown, screen = StringIO(), sys.stdout
    sys.stdout = shown
    try:
        show(rows, _HEADERS, _SHOWN, template=template)
    finally:
        sys.stdout = screen
    return _HOME + shown.getvalue().replace("\n", f"{_TO_LINE_END}\n") + _TO_END


class _Watched:
    """One container: the newest reading, or why there is none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reading: dict[str, Any] | None = None
        self.error: CliError | None = None
        self.over = False
        self.first = threading.Event()

    def read(self, client: Client, stream: bool) -> None:
        try:
            with client.stream("GET", f"/containers/{quote(self.name)}/stats", {"stream": int(stream)}) as response:
                for reading in response.json_stream():
                    self.reading = reading
                    self.first.set()
        except CliError as error:
            self.error = error
        finally:
            self.over = True
            self.first.set()


class _Board:
    """All containers that are shown, in the order in which they came."""

    def __init__(self, client: Client, *, stream: bool) -> None:
        self._client = client
        self._stream = stream
        self._watched: dict[str, _Watched] = {}

    def add(self, name: str) -> None:
        if name in self._watched and not self._watched[name].over:
            return
        watched = self._watched[name] = _Watched(name)
        threading.Thread(target=watched.read, args=(self._client, self._stream), daemon=True).start()

    def follow_events(self, everything: bool) -> None:
        """Show containers as they come and go; `everything`: also those that don't run."""
        actions = ("create", "destroy") if everything else ("start", "die")
        filters = filters_query(("type=container", *(f"event={action}" for action in actions)))
        events = self._client.stream("GET", "/events", {"filters": filters})

        def follow() -> None:
            for event in events.json_stream():
                if event["Action"] == actions[0]:
                    self.add(event["Actor"]["ID"])
                else:
                    self._watched.pop(event["Actor"]["ID"], None)

        threading.Thread(target=follow, daemon=True).start()

    def wait_for_first(self) -> None:
        for watched in list(self._watched.values()):
            watched.first.wait()

    def first_error(self) -> CliError | None:
        return next((watched.error for watched in self._watched.values() if watched.error), None)

    @property
    def is_over(self) -> bool:
        return all(watched.over for watched in self._watched.values())

    def rows(self, no_trunc: bool) -> list[dict[str, Any]]:
        return [_row(watched.name, watched.reading, no_trunc) for watched in list(self._watched.values())]


def _row(asked: str, reading: Mapping[str, Any] | None, no_trunc: bool) -> dict[str, Any]:
    if reading is None:
        return {"BlockIO": "--", "CPUPerc": "--", "Container": asked, "ID": asked, "MemPerc": "--", "MemUsage": "-- / --",
                "Name": "--", "NetIO": "--", "PIDs": "--"}  # fmt: skip
    memory = reading["memory_stats"]
    used, limit = _used_memory(memory), memory.get("limit", 0)
    received = sum(counts["rx_bytes"] for counts in (reading.get("networks") or {}).values())
    sent = sum(counts["tx_bytes"] for counts in (reading.get("networks") or {}).values())
    read, written = (_block_bytes(reading["blkio_stats"], letter) for letter in "rw")
    return {
        "BlockIO": f"{human_size(read)} / {human_size(written)}",
        "CPUPerc": f"{_cpu_percent(reading):.2f}%",
        "Container": asked,
        "ID": short_id(reading["id"], no_trunc),
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "Name": reading["name"].removeprefix("/"),
        "NetIO": f"{human_size(received)} / {human_size(sent)}",
        "PIDs": str(reading["pids_stats"].get("current", 0)),
    }


def _cpu_percent(reading: Mapping[str, Any]) -> float:
    """Give the share of one processor that was used since the reading before; more than 100 of more than one."""
    now, before = reading["cpu_stats"], reading["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    return used / passed * now.get("online_cpus", 1) * 100.0 if used > 0 and passed > 0 else 0.0


def _used_memory(memory: Mapping[str, Any]) -> int:
    """Give what is used beyond the page cache that could go at once; v1 and v2 name that differently."""
    usage: int = memory.get("usage", 0)
    stat = memory.get("stats") or {}
    cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    return usage - cache if cache < usage else usage


def _block_bytes(block: Mapping[str, Any], letter: str) -> int:
    counts = block.get("io_service_bytes_recursive") or ()
    return sum(count["value"] for count in counts if count["op"][:1].lower() == letter)
