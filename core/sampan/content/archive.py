"""`docker load` and `docker save`: images in one tar, as Docker's archive or as an OCI layout, or both at
once.

Members are only ever read as blobs: no name in an archive touches a file system, and links between members
are looked up among the names of the archive. Sources: moby's `image/tarexport`, image-spec `image-layout.md`.
"""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, RootModel
from pydantic.alias_generators import to_pascal

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.content import tarstream
from sampan.content.blobs import BlobStore, BlobWriter
from sampan.content.compression import Compression, Decompressed
from sampan.content.images import LoadedImage, layer_media_type, put_manifest, read_manifest
from sampan.content.layer_size import digest_and_size, files_size
from sampan.content.manifests import (
    INDEX_TYPES,
    LAYER_TYPES,
    MANIFEST_MAX,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    host_platform,
    parse,
)
from sampan.content.references import Reference, parse_exact
from sampan.content.tarstream import Blocks, TarReader

_PIECE = 1 << 18
_LINKS_MAX = 8
_INDEX_DEPTH = 3
ENTRIES_MAX = 100_000
"""Headers of an archive at most."""
IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


class _Entry(BaseModel):
    """One image in `manifest.json`."""

    model_config = ConfigDict(alias_generator=to_pascal, extra="ignore")

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class _Entries(RootModel[list[_Entry]]):
    """The whole of `manifest.json`."""


def load(stream: BinaryIO, blobs: BlobStore) -> list[LoadedImage]:
    """Take in every image of an archive (plain, gzip, zstd, xz, bzip2), in its order.

    Streams: a member goes to the store's disk as it comes, and what no image refers to is dropped at the end.
    Nothing is kept after an error but whole, verified blobs of the images before it. Raises `InvalidArgument`
    for a malformed or hostile archive, `Unsupported` for one of a kind that is not read, `System` when the
    disk fails.
    """
    with ExitStack() as stack:
        members = _Members(blobs, stack)
        members.take(Decompressed(stream))
        if (listing := members.small("manifest.json")) is not None:
            entries = parse(_Entries, listing, "manifest.json").root
            return [_load_docker(members, blobs, entry) for entry in entries]
        if (listing := members.small("index.json")) is not None:
            return _load_oci(members, blobs, parse(Index, listing, "index.json"))
        if members.has("repositories"):
            raise Unsupported(
                "load: the archive is of the form before Docker 1.10", remedy="save it again with a newer Docker"
            )
        raise InvalidArgument("load: this is no image archive: it has neither manifest.json nor index.json",
                              remedy="use import for the tar of a root file system")  # fmt: skip


class _Members:
    """The files of an archive, spooled as blobs that are not yet kept, and its links, by normalised name."""

    def __init__(self, blobs: BlobStore, stack: ExitStack) -> None:
        self._blobs = blobs
        self._stack = stack
        self._files: dict[str, BlobWriter] = {}
        self._links: dict[str, str] = {}

    def take(self, plain: Decompressed) -> None:
        """Read the whole archive."""
        tar = TarReader(Blocks(lambda: plain.read(_PIECE)), ENTRIES_MAX)
        for member in tar:
            name = _normal(member.name.decode("utf-8", "replace"))
            if member.kind == tarstream.REGULAR and member.extents is None:
                writer = self._stack.enter_context(self._blobs.writer())
                for data in tar.data(_PIECE):
                    writer.write(data)
                writer.seal()
                if name in self._files:
                    self._files[name].abort()
                self._files[name] = writer
                self._links.pop(name, None)
            elif member.kind in (tarstream.SYMLINK, tarstream.HARD_LINK):
                link = member.link.decode("utf-8", "replace")
                base = posixpath.dirname(name) if member.kind == tarstream.SYMLINK else ""
                self._links[name] = _normal(posixpath.join(base, link))

    def has(self, name: str) -> bool:
        """Tell whether the archive has such a file."""
        return self._resolve(name) in self._files

    def file(self, name: str) -> BlobWriter:
        """Give a file. Raises `InvalidArgument` when the archive has none of this name."""
        writer = self._files.get(self._resolve(name))
        if writer is None:
            raise InvalidArgument(f"load: the archive has no file {name!r}, which its manifest names")
        return writer

    def small(self, name: str) -> bytes | None:
        """Give the content of a small file, None when there is none."""
        return self.content(name) if self.has(name) else None

    def content(self, name: str) -> bytes:
        """Give the content of a small file."""
        writer = self.file(name)
        if writer.size > MANIFEST_MAX:
            raise InvalidArgument(f"load: {name!r} is larger than {MANIFEST_MAX} bytes")
        path = writer.path if writer.path.exists() else self._blobs.path(writer.digest)
        return path.read_bytes()

    def open(self, writer: BlobWriter) -> BinaryIO:
        """Open a file, kept already or not."""
        return (writer.path if writer.path.exists() else self._blobs.path(writer.digest)).open("rb")

    def blob(self, described: Descriptor) -> BlobWriter:
        """Give the file that a descriptor of an OCI layout means; its digest and size are as promised."""
        name = _blob_name(described.digest)
        writer = self.file(name)
        if writer.digest != described.digest or writer.size != described.size:
            found = f"{writer.digest} of {writer.size} bytes"
            raise InvalidArgument(f"load: {name!r} is {found}, not as its descriptor says")
        return writer

    def keep(self, writer: BlobWriter, media_type: str) -> Descriptor:
        """Let a file become a blob; the same one again is no error."""
        if not writer.path.exists():  # kept before: two members have the same content
            return Descriptor(media_type=media_type, digest=writer.digest, size=writer.size)
        return writer.commit(media_type=media_type)

    def _resolve(self, name: str) -> str:
        name = _normal(name)
        for _ in range(_LINKS_MAX):
            if name not in self._links:
                return name
            name = self._links[name]
        raise InvalidArgument(f"load: the archive has a loop of links at {name!r}")


