"""The walls between the parts, and what the small processes may not load."""

from __future__ import annotations

import pkgutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import sampan.linux

ROOT = Path(__file__).resolve().parents[2]

HEAVY = {"asyncio", "pydantic", "pluggy", "importlib.metadata", "sqlite3", "ssl", "http.client", "subprocess"}

LINUX = sorted(f"sampan.linux.{module.name}" for module in pkgutil.iter_modules(sampan.linux.__path__))
IN_EVERY_SHIM = ["sampan.api.runtime", "sampan.api.logs", "sampan.launch.zygote", "sampan.launch.shim"]
DRIVERS = sorted(
    entry_point.value.replace(".plugin", ".driver")
    for entry_point in entry_points(group="sampan")
    if entry_point.name.startswith(("sampan-runtime-", "sampan-log-"))
)


def test_the_drivers_of_the_shim_are_found() -> None:
    assert {"sampan_runtime_native.driver", "sampan_runtime_oci.driver", "sampan_log_json_file.driver"} <= set(DRIVERS)


@pytest.mark.parametrize("module", [*LINUX, *IN_EVERY_SHIM, *DRIVERS])
def test_what_lives_in_a_shim_is_light(module: str) -> None:
    assert heavy_after(f"import {module}") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["ps"], ["ps", "-a", "--format", "{{.Names}}"]])
def test_the_client_is_light(arguments: list[str], empty_daemon: str) -> None:
    command = f"from sampan.cli.app import run; status = run({['-H', empty_daemon, *arguments]!r}); assert status == 0"
    assert heavy_after(command) == set()


def test_a_heavy_import_is_seen() -> None:
    assert heavy_after("import asyncio") >= {"asyncio"}


def heavy_after(code: str) -> set[str]:
    """Give the heavy modules that a fresh interpreter has loaded once it ran `code`."""
    script = f"{code}\nimport sys\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.rpartition("loaded:")[2].split())


@pytest.fixture
def empty_daemon(tmp_path: Path) -> Iterator[str]:
    """Give the address of something that answers every request with an empty list."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"unix://{path}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_import_walls_stand(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--cache-dir", tmp_path, "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_every_package_is_within_the_walls() -> None:
    """A plugin that pyproject.toml forgets in one of its lists would be checked by nothing."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {path.name for path in (ROOT / "plugins").glob("*/sampan_*") if path.is_dir()}
    contracts = project["tool"]["importlinter"]["contracts"]
    assert packages <= set(project["tool"]["importlinter"]["root_packages"])
    by_name = {contract["name"]: contract for contract in contracts}
    assert packages == set(by_name["core imports no plugin"]["forbidden_modules"])
    assert packages == set(by_name["a plugin imports only sampan.api and sampan.linux"]["source_modules"])
    assert packages == set(by_name["plugins do not import each other"]["modules"])
    wheel = {Path(path).name for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert wheel == packages | {"sampan"}
    registered = {value.partition(".")[0] for value in project["project"]["entry-points"]["sampan"].values()}
    assert registered == packages
