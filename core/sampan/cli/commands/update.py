"""`update`: other limits for containers that exist."""

from __future__ import annotations

import sys
from typing import Any

import click

from sampan.cli.client import current, quote
from sampan.cli.container_request import restart_policy
from sampan.cli.failure import CliError
from sampan.cli.flags import Command, each, nano_cpus, size

_FIELDS = {
    "blkio_weight": "BlkioWeight", "cpu_period": "CpuPeriod", "cpu_quota": "CpuQuota", "cpu_rt_period": "CpuRealtimePeriod",
    "cpu_rt_runtime": "CpuRealtimeRuntime", "cpu_shares": "CpuShares", "cpus": "NanoCpus", "cpuset_cpus": "CpusetCpus",
    "cpuset_mems": "CpusetMems", "memory": "Memory", "memory_reservation": "MemoryReservation", "memory_swap": "MemorySwap",
    "pids_limit": "PidsLimit",
}  # fmt: skip


@click.command("update", cls=Command)
@click.option("--blkio-weight", type=click.IntRange(0, 1000), metavar="N", help="Block IO weight, 10 to 1000.")
@click.option("--cpu-period", type=int, metavar="N", help="CPU CFS period in microseconds.")
@click.option("--cpu-quota", type=int, metavar="N", help="CPU CFS quota in microseconds.")
@click.option("--cpu-rt-period", type=int, metavar="N", help="CPU real-time period in microseconds.")
@click.option("--cpu-rt-runtime", type=int, metavar="N", help="CPU real-time runtime in microseconds.")
@click.option("-c", "--cpu-shares", type=int, metavar="N", help="CPU shares (relative weight).")
@click.option("--cpus", type=nano_cpus, metavar="DECIMAL", help="Number of CPUs.")
@click.option("--cpuset-cpus", metavar="LIST", help="CPUs that may be used (0-3, 0,1).")
@click.option("--cpuset-mems", metavar="LIST", help="Memory nodes that may be used (0-3, 0,1).")
@click.option("-m", "--memory", type=size, metavar="BYTES", help="Memory limit.")
@click.option("--memory-reservation", type=size, metavar="BYTES", help="Memory soft limit.")
@click.option("--memory-swap", type=size, metavar="BYTES", help="Limit of memory and swap together; -1 for no limit.")
@click.option("--pids-limit", type=int, metavar="N", help="Limit of processes; -1 for none.")
@click.option("--restart", metavar="POLICY", help="no, always, unless-stopped, on-failure[:N].")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
def update(containers: tuple[str, ...], restart: str | None, **options: Any) -> int:
    """Update configuration of one or more containers."""
    body = {_FIELDS[name]: value for name, value in options.items() if value is not None}
    if restart is not None:
        try:
            body["RestartPolicy"] = restart_policy(restart)
        except ValueError as error:
            raise CliError(str(error)) from error
    if not body:
        raise CliError("you must provide one or more flags when using this command")
    client = current()

    def change(name: str) -> None:
        answer = client.post(f"/containers/{quote(name)}/update", body=body)
        for warning in answer["Warnings"] or ():
            print(f"WARNING: {warning}", file=sys.stderr)
        print(name, flush=True)

    return each(containers, change)