def _normal(name: str) -> str:
    """Give a name in the archive without `.` and `..`; one that leads out of it becomes a name that nothing
    has."""
    return posixpath.normpath(posixpath.join("/", name)).lstrip("/")


def _load_docker(members: _Members, blobs: BlobStore, entry: _Entry) -> LoadedImage:
    config = parse(ImageConfig, members.content(entry.config), f"image configuration {entry.config!r}")
    names, diff_ids = entry.layers or [], config.rootfs.diff_ids
    _check_count(len(diff_ids), len(names))
    references = tuple(str(_tagged(name)) for name in entry.repo_tags or ())
    files = [members.file(name) for name in names]
    verified = [_verify(members, *layer) for layer in zip(names, files, diff_ids, strict=True)]
    layers = [members.keep(file, media_type) for file, (media_type, _) in zip(files, verified, strict=True)]
    described = members.keep(members.file(entry.config), OCI_CONFIG)
    sizes = tuple(size for _, size in verified)
    return LoadedImage(put_manifest(blobs, described, layers), described.digest, sizes, references)


def _check_count(expected: int, found: int) -> None:
    if expected != found:
        raise InvalidArgument(f"invalid manifest, layers length mismatch: expected {expected}, got {found}")


def _tagged(name: str) -> Reference:
    reference = parse_exact(name)
    if not reference.tag:
        raise InvalidArgument(f"invalid tag {name!r}")
    return reference


def _verify(members: _Members, name: str, file: BlobWriter, diff_id: str) -> tuple[str, int]:
    """Check a layer's plain bytes against its diff id; give its media type, and the bytes of its files."""
    with members.open(file) as raw:
        plain = Decompressed(raw)
        media_type = layer_media_type(plain.compression)
        if plain.compression is Compression.NONE:  # Its digest is known from when it came in.
            found, size = file.digest, files_size(partial(plain.read, _PIECE))
        else:
            found, size = digest_and_size(partial(plain.read, _PIECE))
    if found != diff_id:
        raise InvalidArgument(f'invalid diffID for layer {name}: expected "{diff_id}", got "{found}"')
    return media_type, size


def _load_oci(members: _Members, blobs: BlobStore, index: Index) -> list[LoadedImage]:
    images: dict[str, LoadedImage] = {}
    for described in index.manifests:
        reference = _annotated_name(described)
        chosen = _choose(members, described, _INDEX_DEPTH)
        image = images.get(chosen.digest) or _load_oci_image(members, chosen)
        if reference and reference not in image.references:
            names = (*image.references, reference)
            image = LoadedImage(image.manifest, image.config_digest, image.layer_sizes, names)
        images[chosen.digest] = image
    return list(images.values())


def _annotated_name(described: Descriptor) -> str:
    """Give the name in an entry's annotations, "" where it has none, or only a tag without a repository."""
    name = described.annotations.get(IMAGE_NAME, "")
    if not name:
        name = described.annotations.get(REF_NAME, "")
        if ":" not in name and "/" not in name:
            return ""
    return str(_tagged(name))


