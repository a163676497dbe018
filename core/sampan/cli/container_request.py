"""From the flags of `run` and `create` to the body of POST /containers/create."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sampan.cli import environment, mounts, ports
from sampan.cli.failure import CANNOT_RUN, CliError
from sampan.cli.units import parse_size

Options = Mapping[str, Any]
"""The parsed flags by name, as click gives them; the names are those of `container_options`."""


class CreateRequest(NamedTuple):
    """What to send: `body` is the API's ContainerCreateRequest."""

    image: str
    name: str | None
    platform: str | None
    body: dict[str, Any]


def build(options: Options, image: str, command: Sequence[str], *, detach: bool) -> CreateRequest:
    """Build the request. Raises `CliError`, with status 125, for flags that are malformed or contradict each other."""
    try:
        _refuse_conflicts(options, detach)
        body = _config(options, image, command, detach)
        publications = [item for text in options["publish"] for item in ports.parse_publish(text)]
        exposed = [item.port for item in publications]
        exposed += [port for text in options["expose"] for port in ports.parse_expose(text)]
        body["ExposedPorts"] = {port: {} for port in exposed}
        body["HostConfig"] = _host_config(options) | {"PortBindings": ports.bindings(publications)}
        body["Volumes"] = {}
        for text in options["volume"]:
            bind, anonymous = mounts.parse_volume(text)
            if bind:
                body["HostConfig"]["Binds"].append(bind)
            else:
                body["Volumes"][anonymous] = {}
        mode, endpoints = _networks(options)
        body["HostConfig"]["NetworkMode"] = mode
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    except (ValueError, OSError) as error:
        raise CliError(str(error), status=CANNOT_RUN) from error
    return CreateRequest(image, options["name"], options["platform"], body)


def _refuse_conflicts(options: Options, detach: bool) -> None:
    if options["gpus"]:
        raise CliError("--gpus is not supported", remedy="Pass the devices with --device", status=CANNOT_RUN)
    if options["isolation"] not in (None, "", "default"):
        raise ValueError(f"invalid isolation {options['isolation']!r}: Linux has only 'default'")
    if detach and options["attach"]:
        raise ValueError("conflicting options: -a and -d")
    if options["rm"] and options["restart"] not in (None, "", "no"):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    if options["network_driver"] and options["network"]:
        raise ValueError("conflicting options: --network and --network-driver")
    if options["no_healthcheck"] and _health_flags(options):
        raise ValueError("--no-healthcheck conflicts with --health-* options")


def _config(options: Options, image: str, command: Sequence[str], detach: bool) -> dict[str, Any]:
    streams = _attached(options, detach)
    config: dict[str, Any] = {
        "Image": image,
        "Cmd": list(command) or None,
        "Entrypoint": None if options["entrypoint"] is None else [options["entrypoint"]],
        "Hostname": options["hostname"] or "",
        "Domainname": options["domainname"] or "",
        "User": options["user"] or "",
        "WorkingDir": options["workdir"] or "",
        "Env": environment.environment(options["env"], options["env_file"], os.environ),
        "Labels": environment.labels(options["label"], options["label_file"]),
        "Tty": options["tty"],
        "OpenStdin": options["interactive"],
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "StdinOnce": options["interactive"] and "stdin" in streams,
    }
    if options["stop_signal"]:
        config["StopSignal"] = options["stop_signal"]
    if options["stop_timeout"] is not None:
        config["StopTimeout"] = options["stop_timeout"]
    if health := _healthcheck(options):
        config["Healthcheck"] = health
    return config


def _attached(options: Options, detach: bool) -> set[str]:
    if detach:
        return set()
    if options["attach"]:
        chosen = {name.lower() for name in options["attach"]}
        if unknown := chosen - {"stdin", "stdout", "stderr"}:
            raise ValueError(f"valid streams are STDIN, STDOUT and STDERR, not {sorted(unknown)[0]!r}")
        return chosen
    return {"stdout", "stderr"} | ({"stdin"} if options["interactive"] else set())


def _health_flags(options: Options) -> bool:
    names = ("cmd", "interval", "retries", "start_interval", "start_period", "timeout")
    return any(options[f"health_{name}"] not in (None, "") for name in names)


