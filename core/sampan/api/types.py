"""The Docker Engine API's objects as pydantic models: what a client sends and what the store keeps.

Field names are Python's; aliases are the API's (v1.51). Unknown fields are ignored, wrong types refused, and `null` is the
same as a missing field, as Docker's own daemon takes it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_pascal


class ApiModel(BaseModel):
    """Base: PascalCase on the wire, `null` means the default."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data

    def wire(self) -> dict[str, Any]:
        """Give the object as the API shows it: fields in `only_if_set` are left out while they are empty, or what they are unasked."""
        shown = self.model_dump(by_alias=True)
        asked = self.model_dump(by_alias=True, exclude_defaults=True)
        return {key: value for key, value in shown.items() if key not in self.only_if_set or asked.get(key) not in _EMPTY}

    only_if_set: ClassVar[frozenset[str]] = frozenset()


_EMPTY: Final[tuple[object, ...]] = (None, "", [], {})  # not False and 0, where unasked is None


class HealthConfig(ApiModel):
    """A health check. Times in nanoseconds; an empty `test` inherits the image's."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ContainerConfig(ApiModel):
    """What runs: the part of a container's configuration that does not depend on the host; also an image's."""

    only_if_set = frozenset(
        ("ExposedPorts", "Healthcheck", "MacAddress", "NetworkDisabled", "Shell", "StopSignal", "StopTimeout")
    )

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    image: str = ""
    volumes: dict[str, dict[str, Any]] = {}
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] = {}
    stop_signal: str | None = None
    stop_timeout: int | None = None
    shell: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _strings_as_lists(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in ("Cmd", "Entrypoint"):
                if key in data:
                    data = {**data, key: _as_list(data[key])}
        return data


class LogConfig(ApiModel):
    """The log driver and its options; an empty type is the engine's default."""

    type: str = ""
    config: dict[str, str] = {}


class PortBinding(ApiModel):
    """One published place of a container's port; an empty port is chosen by the engine."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(ApiModel):
    """When the engine starts a container again: `no`, `always`, `unless-stopped`, `on-failure`."""

    name: str = ""
    maximum_retry_count: int = 0


class Ulimit(ApiModel):
    """One resource limit; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class DeviceMapping(ApiModel):
    """A host's device given to a container."""

    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class BindOptions(ApiModel):
    """Options of a bind mount."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriverConfig(ApiModel):
    """Which driver makes a volume that does not exist yet."""

    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(ApiModel):
    """Options of a volume mount."""

    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: VolumeDriverConfig = VolumeDriverConfig()
    subpath: str = ""


class TmpfsOptions(ApiModel):
    """Options of a tmpfs mount. Size in bytes, mode as octal number."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] = []


class MountRequest(ApiModel):
    """A mount asked for by `--mount`."""

    type: str = "volume"
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions = BindOptions()
    volume_options: VolumeOptions = VolumeOptions()
    tmpfs_options: TmpfsOptions = TmpfsOptions()


class WeightDevice(ApiModel):
    """A block device and its weight."""

    path: str
    weight: int


class ThrottleDevice(ApiModel):
    """A block device and its rate, in bytes or operations a second."""

    path: str
    rate: int


class HostConfig(ApiModel):
    """What the host gives a container: mounts, network, limits, isolation. Sizes in bytes, cpu times in microseconds."""

    only_if_set = frozenset(("Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs"))

    binds: list[str] = []
    container_id_file: str = Field("", alias="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = "default"
    port_bindings: dict[str, list[PortBinding] | None] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] = []
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] = {}
    mounts: list[MountRequest] = []
    cap_add: list[str] = []
    cap_drop: list[str] = []
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] = []
    group_add: list[str] = []
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] = []
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] = []
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = Field("", alias="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] = []
    blkio_device_read_bps: list[ThrottleDevice] = []
    blkio_device_write_bps: list[ThrottleDevice] = []
    blkio_device_read_i_ops: list[ThrottleDevice] = Field([], alias="BlkioDeviceReadIOps")
    blkio_device_write_i_ops: list[ThrottleDevice] = Field([], alias="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] = []
    device_cgroup_rules: list[str] = []
    device_requests: list[dict[str, Any]] = []
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] = []
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class EndpointIpamConfig(ApiModel):
    """The addresses asked for an endpoint."""

    ipv4_address: str = Field("", alias="IPv4Address")
    ipv6_address: str = Field("", alias="IPv6Address")
    link_local_ips: list[str] = Field([], alias="LinkLocalIPs")


class EndpointSettings(ApiModel):
    """What a client asks of a container's place in a network."""

    ipam_config: EndpointIpamConfig | None = Field(None, alias="IPAMConfig")
    links: list[str] = []
    aliases: list[str] = []
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0


class NetworkingConfig(ApiModel):
    """The networks that a new container is to join."""

    endpoints_config: dict[str, EndpointSettings] = {}


class ContainerCreateRequest(ContainerConfig):
    """The body of `POST /containers/create`."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()


class CheckpointCreateRequest(ApiModel):
    """The body of `POST /containers/{id}/checkpoints`."""

    checkpoint_id: str = Field("", alias="CheckpointID")
    checkpoint_dir: str = ""
    exit: bool = False


class ExecCreateRequest(ApiModel):
    """The body of `POST /containers/{id}/exec`."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    env: list[str] = []
    working_dir: str = ""
    cmd: list[str] = []


class ExecStartRequest(ApiModel):
    """The body of `POST /exec/{id}/start`."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


class IpamPool(ApiModel):
    """One subnet of a network as asked for."""

    subnet: str = ""
    ip_range: str = Field("", alias="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class NetworkReference(ApiModel):
    """Another network that a new one's configuration is taken from."""

    network: str = ""


class IpamConfig(ApiModel):
    """How a network gets its addresses."""

    driver: str = "default"
    options: dict[str, str] = {}
    config: list[IpamPool] = []


class NetworkCreateRequest(ApiModel):
    """The body of `POST /networks/create`. `enable_ipv4` and `enable_ipv6` None: as the options say, else IPv4 alone."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: NetworkReference = NetworkReference()
    enable_ipv4: bool | None = Field(None, alias="EnableIPv4")
    enable_ipv6: bool | None = Field(None, alias="EnableIPv6")
    ipam: IpamConfig = Field(IpamConfig(), alias="IPAM")
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class NetworkConnectRequest(ApiModel):
    """The body of `POST /networks/{id}/connect`."""

    container: str = ""
    endpoint_config: EndpointSettings = EndpointSettings()


class NetworkDisconnectRequest(ApiModel):
    """The body of `POST /networks/{id}/disconnect`."""

    container: str = ""
    force: bool = False


class VolumeCreateRequest(ApiModel):
    """The body of `POST /volumes/create`."""

    name: str = ""
    driver: str = "local"
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