def _choose(members: _Members, described: Descriptor, depth: int) -> Descriptor:
    """Give the manifest for this host that a descriptor leads to."""
    if described.media_type in MANIFEST_TYPES:
        return described
    if described.media_type not in INDEX_TYPES or not depth:
        raise Unsupported(f"load: the archive has an entry of type {described.media_type}")
    members.blob(described)
    name = _blob_name(described.digest)
    nested = parse(Index, members.content(name), f"index {described.digest}")
    host = host_platform()
    fitting = [entry for entry in nested.manifests if entry.platform is None or _fits(entry.platform, host)]
    for entry in fitting:
        if members.has(_blob_name(entry.digest)):
            return _choose(members, entry, depth - 1)
    offered = ", ".join(f"{e.platform.os}/{e.platform.architecture}" for e in nested.manifests if e.platform)
    wanted = f"{host.os}/{host.architecture}"
    raise InvalidArgument(f"load: no image for {wanted} in the archive, which has {offered or 'none'}")


def _fits(platform: Platform, host: Platform) -> bool:
    if (platform.os, platform.architecture) != (host.os, host.architecture):
        return False
    return not platform.variant or not host.variant or platform.variant <= host.variant


def _load_oci_image(members: _Members, described: Descriptor) -> LoadedImage:
    file = members.blob(described)
    name = _blob_name(described.digest)
    manifest = parse(Manifest, members.content(name), f"manifest {described.digest}")
    members.blob(manifest.config)
    config_name = _blob_name(manifest.config.digest)
    config = parse(ImageConfig, members.content(config_name), f"image configuration {manifest.config.digest}")
    diff_ids = config.rootfs.diff_ids
    _check_count(len(diff_ids), len(manifest.layers))
    files, sizes = [], []
    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
        if layer.media_type not in LAYER_TYPES:
            raise Unsupported(f"load: layer {layer.digest} can't be unpacked: its type is {layer.media_type}")
        files.append(members.blob(layer))
        sizes.append(_verify(members, layer.digest, files[-1], diff_id)[1])
    for layer, layer_file in zip(manifest.layers, files, strict=True):
        members.keep(layer_file, layer.media_type)
    members.keep(members.blob(manifest.config), manifest.config.media_type)
    return LoadedImage(members.keep(file, described.media_type), manifest.config.digest, tuple(sizes), ())


def save(images: Sequence[LoadedImage], out: BinaryIO, blobs: BlobStore) -> None:
    """Write images as one tar that is a Docker archive and an OCI layout, as Docker from 25 on does.

    Layers go out as they lie in the store. The same images give the same bytes. Raises `NotFound` for a blob
    that is gone.
    """
    entries, descriptors, digests = [], [], dict[str, None]()
    for image in images:
        manifest = read_manifest(blobs, image.manifest.digest)
        parts = [image.manifest, manifest.config, *manifest.layers]
        digests.update(dict.fromkeys(part.digest for part in parts))
        references = [parse_exact(name) for name in image.references]
        entries.append(
            {
                "Config": _blob_name(manifest.config.digest),
                "RepoTags": [reference.familiar for reference in references] or None,
                "Layers": [_blob_name(layer.digest) for layer in manifest.layers],
            }
        )
        top = image.manifest
        bare = {"mediaType": top.media_type, "digest": top.digest, "size": top.size}
        named = [{**bare, "annotations": {IMAGE_NAME: str(r), REF_NAME: r.tag}} for r in references]
        descriptors += named or [bare]
    _write_directories(out, ("blobs/", "blobs/sha256/"))
    for digest in sorted(digests):
        with blobs.open_blob(digest) as file:
            _write_member(out, _blob_name(digest), blobs.size(digest), file)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
    for name, document in (
        ("index.json", index),
        ("manifest.json", entries),
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
    ):
        data = json.dumps(document, separators=(",", ":")).encode()
        _write_member(out, name, len(data), io.BytesIO(data))
    out.write(bytes(2 * tarstream.BLOCK))


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _write_directories(out: BinaryIO, names: Iterable[str]) -> None:
    for name in names:
        header = tarfile.TarInfo(name)
        header.type, header.mode = tarfile.DIRTYPE, 0o755
        out.write(header.tobuf(tarfile.GNU_FORMAT))


def _write_member(out: BinaryIO, name: str, size: int, content: BinaryIO) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    out.write(header.tobuf(tarfile.GNU_FORMAT))
    while data := content.read(_PIECE):
        out.write(data)
    out.write(bytes(-size % tarstream.BLOCK))


__all__ = ["LoadedImage", "load", "save"]
