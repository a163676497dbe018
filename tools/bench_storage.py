"""`make bench-storage`: the storage drivers side by side, with `tar -xf` and `docker load` on dockerd in the same run.

Everyone works on a new file system in a sparse file, for every round: ext4, and btrfs for the driver of that name. (On a file
system in use, ext4 looks long at inodes that were deleted in the last minutes, whoever deleted them.) dockerd (Debian's docker.io)
runs in namespaces of its own; a sampand with the same image stands beside it, so that a whole `docker load` with what unpacks
it is compared with the same.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench_start import dockerd, sampand

from ground.daemon import new_daemon
from sampan.bench import report
from sampan.bench.layer import LayerSize, write_layer
from sampan.bench.report import Measurement, Report, joined
from sampan.bench.storage import UNPACK, Plan, find, measure
from sampan.linux.mounts import MS_PRIVATE, MS_REC, set_propagation
from sampan.linux.namespaces import CLONE_NEWNS, unshare

LOAD = "docker load of that layer, unpacked"
IMAGE = "bench:latest"


@contextlib.contextmanager
def file_system(kind: str, directory: Path, size: int = 32 << 30) -> Iterator[Path]:
    """Give a new ext4 or btrfs in a sparse file."""
    image, mounted = directory / f"{kind}.image", directory / kind
    mounted.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)
        image.unlink()


def archive(layer: Path, diff_id: str, out: Path) -> None:
    """Write what `docker save` would give for an image of this one layer."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
                         "rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()  # fmt: skip
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(out, "w") as tar:
        for member, data in ((name, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.add(layer, "layer.tar")


def seconds(*command: object) -> float:
    """Run a command, give the seconds it took; what was written before is flushed first."""
    os.sync()
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def peers(work: Path, size: LayerSize) -> Report:
    """Measure tar, dockerd and sampand once, each on a file system of its own."""
    layer, image = work / "peer.tar", work / "image.tar"
    archive(layer, write_layer(layer, size), image)
    found = []
    with file_system("ext4", work) as place:
        found.append(Measurement("tar -xf", UNPACK, (seconds("tar", "-C", place, "-xf", layer),)))
    with file_system("ext4", work) as place, standing_in(place), dockerd() as peer:
        os.sync()
        start = time.perf_counter()
        peer.docker(["load", "-q", "-i", str(image)])
        found.append(Measurement("dockerd", LOAD, (time.perf_counter() - start,)))
    with file_system("ext4", work) as place, new_daemon(place=place) as daemon:
        daemon.start()
        os.sync()
        start = time.perf_counter()
        sampand(daemon).docker(["load", "-q", "-i", str(image)])
        daemon.sampan("image", "unpack", IMAGE)
        note = "docker load and sampan image unpack in a sampand: all is on the disk"
        found.append(Measurement("overlayfs", LOAD, (time.perf_counter() - start,), note))
    layer.unlink()
    image.unlink()
    return Report("", tuple(found))


@contextlib.contextmanager
def standing_in(place: Path) -> Iterator[None]:
    """Have temporary directories made in `place`: the engines are started in them."""
    before = tempfile.tempdir
    tempfile.tempdir = str(place)
    try:
        yield
    finally:
        tempfile.tempdir = before


def drivers(work: Path, plan: Plan) -> Report:
    """Measure the drivers once, each on a file system of its own."""
    found = []
    for name in ("overlayfs", "btrfs", "vfs"):
        with file_system("btrfs" if name == "btrfs" else "ext4", work) as place:
            found += measure([find(name, place)], plan, work, lambda _: None).measurements
    return Report("storage drivers, medians", tuple(found))


def main() -> None:
    """Measure, print the table, write JSON and SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where to measure (default: the directory for temporary files)")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--bulk", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path("bench-storage.json"))
    parser.add_argument("--svg", type=Path, default=Path("bench-storage.svg"))
    options = parser.parse_args()
    plan = Plan(rounds=1, size=LayerSize(options.files, options.bulk))
    unshare(CLONE_NEWNS)
    set_propagation("/", MS_PRIVATE | MS_REC)
    reports = []
    with tempfile.TemporaryDirectory(prefix="sampan-bench-", dir=options.directory) as name:
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", file=sys.stderr)
            reports += [drivers(Path(name), plan), peers(Path(name), plan.size)]
    done = joined(reports)
    print(report.table(done), end="")
    options.json.write_text(report.as_json(done))
    options.svg.write_text(report.as_svg(done))
    load = [found.median or 0 for who in ("overlayfs", "dockerd") if (found := done.find(LOAD, who))]
    print(f"docker load, sampan beside dockerd: {load[0] / load[1]:.2f}")


if __name__ == "__main__":
    main()