def _healthcheck(options: Options) -> dict[str, Any] | None:
    if options["no_healthcheck"]:
        return {"Test": ["NONE"]}
    if not _health_flags(options):
        return None
    for name in ("interval", "timeout", "start_period", "start_interval"):
        if (options[f"health_{name}"] or 0) < 0:
            raise ValueError(f"--health-{name.replace('_', '-')} cannot be negative")
    return {
        "Test": ["CMD-SHELL", options["health_cmd"]] if options["health_cmd"] else None,
        "Interval": options["health_interval"] or 0,
        "Timeout": options["health_timeout"] or 0,
        "StartPeriod": options["health_start_period"] or 0,
        "StartInterval": options["health_start_interval"] or 0,
        "Retries": options["health_retries"] or 0,
    }


def _host_config(options: Options) -> dict[str, Any]:
    config = _resources(options)
    config |= {
        "Binds": [],
        "ContainerIDFile": options["cidfile"] or "",
        "LogConfig": {
            "Type": options["log_driver"] or "",
            "Config": environment.mapping(options["log_opt"], "log option"),
        },
        "RestartPolicy": restart_policy(options["restart"]),
        "AutoRemove": options["rm"],
        "VolumeDriver": options["volume_driver"] or "",
        "VolumesFrom": list(options["volumes_from"]),
        "CapAdd": list(options["cap_add"]),
        "CapDrop": list(options["cap_drop"]),
        "CgroupnsMode": options["cgroupns"] or "",
        "Dns": list(options["dns"]),
        "DnsOptions": list(options["dns_option"]),
        "DnsSearch": list(options["dns_search"]),
        "ExtraHosts": [_extra_host(item) for item in options["add_host"]],
        "GroupAdd": list(options["group_add"]),
        "IpcMode": options["ipc"] or "",
        "Links": list(options["link"]),
        "OomScoreAdj": options["oom_score_adj"] or 0,
        "PidMode": options["pid"] or "",
        "Privileged": options["privileged"],
        "PublishAllPorts": options["publish_all"],
        "ReadonlyRootfs": options["read_only"],
        "StorageOpt": _storage(options),
        "Tmpfs": dict(mounts.parse_tmpfs(item) for item in options["tmpfs"]),
        "UTSMode": options["uts"] or "",
        "UsernsMode": options["userns"] or "",
        "ShmSize": options["shm_size"] or 0,
        "Sysctls": environment.mapping(options["sysctl"], "sysctl"),
        "Runtime": options["runtime"] or "",
        "Isolation": options["isolation"] or "",
        "Annotations": environment.mapping(options["annotation"], "annotation"),
        "Mounts": [_named("mount", item, mounts.parse_mount) for item in options["mount"]],
    }
    if options["init"] is not None:
        config["Init"] = options["init"]
    return config | _security(options["security_opt"])


