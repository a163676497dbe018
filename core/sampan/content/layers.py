"""Layers as directories: a tar unpacked by a confined child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import NotFound, SampanError, System, Unavailable, Unsupported, from_wire
from sampan.api.storage import LayerTarget
from sampan.content.manifests import LAYER_TYPES
from sampan.content.references import check_digest

# -I and -S: neither the environment nor site directories have a say; the paths are ours.
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(2))
from sampan.content.unpacker import main
main()
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may take. A layer beyond one of them is refused, whatever it promised in its headers.

    `stream_bytes`: its tar, decompressed. `file_bytes`: one file, holes counted. `entries`: headers in the
    tar. `memory_bytes`: address space of the child. `seconds`: from start to end.
    """

    stream_bytes: int = 1 << 40
    file_bytes: int = 1 << 40
    entries: int = 5_000_000
    memory_bytes: int = 2 << 30
    seconds: float = 3600


DEFAULT_LIMITS = Limits()


def unpack(
    blob: Path, media_type: str, target: LayerTarget, expected_diff_id: str, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Write the layer in `blob` into the directory `target`, and check that its plain tar has the digest it
    should.

    Compression is told by the bytes, as Docker does. Blocks; call it in a thread. After an error, or a crash,
    the target is half-filled and must be thrown away. Not flushed to disk: that is the storage driver's
    commit.

    Raises `InvalidArgument` for a layer that is damaged, hostile, over a limit or not the expected one,
    `Unsupported` for a media type that is no layer, `NotFound` without blob or target, `System` when the host
    fails.
    """
    if media_type not in LAYER_TYPES:
        raise Unsupported(f"unpack {blob.name}: {media_type} is not a layer that can be unpacked")
    check_digest(expected_diff_id)
    fds: list[int] = []
    try:
        fds.append(os.open(blob, os.O_RDONLY | os.O_CLOEXEC))
        fds.append(os.open(target.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        request = {
            "blob": fds[0],
            "target": fds[1],
            "whiteouts": target.whiteouts.value,
            "diff_id": expected_diff_id,
            "stream_bytes": limits.stream_bytes,
            "file_bytes": limits.file_bytes,
            "entries": limits.entries,
            "memory_bytes": limits.memory_bytes,
        }
        error = _run(request, fds, limits.seconds)
    except FileNotFoundError as missing:
        raise NotFound(f"unpack {blob.name}: {missing.filename} not found") from missing
    except OSError as failed:
        raise System(f"unpack {blob.name}: {failed.strerror}") from failed
    finally:
        for fd in fds:
            os.close(fd)
    if error is not None:
        raise type(error)(f"unpack {blob.name}: {error.message}", remedy=error.remedy)


def _run(request: Mapping[str, object], fds: list[int], seconds: float) -> SampanError | None:
    command = [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(request), json.dumps(sys.path)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        env={"LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Unavailable(f"it took longer than {seconds:.0f} seconds", remedy="raise the limit")
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()
    if child.returncode or not out:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        return System(f"the unpacker ended with status {child.returncode}: {last or 'no message'}")
    answer = json.loads(out)
    return from_wire(answer) if answer else None
