"""Unpack one large layer, beside `tar -xf` on the same files in the same run: `python tools/bench_unpack.py [DIRECTORY]`.

The layer: 20,000 small files in 200 directories and eight of 32 MB, about 400 MB; plain, gzip and zstd. Run as root. DIRECTORY
should be on the file system that matters, or on tmpfs to leave the disk out (/dev/shm).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zstandard

from sampan.api.storage import Whiteouts
from sampan.content.layers import StoredLayer
from sampan.content.manifests import OCI_LAYER
from sampan.linux.files import opened_directory

ROUNDS = 3


def make_layer(place: Path) -> str:
    """Write layer.tar, layer.tar.gz and layer.tar.zst; give the diff id."""
    source = place / "source"
    chance = random.Random(1)
    words = chance.randbytes(1 << 20).hex().encode()
    for directory in range(200):
        (source / f"d{directory}").mkdir(parents=True)
        for file in range(100):
            start = chance.randrange(1 << 20)
            (source / f"d{directory}" / f"f{file}").write_bytes(words[start : start + chance.randrange(16_000)])
    for number in range(8):
        (source / f"large{number}").write_bytes((words * 17)[number * 1000 : number * 1000 + (32 << 20)])
    subprocess.run(["tar", "-C", source, "-cf", place / "layer.tar", "."], check=True)
    data = (place / "layer.tar").read_bytes()
    (place / "layer.tar.gz").write_bytes(gzip.compress(data, 6))
    (place / "layer.tar.zst").write_bytes(zstandard.compress(data))
    subprocess.run(["rm", "-rf", source], check=True)
    return "sha256:" + hashlib.sha256(data).hexdigest()


def unpack(blob: Path, diff_id: str, out: Path) -> None:
    """Unpack a layer as the engine does."""
    with opened_directory(out) as directory:
        StoredLayer(blob, OCI_LAYER, diff_id).unpack(directory, Whiteouts.OVERLAY)


def timed(place: Path, work: Callable[[Path], object]) -> tuple[float, float]:
    """Give the seconds that `work` takes on a fresh directory, and those of its children on a CPU; what was written before is
    flushed first."""
    out = place / "out"
    out.mkdir()
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    work(out)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["rm", "-rf", out], check=True)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print medians, of wall clock and CPU, and the ratio of the first: it needs two cores that nobody else uses."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        place = Path(name)
        diff_id = make_layer(place)
        for blob in ("layer.tar", "layer.tar.gz", "layer.tar.zst"):
            path = place / blob
            command = ["tar", "-xf", path] if not blob.endswith("zst") else ["tar", "--zstd", "-xf", path]
            ours, tar = [], []
            for _ in range(ROUNDS):
                tar.append(timed(place, lambda out, c=command: subprocess.run([*c, "-C", out], check=True)))
                ours.append(timed(place, lambda out, p=path: unpack(p, diff_id, out)))
            (wall, cpu), (tar_wall, tar_cpu) = (map(statistics.median, zip(*runs, strict=True)) for runs in (ours, tar))
            print(f"{blob:14s} sampan {wall:.2f} s (CPU {cpu:.2f})   tar {tar_wall:.2f} s (CPU {tar_cpu:.2f})   "
                  f"ratio {wall / tar_wall:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
