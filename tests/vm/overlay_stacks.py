"""In the VM: overlays on Debian 12's kernel, which has no `lowerdir+`: many layers, hostile names, shifted owners, one mount only."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sampan.api.storage import SnapshotOptions, StorageCapability, StorageContext
from sampan.linux import overlay
from sampan.linux.mounts import Mount, open_root
from sampan.testing.idmap import check_shifted_owners
from sampan.testing.trees import HandMadeLayer
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import OverlayfsDriver

NAMES = ["with:colon", "with,comma", "with\\backslash", "ends with\\", "\\,:", "=,ro", " ", "\N{SAILBOAT}", "new\nline"]

assert not overlay.takes_each_layer()
place = Path(tempfile.mkdtemp())
subprocess.run("modprobe loop; truncate -s 200M disk && mkfs.ext4 -q disk && mkdir ext4 && mount disk ext4", shell=True, cwd=place, check=True)

hostile = place / "ext4/a,upperdir=b/c:d"
for name in (*NAMES, "fs", "work"):
    (hostile / name).mkdir(parents=True)
    (hostile / name / f"in {name[:3]}").mkdir()
os.rmdir(hostile / "fs/in fs")
lower = [f"lowerdir+={hostile / name}" for name in NAMES]
with open_root([Mount("overlay", "overlay", (*lower, f"upperdir={hostile}/fs", f"workdir={hostile}/work", "index=off"))]) as root:
    assert len(os.listdir(root)) == len({name[:3] for name in NAMES})
    os.mkdir("made", dir_fd=root)
assert os.listdir(hostile / "fs") == ["made"]

probe = OverlayfsDriver.probe(place / "ext4")
assert probe.supported and StorageCapability.IDMAP in probe.capabilities, probe
(place / "ext4/root").mkdir()
driver = OverlayfsDriver(StorageContext(place / "ext4/root", "vm"), OverlayfsConfig())
driver.open()
parent = None
for number in range(200):
    driver.prepare("making", parent, SnapshotOptions())
    driver.apply("making", HandMadeLayer([str(number)], deleted=[str(number - 1)] if number % 2 else []))
    parent = f"layer{number}"
    driver.commit(parent, "making")
driver.prepare("key", parent, SnapshotOptions())
with open_root(driver.mounts("key")) as root:
    layers = len(os.listdir(root))
    os.unlink("199", dir_fd=root)
    try:
        with open_root(driver.mounts("key")):
            raise AssertionError("mounted twice")
    except OSError as error:
        assert error.errno == errno.EBUSY
with open_root(driver.look("key")) as root:
    assert len(os.listdir(root)) == layers - 1 == 99
check_shifted_owners(driver)
assert "overlay" not in [line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]
sys.stdout.write(f"stacked on {os.uname().release}\n")
