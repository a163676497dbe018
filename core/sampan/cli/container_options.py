"""The flags that `run` and `create` share, with docker's names and defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sampan.cli.flags import duration, nano_cpus, size


def _list(*names: str, metavar: str, help: str) -> Callable[[Any], Any]:
    return click.option(*names, multiple=True, metavar=metavar, help=help)


def _text(*names: str, metavar: str = "TEXT", help: str) -> Callable[[Any], Any]:
    return click.option(*names, metavar=metavar, help=help)


def _size(*names: str, help: str) -> Callable[[Any], Any]:
    return click.option(*names, type=size, metavar="BYTES", help=help)


def _number(*names: str, help: str) -> Callable[[Any], Any]:
    return click.option(*names, type=int, metavar="N", help=help)


def _time(*names: str, help: str) -> Callable[[Any], Any]:
    return click.option(*names, type=duration, metavar="DURATION", help=help)


def _switch(*names: str, help: str) -> Callable[[Any], Any]:
    return click.option(*names, is_flag=True, help=help)


OPTIONS = (
    _list("--add-host", metavar="HOST:IP", help="Add a custom host-to-IP mapping."),
    _list("--annotation", metavar="KEY=VALUE", help="Add an annotation, passed on to the OCI runtime."),
    _list("-a", "--attach", metavar="STREAM", help="Attach to STDIN, STDOUT or STDERR."),
    click.option("--blkio-weight", type=click.IntRange(0, 1000), metavar="N",
                 help="Block IO weight, 10 to 1000, or 0 to disable."),
    _list("--blkio-weight-device", metavar="DEVICE:WEIGHT", help="Block IO weight of a device."),
    _list("--cap-add", metavar="CAP", help="Add a Linux capability."),
    _list("--cap-drop", metavar="CAP", help="Drop a Linux capability."),
    _text("--cgroup-parent", metavar="CGROUP", help="Parent cgroup of the container."),
    click.option("--cgroupns", type=click.Choice(["", "host", "private"]), help="Cgroup namespace."),
    _text("--cidfile", metavar="FILE", help="Write the container's id to a file."),
    _number("--cpu-period", help="CPU CFS period in microseconds."),
    _number("--cpu-quota", help="CPU CFS quota in microseconds."),
    _number("--cpu-rt-period", help="CPU real-time period in microseconds."),
    _number("--cpu-rt-runtime", help="CPU real-time runtime in microseconds."),
    _number("-c", "--cpu-shares", help="CPU shares (relative weight)."),
    click.option("--cpus", type=nano_cpus, metavar="DECIMAL", help="Number of CPUs."),
    _text("--cpuset-cpus", metavar="LIST", help="CPUs that may be used (0-3, 0,1)."),
    _text("--cpuset-mems", metavar="LIST", help="Memory nodes that may be used (0-3, 0,1)."),
    _list("--device", metavar="PATH[:PATH[:rwm]]", help="Add a host device."),
    _list("--device-cgroup-rule", metavar="RULE", help="Add a rule to the cgroup's allowed devices."),
    _list("--device-read-bps", metavar="DEVICE:RATE", help="Limit reading from a device, bytes a second."),
    _list("--device-read-iops", metavar="DEVICE:RATE", help="Limit reading from a device, operations a second."),
    _list("--device-write-bps", metavar="DEVICE:RATE", help="Limit writing to a device, bytes a second."),
    _list("--device-write-iops", metavar="DEVICE:RATE", help="Limit writing to a device, operations a second."),
    _list("--dns", metavar="IP", help="DNS server."),
    _list("--dns-option", "--dns-opt", metavar="OPTION", help="DNS option."),
    _list("--dns-search", metavar="DOMAIN", help="DNS search domain."),
    _text("--domainname", metavar="NAME", help="NIS domain name."),
    _text("--entrypoint", metavar="COMMAND", help="Overwrite the image's entry point."),
    _list("-e", "--env", metavar="KEY[=VALUE]", help="Set an environment variable."),
    _list("--env-file", metavar="FILE", help="Read environment variables from a file."),
    _list("--expose", metavar="PORT[-PORT][/PROTO]", help="Expose a port or a range."),
    _text("--gpus", metavar="GPUS", help="Refused: there is no GPU support."),
    _list("--group-add", metavar="GROUP", help="Add a supplementary group."),
    _text("--health-cmd", metavar="COMMAND", help="Command that checks health."),
    _time("--health-interval", help="Time between checks."),
    _number("--health-retries", help="Failures in a row that mean unhealthy."),
    _time("--health-start-interval", help="Time between checks in the start period."),
    _time("--health-start-period", help="Time to start before failures count."),
    _time("--health-timeout", help="Longest time for a check."),
    _text("-h", "--hostname", metavar="NAME", help="Host name."),
    click.option("--init", is_flag=True, default=None, help="Run an init that forwards signals and reaps processes."),
    _switch("-i", "--interactive", help="Keep STDIN open even if not attached."),
    _text("--ip", metavar="IPV4", help="IPv4 address in the first network."),
    _text("--ip6", metavar="IPV6", help="IPv6 address in the first network."),
    _text("--ipc", metavar="MODE", help="IPC namespace."),
    _text("--isolation", metavar="NAME", help="Isolation technology; `default` is the only one on Linux."),
    _list("-l", "--label", metavar="KEY=VALUE", help="Set a label."),
    _list("--label-file", metavar="FILE", help="Read labels from a file."),
    _list("--link", metavar="CONTAINER[:ALIAS]", help="Link to another container."),
    _list("--link-local-ip", metavar="IP", help="Link-local address."),
    _text("--log-driver", metavar="NAME", help="Log driver."),
    _list("--log-opt", metavar="KEY=VALUE", help="Option of the log driver."),
    _text("--mac-address", metavar="MAC", help="MAC address in the first network."),
    _size("-m", "--memory", help="Memory limit."),
    _size("--memory-reservation", help="Memory soft limit."),
    _size("--memory-swap", help="Limit of memory and swap together; -1 for no limit."),
    click.option("--memory-swappiness", type=click.IntRange(-1, 100), metavar="N", help="Swappiness, 0 to 100."),
    _list("--mount", metavar="SPEC", help="Attach a mount (type=…,src=…,dst=…)."),
    _text("--name", metavar="NAME", help="Name of the container."),
    _list("--network", "--net", metavar="NETWORK", help="Join a network; can be given more than once."),
    _list("--network-alias", "--net-alias", metavar="NAME", help="Name in the network."),
    _text("--network-driver", metavar="NAME", help="Join the default network of this driver."),
    _switch("--no-healthcheck", help="Disable the image's health check."),
    click.option("--oom-kill-disable", is_flag=True, default=None, help="Disable the OOM killer (cgroup v1)."),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), metavar="N", help="OOM preference."),
    _text("--pid", metavar="MODE", help="PID namespace."),
    _number("--pids-limit", help="Limit of processes; -1 for none."),
    _text("--platform", metavar="OS/ARCH", help="Platform of the image."),
    _switch("--privileged", help="Give extended privileges."),
    _list("-p", "--publish", metavar="[[IP:]PORT:]PORT[/PROTO]", help="Publish a port or a range on the host."),
    _switch("-P", "--publish-all", help="Publish all exposed ports on free ports."),
    click.option("--pull", type=click.Choice(["always", "missing", "never"]), default="missing", show_default=True,
                 help="Pull the image before."),
    _switch("-q", "--quiet", help="Do not show the progress of a pull."),
    _switch("--read-only", help="Mount the root file system read-only."),
    _text("--restart", metavar="POLICY", help="no, always, unless-stopped, on-failure[:N].  [default: no]"),
    _switch("--rm", help="Remove the container and its anonymous volumes when it exits."),
    _text("--runtime", metavar="NAME", help="Runtime driver."),
    _list("--security-opt", metavar="OPTION", help="Security option."),
    _size("--shm-size", help="Size of /dev/shm."),
    _text("--stop-signal", metavar="SIGNAL", help="Signal that stops the container."),
    _number("--stop-timeout", help="Seconds to wait before it is killed."),
    _text("--storage-driver", metavar="NAME", help="Storage driver of the root file system."),
    _list("--storage-opt", metavar="KEY=VALUE", help="Option of the storage driver."),
    _list("--sysctl", metavar="KEY=VALUE", help="Set a namespaced kernel parameter."),
    _list("--tmpfs", metavar="PATH[:OPTIONS]", help="Mount a tmpfs."),
    _switch("-t", "--tty", help="Allocate a pseudo-TTY."),
    _list("--ulimit", metavar="NAME=SOFT[:HARD]", help="Set a resource limit."),
    _text("-u", "--user", metavar="USER[:GROUP]", help="User name or id."),
    _text("--userns", metavar="MODE", help="User namespace."),
    _text("--uts", metavar="MODE", help="UTS namespace."),
    _list("-v", "--volume", metavar="[SOURCE:]PATH[:MODE]", help="Mount a volume or a host directory."),
    _text("--volume-driver", metavar="NAME", help="Volume driver."),
    _list("--volumes-from", metavar="CONTAINER[:ro]", help="Mount the volumes of another container."),
    _text("-w", "--workdir", metavar="DIR", help="Working directory."),
)  # fmt: skip


def container_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all of `OPTIONS`."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function
