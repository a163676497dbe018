"""`sampan daemon`: its options only; the daemon itself is imported when it runs."""

from __future__ import annotations

import click

from sampan.cli.flags import Command


@click.command("daemon", cls=Command)
@click.option("--config", "config_file", metavar="FILE", help="Settings file.  [default: /etc/sampan/config.toml]")
@click.option("--root", metavar="DIR", help="Where images, containers and volumes are kept.")
@click.option("--state", metavar="DIR", help="Where sockets and handles of running containers are kept.")
@click.option("-H", "--host", "hosts", multiple=True, metavar="ADDRESS",
              help="Listen on unix://PATH, tcp://HOST:PORT or fd://; can be given more than once.")  # fmt: skip
@click.option("--storage-driver", metavar="NAME", help="Default storage driver.")
@click.option("--runtime", metavar="NAME", help="Default runtime driver.")
@click.option("--bridge-name", metavar="NAME", help="Bridge of the default network.")
@click.option("--bridge-subnet", metavar="CIDR", help="Address and prefix of that bridge, as 172.30.0.1/16.")
@click.option("--bridge-subnet6", metavar="CIDR", help="The same for IPv6, as fd00:30::1/64, or auto.  [default: no IPv6]")
@click.option("--bridge-range", metavar="CIDR", help="Part of the bridge's subnet that containers get addresses from.")
@click.option("--publish", type=click.Choice(["all", "loopback"]),
              help="Host addresses of published ports that name none.  [default: all]")  # fmt: skip
@click.option("--host-gateway-ip", multiple=True, metavar="IP",
              help="What host-gateway stands for in --add-host; can be given more than once.  [default: the bridge's gateways]")
@click.option("--userns-remap", metavar="USER[:GROUP]",
              help="Containers' users are this user's subordinate ids on the host; `default` stands for dockremap.")
@click.option("--init", is_flag=True, default=None, help="Run an init in each container, unless it says otherwise.")
@click.option("--init-path", metavar="FILE", help="The static init to run.  [default: docker-init or tini-static on PATH]")
@click.option("--seccomp-profile", metavar="FILE", help="Default seccomp profile: a file, builtin or unconfined.  [default: builtin]")
@click.option("--no-new-privileges", is_flag=True, default=None, help="Containers gain no privileges by execve, unless they say otherwise.")
@click.option("--default-ipc-mode", type=click.Choice(["private", "shareable"]), help="IPC of containers that name none.")
@click.option("--default-cgroupns-mode", type=click.Choice(["host", "private"]), help="Cgroup namespace of containers that name none.")
@click.option("--default-shm-size", metavar="BYTES", help="Size of /dev/shm.  [default: 64m]")
@click.option("--default-ulimit", "default_ulimits", multiple=True, metavar="NAME=SOFT[:HARD]",
              help="Limit of containers that do not name it; can be given more than once.")
@click.option("--pidfile", metavar="FILE", help="Write the daemon's pid here.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much is logged.")
@click.option("--tlsverify", is_flag=True, default=None, help="Demand a client certificate on TCP.")
@click.option("--tlscacert", metavar="FILE", help="CA that signed the clients' certificates.")
@click.option("--tlscert", metavar="FILE", help="Certificate of this daemon.")
@click.option("--tlskey", metavar="FILE", help="Key of this daemon.")
@click.option("--insecure-tcp", is_flag=True, default=None, help="Allow TCP without TLS: whoever connects is root.")
def daemon(config_file: str | None, **options: str | bool | tuple[str, ...] | None) -> int:
    """Run the Sampan daemon in the foreground until SIGTERM."""
    overrides: dict[str, object] = {name: value for name, value in options.items() if value not in (None, ())}
    from sampan.daemon import run

    return run(overrides, config_file) or 0