def _resources(options: Options) -> dict[str, Any]:
    if options["cpus"] and (options["cpu_period"] or options["cpu_quota"]):
        raise ValueError("conflicting options: --cpus and --cpu-period or --cpu-quota")
    resources: dict[str, Any] = {
        "CpuShares": options["cpu_shares"] or 0,
        "Memory": options["memory"] or 0,
        "NanoCpus": options["cpus"] or 0,
        "CgroupParent": options["cgroup_parent"] or "",
        "BlkioWeight": options["blkio_weight"] or 0,
        "BlkioWeightDevice": [_device_rate(item, "Weight", _whole) for item in options["blkio_weight_device"]],
        "BlkioDeviceReadBps": [_device_rate(item, "Rate", parse_size) for item in options["device_read_bps"]],
        "BlkioDeviceWriteBps": [_device_rate(item, "Rate", parse_size) for item in options["device_write_bps"]],
        "BlkioDeviceReadIOps": [_device_rate(item, "Rate", _whole) for item in options["device_read_iops"]],
        "BlkioDeviceWriteIOps": [_device_rate(item, "Rate", _whole) for item in options["device_write_iops"]],
        "CpuPeriod": options["cpu_period"] or 0,
        "CpuQuota": options["cpu_quota"] or 0,
        "CpuRealtimePeriod": options["cpu_rt_period"] or 0,
        "CpuRealtimeRuntime": options["cpu_rt_runtime"] or 0,
        "CpusetCpus": options["cpuset_cpus"] or "",
        "CpusetMems": options["cpuset_mems"] or "",
        "Devices": [_device(item) for item in options["device"] if not _CDI_NAME.fullmatch(item)],
        "DeviceRequests": _device_requests(options["device"]),
        "DeviceCgroupRules": [_device_rule(item) for item in options["device_cgroup_rule"]],
        "MemoryReservation": options["memory_reservation"] or 0,
        "MemorySwap": options["memory_swap"] or 0,
        "Ulimits": [_ulimit(item) for item in options["ulimit"]],
    }
    if options["memory_swappiness"] not in (None, -1):
        resources["MemorySwappiness"] = options["memory_swappiness"]
    if options["oom_kill_disable"] is not None:
        resources["OomKillDisable"] = options["oom_kill_disable"]
    if options["pids_limit"] is not None:
        resources["PidsLimit"] = options["pids_limit"]
    return resources


def _named(flag: str, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f'invalid argument "{text}" for "--{flag}" flag: {error}') from None


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _device_rate(text: str, key: str, parse: Callable[[str], int]) -> dict[str, Any]:
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise ValueError(f"bad format: {text!r}: it is /dev/DEVICE:{key.upper()}")
    return {"Path": path, key: parse(rate)}


_CDI_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.-]*/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*")
"""`vendor.com/class=name`, by the Container Device Interface."""


def _device_requests(items: Iterable[str]) -> list[dict[str, Any]]:
    names = [item for item in items if _CDI_NAME.fullmatch(item)]
    return [{"Driver": "cdi", "DeviceIDs": names}] if names else []


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"invalid device specification: {text}")
    inside, mode = parts[0], "rwm"
    if len(parts) > 1:
        if _is_device_mode(parts[1]) and len(parts) == 2:
            mode = parts[1]
        else:
            inside = parts[1] or parts[0]
    if len(parts) == 3:
        mode = parts[2]
        if not _is_device_mode(mode):
            raise ValueError(f"invalid device mode: {mode}")
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": mode}


