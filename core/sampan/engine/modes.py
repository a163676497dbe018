"""Which namespaces a container has of its own, the host's, or another container's: Docker's modes, checked at create."""

from __future__ import annotations

from sampan.api.errors import InvalidArgument
from sampan.api.types import HostConfig
from sampan.linux import cgroups

CONTAINER = "container:"

_IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)


def check_modes(host: HostConfig, *, remapped: bool) -> None:
    """Refuse modes that are unknown or contradict each other, in Docker's words. Raises `InvalidArgument`.

    `remapped`: the daemon gives its containers user namespaces, unless they ask for the host's.
    """
    if host.userns_mode not in ("", "host"):
        raise InvalidArgument(f"invalid USER mode: {host.userns_mode}")
    if host.uts_mode not in ("", "host"):
        raise InvalidArgument(f"invalid UTS mode: {host.uts_mode}")
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidArgument(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.pid_mode not in ("", "host") and not _names_container(host.pid_mode):
        raise InvalidArgument(f"invalid PID mode: {host.pid_mode}")
    if host.ipc_mode not in ("", "private", "host", "shareable", "none") and not _names_container(host.ipc_mode):
        raise InvalidArgument(f"invalid IPC mode: {host.ipc_mode}")
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f'invalid isolation "{host.isolation}": Linux only supports \'default\'')
    if remapped and host.userns_mode != "host":
        _check_remapped(host)


def _names_container(mode: str) -> bool:
    return bool(mode.startswith(CONTAINER) and mode.removeprefix(CONTAINER))


def _check_remapped(host: HostConfig) -> None:
    remedy = "add --userns=host"
    if host.privileged:
        raise InvalidArgument(
            "privileged mode is incompatible with user namespaces."
            "  You must run the container in the host namespace when running privileged mode",
            remedy=remedy,
        )
    for whose, mode in (("host's network", host.network_mode), ("host PID", host.pid_mode), ("host IPC", host.ipc_mode)):
        if mode == "host":
            raise InvalidArgument(f"cannot share the {whose} namespace when user namespaces are enabled", remedy=remedy)
    if any(option.startswith("writable-cgroups") for option in host.security_opt):
        raise InvalidArgument("option WritableCgroups conflicts with user namespaces and rootless mode", remedy=remedy)


def check_sysctls(host: HostConfig) -> None:
    """Refuse sysctls that would change the host, in runc's words. Raises `InvalidArgument`."""
    for name in host.sysctls:
        dotted = name.replace("/", ".")
        if dotted.startswith("net."):
            kind, shared = "network", host.network_mode == "host"
        elif dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            kind, shared = "ipc", host.ipc_mode == "host"
        elif dotted == "kernel.domainname":
            kind, shared = "uts", host.uts_mode == "host"
        elif dotted == "kernel.hostname":
            raise InvalidArgument(f"sysctl '{name}' is not allowed as it conflicts with the host name", remedy="use --hostname")
        else:
            raise InvalidArgument(f"sysctl '{name}' is not in a separate kernel namespace")
        if shared:
            raise InvalidArgument(f"sysctl '{name}' is not allowed in the host's {kind} namespace")


def has_private_cgroups(host: HostConfig) -> bool:
    """Say whether the container has a cgroup namespace of its own."""
    return (host.cgroupns_mode or default_cgroupns(host, "")) == "private"


def default_cgroupns(host: HostConfig, setting: str) -> str:
    """Give the cgroup namespace of a container that asks for none in particular; `setting` is the daemon's default, if any.

    On pure v2 an own one, but elsewhere a privileged container has the host's whatever the setting.
    """
    pure = cgroups.detect().version == "v2"
    if host.privileged and not pure:
        return "host"
    return setting or ("private" if pure else "host")
