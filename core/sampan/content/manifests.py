"""Manifests, indexes and image configurations, of OCI (image spec 1.1) and of Docker (schema 2), as pydantic
models.

Only read through these; what is stored and hashed is always the bytes as they came. Unknown fields are
ignored. Sources: github.com/opencontainers/image-spec (manifest.md, image-index.md, config.md),
distribution's `manifest/schema2`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from sampan.api.errors import InvalidArgument, SampanError
from sampan.api.types import ContainerConfig
from sampan.content.references import check_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
LAYER_TYPES = frozenset(
    {
        *(f"{OCI_LAYER}{suffix}" for suffix in ("", "+gzip", "+zstd")),
        *(f"{DOCKER_LAYER}{suffix}" for suffix in ("", ".gzip", ".zstd")),
        *(f"{_NONDISTRIBUTABLE}{suffix}" for suffix in ("", "+gzip", "+zstd")),
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)

MANIFEST_MAX = 4 << 20
"""Bytes of a manifest, index or configuration at most, as registries have it."""
LAYERS_MAX = 1000
"""Layers of an image at most: no kernel mounts more."""

Digest = Annotated[str, AfterValidator(check_digest)]
M = TypeVar("M", bound=BaseModel)


def _empty_if_null(value: Any) -> Any:
    return {} if value is None else value


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class Platform(_Wire):
    """For which machine an image is."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = Field("", alias="os.version")
    os_features: list[str] = Field([], alias="os.features")


class Descriptor(_Wire):
    """A reference to a blob: what it is, its digest and its size in bytes."""

    media_type: str
    digest: Digest
    size: int = Field(ge=0)
    annotations: Annotated[dict[str, str], BeforeValidator(_empty_if_null)] = {}
    platform: Platform | None = None


class Manifest(_Wire):
    """One image for one platform. `config` is its configuration, `layers` go from the bottom up."""

    schema_version: int = 2
    media_type: str = ""
    config: Descriptor
    layers: list[Descriptor] = Field(max_length=LAYERS_MAX)
    annotations: Annotated[dict[str, str], BeforeValidator(_empty_if_null)] = {}


class Index(_Wire):
    """A list of manifests, one a platform."""

    schema_version: int = 2
    media_type: str = ""
    manifests: list[Descriptor] = Field([], max_length=10_000)
    annotations: Annotated[dict[str, str], BeforeValidator(_empty_if_null)] = {}


class RootFs(BaseModel):
    """The layers of an image by the digests of their uncompressed tars, from the bottom up."""

    type: str = "layers"
    diff_ids: list[Digest] = Field([], max_length=LAYERS_MAX)


class History(BaseModel):
    """How one layer, or one change of the configuration, came to be."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(BaseModel):
    """An image's configuration; the digest of its bytes is the image's id."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str | None = None
    author: str = ""
    config: Annotated[ContainerConfig, BeforeValidator(_empty_if_null)] = ContainerConfig()
    rootfs: RootFs = RootFs()
    history: Annotated[list[History], BeforeValidator(lambda value: value or [])] = []


def parse(model: type[M], data: bytes, what: str) -> M:
    """Read JSON as `model`. Raises `InvalidArgument` that names `what` and the first thing wrong in it."""
    if len(data) > MANIFEST_MAX:
        raise InvalidArgument(f"{what} is larger than {MANIFEST_MAX} bytes")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"invalid {what}: {place + ': ' if place else ''}{first['msg']}") from error
    except SampanError as error:
        raise InvalidArgument(f"invalid {what}: {error.message}") from error


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Give the name of each stack of layers, from the bottom one to all (OCI image spec, config.md, "Layer
    ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append("sha256:" + hashlib.sha256(text.encode()).hexdigest() if chain else diff_id)
    return chain


def host_platform() -> Platform:
    """Give the platform of this machine, in Go's names."""
    machine = os.uname().machine
    architecture, variant = _GO_NAMES.get(machine, (machine, ""))
    return Platform(architecture=architecture, os="linux", variant=variant)


_GO_NAMES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
}
