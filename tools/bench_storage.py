"""`make bench-storage`: the storage drivers side by side, with `tar -xf` and `docker load` on dockerd in the same run.

btrfs is measured on a file system of its own in a sparse file beside the others' directory, mounted where nobody else sees it.
dockerd (Debian's docker.io) runs in namespaces of its own, with its data beside the drivers'; a sampand with the same image
stands beside it, so that a whole `docker load` with what unpacks it is compared with the same.
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
from sampan.bench.report import Measurement, Report
from sampan.bench.storage import UNPACK, Plan, find, measure
from sampan.linux.mounts import MS_PRIVATE, MS_REC, set_propagation
from sampan.linux.namespaces import CLONE_NEWNS, unshare

LOAD = "docker load of that layer, unpacked"
IMAGE = "bench:latest"


@contextlib.contextmanager
def btrfs(directory: Path, size: int = 24 << 30) -> Iterator[Path]:
    """Give a btrfs in a sparse file."""
    image, mounted = directory / "btrfs.image", directory / "btrfs"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.btrfs", "--quiet", image], check=True)
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


def peers(work: Path, plan: Plan) -> list[Measurement]:
    """Measure tar, dockerd and sampand, taking turns."""
    layer, image, out = work / "peer.tar", work / "image.tar", work / "out"
    archive(layer, write_layer(layer, plan.size), image)
    tar: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    with dockerd() as peer, new_daemon() as daemon:
        daemon.start()
        sampan = sampand(daemon)
        for _ in range(plan.rounds):
            out.mkdir()
            tar.append(seconds("tar", "-C", out, "-xf", layer))
            subprocess.run(["rm", "-rf", out], check=True)
            os.sync()
            start = time.perf_counter()
            peer.docker(["load", "-q", "-i", str(image)])
            theirs.append(time.perf_counter() - start)
            peer.docker(["rmi", IMAGE])
            os.sync()
            start = time.perf_counter()
            sampan.docker(["load", "-q", "-i", str(image)])
            daemon.sampan("image", "unpack", IMAGE)
            ours.append(time.perf_counter() - start)
            sampan.docker(["rmi", IMAGE])
    layer.unlink()
    image.unlink()
    return [
        Measurement("tar -xf", UNPACK, tuple(tar)),
        Measurement("dockerd", LOAD, tuple(theirs)),
        Measurement("overlayfs", LOAD, tuple(ours), "docker load and sampan image unpack in a sampand: all is on the disk"),
    ]


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
    plan = Plan(rounds=options.rounds, size=LayerSize(options.files, options.bulk))
    unshare(CLONE_NEWNS)
    set_propagation("/", MS_PRIVATE | MS_REC)
    with tempfile.TemporaryDirectory(prefix="sampan-bench-", dir=options.directory) as name:
        work = Path(name)
        beside = peers(work, plan)
        with btrfs(work) as mounted:
            places = [find("overlayfs", work), find("btrfs", mounted), find("vfs", work)]
            found = measure(places, plan, work, lambda text: print(text, file=sys.stderr))
    done = Report(found.title, (*found.measurements, *beside))
    print(report.table(done), end="")
    options.json.write_text(report.as_json(done))
    options.svg.write_text(report.as_svg(done))
    load = {found.subject: found.median for found in beside if found.case == LOAD}
    print(f"docker load, sampan beside dockerd: {load['overlayfs'] / load['dockerd']:.2f}")  # type: ignore[operator]


if __name__ == "__main__":
    main()
