"""An image as it lies in the blob store: what `archive` and `importer` give and take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.api.errors import InvalidArgument
from sampan.content.blobs import BlobStore
from sampan.content.compression import Compression
from sampan.content.manifests import (
    MANIFEST_MAX,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    parse,
)

_SUFFIXES = {Compression.NONE: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image whose blobs are all in the store, verified. `config_digest` is its id, as Docker has it.

    `layer_sizes`: bytes of the files in each layer, from the bottom up (`tarstream.files_size`).
    `references`: the names that came with it, in the form in which they came.
    """

    manifest: Descriptor
    config_digest: str
    layer_sizes: tuple[int, ...]
    references: tuple[str, ...]


def layer_media_type(compression: Compression) -> str:
    """Give the OCI media type of a tar so compressed. Raises `InvalidArgument` for a compression that layers
    don't have."""
    if compression not in _SUFFIXES:
        raise InvalidArgument(f"a layer can't be compressed with {compression}", remedy="use gzip or zstd")
    return OCI_LAYER + _SUFFIXES[compression]


def put_manifest(blobs: BlobStore, config: Descriptor, layers: Sequence[Descriptor]) -> Descriptor:
    """Store the OCI manifest over a configuration and layers. The same content gives the same digest."""
    bare = [{"mediaType": part.media_type, "digest": part.digest, "size": part.size} for part in (config, *layers)]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": bare[0], "layers": bare[1:]}
    return blobs.put(json.dumps(document, separators=(",", ":")).encode(), OCI_MANIFEST)


def put_config(blobs: BlobStore, document: object) -> Descriptor:
    """Store an image's configuration given as JSON data."""
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    if len(data) > MANIFEST_MAX:
        raise InvalidArgument(f"the image's configuration is larger than {MANIFEST_MAX} bytes")
    return blobs.put(data, OCI_CONFIG)


def read_manifest(blobs: BlobStore, digest: str) -> Manifest:
    """Read a stored manifest. Raises `NotFound`, `InvalidArgument`."""
    return parse(Manifest, blobs.read(digest, MANIFEST_MAX), f"manifest {digest}")


def read_config(blobs: BlobStore, digest: str) -> ImageConfig:
    """Read a stored configuration. Raises `NotFound`, `InvalidArgument`."""
    return parse(ImageConfig, blobs.read(digest, MANIFEST_MAX), f"image configuration {digest}")
