"""The same tests with two clients: the stock docker client, and ours."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ground.daemon import Daemon, docker_client
from ground.terminal import Terminal


@dataclass(frozen=True)
class Client:
    """A command line client of one daemon."""

    name: str
    program: tuple[str, ...]
    daemon: Daemon

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; `check` is the exit status that it must have."""
        return self.daemon.run(*self.program, *arguments, **options)

    def out(self, *arguments: str, **options: Any) -> str:
        """Run a command that must succeed; give its output."""
        return self(*arguments, **options).stdout.decode().strip()

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command with pipes for its streams; it is ended with the block."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            self.daemon.inside([*self.program, *arguments]), stdin=pipe, stdout=pipe, stderr=pipe,
            pass_fds=(self.daemon.netns,), env=self.daemon.client_environment(),
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def terminal(self, *arguments: str, rows: int = 24, columns: int = 80) -> Terminal:
        """Start a command on a terminal."""
        command = self.daemon.inside([*self.program, *arguments])
        return Terminal(command, self.daemon.client_environment(), (self.daemon.netns,), rows, columns)


def _client(name: str, daemon: Daemon) -> Client:
    return Client(name, (docker_client(),) if name == "docker" else (sys.executable, "-m", "sampan.cli"), daemon)


@pytest.fixture(params=["docker", "sampan"])
def client(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Client]:
    """Either client."""
    yield _client(request.param, daemon)


@pytest.fixture
def docker(daemon: Daemon) -> Client:
    """The stock docker client."""
    return _client("docker", daemon)
