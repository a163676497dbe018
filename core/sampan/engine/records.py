"""What the store keeps of each object. Times in nanoseconds since the epoch, 0 for never."""

from __future__ import annotations

import enum

from pydantic import BaseModel, ConfigDict

from sampan.api.types import ContainerConfig, EndpointSettings, HostConfig, IpamConfig


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(extra="ignore")


class Status(enum.StrEnum):
    """A container's state in Docker's words."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


class ContainerState(Record):
    """Where a container is in its life."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0

    @property
    def is_running(self) -> bool:
        """Say whether there is a process."""
        return self.status in (Status.RUNNING, Status.PAUSED)


class MountPoint(Record):
    """A mount of a container, resolved: `source` is a path on the host (for a volume: its directory, known at start)."""

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    options: list[str] = []
    create: bool = False
    copy_up: bool = False
    recursive: bool = True
    """Of a bind: with what is mounted below its source."""
    recursive_ro: bool = True
    """Of one that is not `rw`: so is what is mounted below it."""


class ContainerRecord(Record):
    """A container."""

    id: str
    name: str
    created: int
    image_id: str
    config: ContainerConfig
    host: HostConfig
    networks: dict[str, EndpointSettings] = {}
    """The networks that it is in while it runs, by name, in the order of joining."""
    links: list[tuple[str, str]] = []
    """(id, alias) of containers that it is linked to on the default bridge."""
    mounts: list[MountPoint] = []
    storage_driver: str
    runtime: str
    log_driver: str
    state: ContainerState = ContainerState()
    restart_count: int = 0
    has_started: bool = False
    manually_stopped: bool = False

    def settings_in(self, network: NetworkRecord) -> EndpointSettings:
        """Give what is asked of the container's place in a network."""
        return self.networks.get(network.name) or EndpointSettings()

    @property
    def command(self) -> list[str]:
        """Give what is run: entry point and command."""
        return [*(self.config.entrypoint or []), *(self.config.cmd or [])]


class EndpointRecord(Record):
    """A container's place in a network while it runs."""

    id: str
    network_id: str
    container_id: str
    interface: str = "eth0"
    mac: str = ""
    ipv4: str | None = None
    ipv6: str | None = None
    link_local: list[str] = []
    gateway_for: list[int] = [4, 6]
    options: dict[str, str] = {}
    host_interface: str = ""
    ports: list[tuple[str, int, int, str, int]] = []
    """(protocol, container port, host port, host ip, count) as published."""
    whole: bool = True
    """Not while a container that runs joins or leaves: a crash leaves an endpoint that is to be taken away."""


class NetworkRecord(Record):
    """A network. `subnets` are (prefix, gateway), each with what was asked of its pool at the same place in `ipam.config`."""

    id: str
    name: str
    driver: str
    created: int
    subnets: list[tuple[str, str | None]] = []
    internal: bool = False
    ipv4: bool = True
    ipv6: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    ipam: IpamConfig = IpamConfig()
    is_default: bool = False


class VolumeRecord(Record):
    """A volume. One that is not `whole` is being made or removed, and is not there for anyone; a crash leaves it to be removed."""

    name: str
    driver: str
    created: int
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    anonymous: bool = False
    whole: bool = True


class ImageRecord(Record):
    """An image: `id` is the digest of its config, `layers` the descriptors' (digest, media type, bytes).

    `layer_sizes`: bytes of the files in each layer, and `size` their sum: what Docker calls an image's size.
    """

    id: str
    manifest_digest: str
    manifest_type: str = "application/vnd.oci.image.manifest.v1+json"
    created: int
    size: int
    diff_ids: list[str]
    layers: list[tuple[str, str, int]]
    layer_sizes: list[int] = []
    architecture: str
    os: str
    config: ContainerConfig
    loaded: int = 0

    def blobs(self) -> dict[str, int | None]:
        """Give the blobs that the image consists of, with their bytes where the image tells them."""
        return {self.manifest_digest: None, self.id: None, **{digest: size for digest, _, size in self.layers}}
