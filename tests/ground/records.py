"""Records as the engine keeps them, for tests of its pure parts."""

from __future__ import annotations

from typing import Any

from sampan.api.types import ContainerConfig, HostConfig
from sampan.engine.records import ContainerRecord, MountPoint

CONTAINER_ID = "c0ffee" + "0" * 58


def container_record(
    *, host: dict[str, Any] | None = None, mounts: list[MountPoint] | None = None, name: str = "keel", **config: Any
) -> ContainerRecord:
    """Give a container's record; `host` and `config` are as the API writes them (`Memory`, `Env`)."""
    settings = {"Hostname": "c0ffee000000", "Cmd": ["true"], "Image": "busybox"} | config
    return ContainerRecord(
        id=CONTAINER_ID, name=name, created=1_700_000_000 * 10**9, image_id="sha256:" + "1" * 64,
        config=ContainerConfig.model_validate(settings), host=HostConfig.model_validate(host or {}),
        mounts=mounts or [], storage_driver="vfs", runtime="native", log_driver="json-file",
    )  # fmt: skip
