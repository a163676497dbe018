"""The progress of pull, load, import and bootstrap: a stream of JSON, shown as lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from sampan.cli.failure import CliError
from sampan.cli.transport import Response


def show_progress(response: Response, out: TextIO, *, quiet: bool = False) -> list[Any]:
    """Show each change of a status once; give the `aux` values. Raises `CliError` for an error in the stream.

    Bars are not drawn: what is downloading is told when it starts and when it is done.
    """
    results = []
    last: dict[str, str] = {}
    for item in response.json_stream():
        if not isinstance(item, Mapping):
            continue
        if error := item.get("error") or (item.get("errorDetail") or {}).get("message"):
            raise CliError(str(error))
        if "aux" in item:
            results.append(item["aux"])
        if quiet:
            continue
        if "stream" in item:
            out.write(str(item["stream"]))
        elif status := item.get("status"):
            identity = str(item.get("id", ""))
            if identity and last.get(identity) == status:
                continue
            last[identity] = str(status)
            out.write(f"{identity}: {status}\n" if identity else f"{status}\n")
        out.flush()
    return results