def _is_device_mode(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and set(text) <= set("rwm")


def _device_rule(text: str) -> str:
    if not re.fullmatch(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", text):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


_ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
)  # fmt: skip


def _ulimit(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    soft, colon, hard = value.partition(":")
    if not equals or not re.fullmatch(r"-?\d+", soft) or colon and not re.fullmatch(r"-?\d+", hard):
        raise ValueError(f"invalid ulimit argument: {text}: it is NAME=SOFT[:HARD]")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}: it is one of {', '.join(_ULIMITS)}")
    limits = int(soft), int(hard if colon else soft)
    if limits[1] != -1 and (limits[0] > limits[1] or limits[0] == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {text}")
    return {"Name": name, "Soft": limits[0], "Hard": limits[1]}


def restart_policy(text: str | None) -> dict[str, Any]:
    """Give the API's object for `--restart`. Raises `ValueError`."""
    name, colon, count = (text or "no").partition(":")
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise ValueError(f"invalid restart policy {text!r}: it is no, always, unless-stopped or on-failure[:N]")
    if colon and not (count.isascii() and count.isdigit()):
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _extra_host(text: str) -> str:
    name, found, address = text.partition("=" if "=" in text else ":")
    address = address.removeprefix("[").removesuffix("]")
    if not (name and found and (address == "host-gateway" or _is_address(address))):
        raise ValueError(f"invalid IP address in add-host: {text!r}: it is HOST:IP")
    return f"{name}:{address}"


def _is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        return False
    return True


def _storage(options: Options) -> dict[str, str]:
    """Give StorageOpt; the daemon splits `driver=btrfs,size=10M`."""
    table = environment.mapping(options["storage_opt"], "storage option")
    if driver := options["storage_driver"]:
        if "driver" in table and table["driver"] != driver:
            raise ValueError("conflicting options: --storage-driver and --storage-opt driver")
        table["driver"] = driver
    return table


def _security(items: Iterable[str]) -> dict[str, Any]:
    """Give SecurityOpt with the seccomp profile's text in place of its file, and the paths to unmask."""
    found: dict[str, Any] = {"SecurityOpt": []}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            name, equals, value = item.partition(":")
        if item == "systempaths=unconfined":
            found |= {"MaskedPaths": [], "ReadonlyPaths": []}
            continue
        if not equals and name not in ("no-new-privileges", "writable-cgroups"):
            raise ValueError(f"invalid --security-opt: {item!r}")
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            item = f"seccomp={_profile(value)}"
        found["SecurityOpt"].append(item)
    return found


def _profile(path: str) -> str:
    from pathlib import Path

    try:
        return json.dumps(json.loads(Path(path).read_text()), separators=(",", ":"))
    except ValueError as error:
        raise ValueError(f"seccomp profile {path} is not JSON: {error}") from error


def _networks(options: Options) -> tuple[str, dict[str, Any]]:
    """Give HostConfig.NetworkMode and the settings of each endpoint."""
    if options["network_driver"]:
        mode = f"sampan-driver:{options['network_driver']}"
        settings = _endpoint(options)
        return mode, {mode: settings} if settings else {}
    wanted = [_network(item) for item in options["network"]] or [("default", {})]
    mode, own = wanted[0]
    endpoints = dict(wanted)
    if len(endpoints) != len(wanted):
        raise ValueError("a network is given twice")
    common = _endpoint(options)
    if twice := own.keys() & common.keys():
        raise ValueError(f"conflicting options: {', '.join(sorted(twice))} given for the container and for network {mode!r}")
    first = own | common
    special = mode in ("host", "none") or mode.startswith("container:")
    if options["link"] and not special and mode not in ("default", "bridge"):
        first["Links"] = list(options["link"])  # in a user's network the name server knows links
    if special and len(wanted) > 1:
        raise ValueError(f"conflicting options: network {mode!r} cannot be joined with others")
    if special and first:
        raise ValueError(f"conflicting options: addresses and aliases cannot be set for network {mode!r}")
    endpoints[mode] = first
    if len(wanted) == 1 and not first:
        return mode, {}
    return mode, endpoints


def _endpoint(options: Options) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if options["network_alias"]:
        settings["Aliases"] = list(options["network_alias"])
    if options["mac_address"]:
        settings["MacAddress"] = options["mac_address"]
    ipam: dict[str, Any] = {}
    for key, value in (("IPv4Address", options["ip"]), ("IPv6Address", options["ip6"])):
        if value:
            if not _is_address(value):
                raise ValueError(f"invalid address {value!r}")
            ipam[key] = value
    if options["link_local_ip"]:
        ipam["LinkLocalIPs"] = list(options["link_local_ip"])
    if ipam:
        settings["IPAMConfig"] = ipam
    return settings


def _network(text: str) -> tuple[str, dict[str, Any]]:
    """Parse `NAME` or `name=NAME,alias=…,ip=…,ip6=…,mac-address=…,link-local-ip=…,driver-opt=K=V,gw-priority=N`."""
    if "=" not in text:
        return text, {}
    name = ""
    settings: dict[str, Any] = {}
    for field in text.split(","):
        key, _, value = field.partition("=")
        key = key.strip().lower()
        match key:
            case "name":
                name = value
            case "alias":
                settings.setdefault("Aliases", []).append(value)
            case "ip" | "ip6":
                if not _is_address(value):
                    raise ValueError(f"invalid address {value!r}")
                settings.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = value
            case "link-local-ip":
                settings.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
            case "mac-address":
                settings["MacAddress"] = value
            case "driver-opt":
                settings.setdefault("DriverOpts", {}).update(environment.mapping([value], "driver option"))
            case "gw-priority":
                settings["GwPriority"] = _integer(value)
            case _:
                raise ValueError(f"invalid field {key!r} in network {text!r}")
    if not name:
        raise ValueError(f"network name is missing in {text!r}")
    return name, settings
