"""In the VM: unpack a layer through a mount that has no place, which Debian 12's kernel can't clone."""

import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

from sampan.api.storage import Mount, Whiteouts
from sampan.content.layers import StoredLayer
from sampan.content.manifests import OCI_LAYER
from sampan.linux.mounts import open_root

place = Path(tempfile.mkdtemp())
(place / "root").mkdir()
buffer = io.BytesIO()
with tarfile.open(fileobj=buffer, mode="w") as tar:
    header = tarfile.TarInfo("directory/file")
    header.size = 4
    tar.addfile(header, io.BytesIO(b"data"))
(place / "blob").write_bytes(buffer.getvalue())
digest = "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()
with open_root([Mount("bind", str(place / "root"), ("bind", "rw"))]) as root:
    StoredLayer(place / "blob", OCI_LAYER, digest).unpack(root, Whiteouts.DELETE)
    seen = os.listdir(root)
assert (place / "root/directory/file").read_bytes() == b"data"
assert str(place) not in Path("/proc/self/mountinfo").read_text()
print("unpacked on", os.uname().release, seen)
