"""Containers by runc that go on when their shim has died."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sampan.api.driver import Probe
from sampan.api.errors import SampanError, System, Unsupported
from sampan.api.runtime import CreateRequest, Handle, Recovered, RuntimeCapability, RuntimeContext
from sampan.linux.exits import exit_code
from sampan_runtime_example.keeper import dismiss, keep, reclaim
from sampan_runtime_oci.driver import OciRuntime, RuncRuntime

VERSION = 1


class ExampleRuntime(OciRuntime):
    """All that runc does, and besides: the outputs are pipes that somebody holds, whatever becomes of the shim.

    Standard input ends with the shim, and a container with a terminal too.
    """

    name = "example"

    def __init__(self, context: RuntimeContext, config: Mapping[str, Any]) -> None:
        """The program is runc unless the settings name another one."""
        super().__init__(context, {**config, "binary": config.get("binary") or RuncRuntime.name})

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """As runc's."""
        found = RuncRuntime.probe(root)
        return replace(found, capabilities=found.capabilities | {RuntimeCapability.RECOVER}) if found.supported else found

    def create(self, request: CreateRequest) -> Handle:
        """See that the outputs outlive the shim."""
        if request.stdio.console < 0:
            keep(request.stdio, self.context.state)
        try:
            return replace(super().create(request), version=VERSION)
        except BaseException:
            dismiss(self.context.state)
            raise

    def delete(self, handle: Handle) -> None:
        """Delete the container, and let the keeper go."""
        super().delete(handle)
        dismiss(self.context.state)

    def recover(self, handle: Handle) -> Recovered | None:
        """Give the outputs back, if the container is still there, and wait for it by the kernel's help."""
        if handle.version != VERSION:
            raise Unsupported(f"recover a container: its handle has version {handle.version}, and this release knows {VERSION}")
        try:
            pidfd = os.pidfd_open(handle.pid)
            lives = handle.pid in self.processes(handle)  # looked at after: so the descriptor is of the container's process
        except (OSError, SampanError):  # the process is gone, or runc knows of no such container
            return None
        streams = reclaim(self.context.state) if lives else None
        return Recovered(partial(_exit_code, handle.pid, pidfd), streams) if streams else None


def _exit_code(pid: int, pidfd: int) -> int:
    try:
        return exit_code(pid, pidfd)
    except OSError as error:
        raise System(f"wait for process {pid}: {error.strerror}") from error
