"""`state`, `list`, `ps`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence

from sampan.api.errors import InvalidArgument, NotFound, SampanError, System
from sampan_runtime_native.cli import container
from sampan_runtime_native.cli.store import Store

_HEADS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def state(options: Namespace) -> int:
    """Write the state as JSON."""
    store = Store(options.root)
    record = store.read(options.id)
    _write_json(container.state_of(record, container.status_of(store, record)), indent=2)
    return 0


def list_(options: Namespace) -> int:
    """Write what containers there are: ids, a table or JSON."""
    store = Store(options.root)
    if options.quiet:
        sys.stdout.writelines(f"{name}\n" for name in store.ids())
        return 0
    states = []
    for name in store.ids():
        try:
            record = store.read(name)
            states.append(
                {**container.state_of(record, container.status_of(store, record)), "owner": _owner(store, name)}
            )
        except NotFound:
            continue  # deleted meanwhile
        except SampanError as error:
            sys.stderr.write(f"sampan-runtime: {error}\n")
    if options.format == "json":
        _write_json(states)
    else:
        _write_table([[str(each[head.lower()]) for head in _HEADS] for each in states])
    return 0


def ps(options: Namespace) -> int:
    """Write the pids as JSON, or the lines about them of the host's `ps`."""
    store = Store(options.root)
    record = store.read(options.id)
    pids = container.driver_for(store, record.id).processes(container.handle_of(record))
    if options.format == "json":
        _write_json(sorted(pids))
        return 0
    try:
        done = subprocess.run(["ps", *(options.args or ["-ef"])], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise System("ps: there is no ps on PATH", remedy="apt-get install procps, or use --format json") from error
    except subprocess.CalledProcessError as error:
        raise InvalidArgument(f"ps {' '.join(options.args)}: {error.stderr.strip()}") from error
    head, *lines = done.stdout.splitlines()
    titles = head.split()
    if "PID" not in titles:
        raise InvalidArgument("couldn't find PID field in ps output", remedy="choose options that show it")
    column = titles.index("PID")
    wanted = set(map(str, pids))
    sys.stdout.writelines(f"{line}\n" for line in (head, *(line for line in lines if line.split()[column] in wanted)))
    return 0


def _owner(store: Store, name: str) -> str:
    import pwd

    uid = os.stat(store.driver_directory(name).parent).st_uid  # noqa: PTH116
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _write_json(value: object, indent: int | None = None) -> None:
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")


def _write_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) + 3 for column in zip(_HEADS, *rows, strict=True)]
    for row in (_HEADS, *rows):
        line = "".join(cell.ljust(max(width, 12)) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
