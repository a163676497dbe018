"""The blob store as an OCI image layout: `index.json` names its images, for `skopeo` and other tools.

Derived from the metadata and never read back: it may be deleted, and is written anew. Tools read `oci:ROOT/content:NAME`,
the name as people write it (`busybox:latest`). Source: image-spec, image-layout.md and annotations.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import host_errors
from sampan.content.archive import IMAGE_NAME, REF_NAME
from sampan.content.manifests import OCI_INDEX
from sampan.content.references import familiar
from sampan.linux.files import write_atomic

LAYOUT = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()


@dataclass(frozen=True, slots=True)
class Listed:
    """One image in the index: its manifest, and the full references that name it."""

    media_type: str
    digest: str
    size: int
    references: Sequence[str]


def index_of(images: Iterable[Listed]) -> bytes:
    """Give the content of `index.json`; the same images give the same bytes."""
    entries = []
    for image in sorted(images, key=lambda image: image.digest):
        bare = {"mediaType": image.media_type, "digest": image.digest, "size": image.size}
        named = [{**bare, "annotations": {IMAGE_NAME: name, REF_NAME: familiar(name)}} for name in sorted(image.references)]
        entries += named or [bare]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, separators=(",", ":")).encode()


def is_written(root: Path, index: bytes) -> bool:
    """Tell whether the layout under `root` says that."""
    try:
        return (root / "index.json").read_bytes() == index and (root / "oci-layout").read_bytes() == LAYOUT
    except FileNotFoundError:
        return False


def write(root: Path, index: bytes) -> None:
    """Have the layout say that: readers see the old index or the new. After a power cut it may be an old one."""
    with host_errors(f"write {root / 'index.json'}"):
        write_atomic(root / "index.json", index, durable=False, mode=0o644)
        write_atomic(root / "oci-layout", LAYOUT, durable=False, mode=0o644)
