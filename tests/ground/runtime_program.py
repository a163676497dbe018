"""An OCI runtime's program, ours or another, with a bundle to run."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ground.waiting import wait_until
from sampan.testing.spec import container_spec

TIMEOUT = 60.0

COMMANDS = {"sampan-runtime": (sys.executable, "-m", "sampan_runtime_native.cli"), "runc": ("runc",)}

Done = subprocess.CompletedProcess[str]


@dataclass
class RuntimeProgram:
    """The program `name` with a root of its own, and a bundle whose root file system is `rootfs`."""

    name: str
    base: Path
    rootfs: Path
    id: str = field(default_factory=lambda: f"c-{secrets.token_hex(4)}")

    @property
    def bundle(self) -> Path:
        return self.base / "bundle"

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def command(self) -> list[str]:
        return [*COMMANDS[self.name], "--root", str(self.root)]

    def write(self, script: str, change: Callable[[dict[str, Any]], None] = lambda _: None, **process: Any) -> None:
        """Write a bundle that runs `script` in a shell; `change` may change the whole configuration."""
        spec = container_spec(["sh", "-c", script], cgroup=f"/sampan-test-{self.id}", **process)
        spec["root"]["path"] = str(self.rootfs)
        change(spec)
        self.bundle.mkdir(exist_ok=True)
        (self.bundle / "config.json").write_text(json.dumps(spec))

    def __call__(self, *arguments: str, check: int | None = 0, **options: Any) -> Done:
        """Run a command to its end; its exit status must be `check`."""
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=TIMEOUT, **options)
        assert check is None or done.returncode == check, (
            f"{arguments} gave {done.returncode}: {done.stdout} {done.stderr}"
        )
        return done

    def create(self, *options: str, **more: Any) -> Done:
        """Create the container from the bundle. Its output goes to a file: a pipe would stay open as long as it lives."""
        with (self.base / "output").open("ab") as output, (self.base / "errors").open("w+") as errors:
            command = [*self.command, "create", "--bundle", str(self.bundle), *options, self.id]
            check = more.pop("check", 0)
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                text=True,
                timeout=TIMEOUT,
                check=False,
                **more,
            )
            errors.seek(0)
            done.stderr = errors.read()
        assert check is None or done.returncode == check, done.stderr
        return done

    def start(self, script: str = "exec sleep 1000", *options: str, **process: Any) -> RuntimeProgram:
        """Write, create and start."""
        self.write(script, **process)
        self.create(*options)
        self("start", self.id)
        return self

    @property
    def output(self) -> str:
        return (self.base / "output").read_text()

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", self.id).stdout)
        return found

    def wait_for(self, status: str) -> None:
        wait_until(lambda: self.state()["status"] == status, f"{self.id} {status}")

    def cgroups(self) -> list[Path]:
        """Give the container's cgroups that are there, in all hierarchies."""
        top = Path("/sys/fs/cgroup")
        name = f"sampan-test-{self.id}"
        return [*sorted(top.glob(f"*/{name}")), *top.glob(name)]

    def close(self) -> None:
        """Delete what is left; then nothing may be."""
        self("delete", "--force", self.id, check=None)
        left = [*self.cgroups(), *(self.root.iterdir() if self.root.exists() else ())]
        assert left == []
