"""Names of images as Docker writes them: the long form (`docker.io/library/busybox:latest`) and the familiar
one.

Source of the grammar and of the error texts: github.com/distribution/reference, `reference.go` and
`normalize.go`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sampan.api.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_PATH_MAX = 255

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_DOMAIN})/({_PATH_PART}(?:/{_PATH_PART})*)(?::({_TAG}))?(?:@({_DIGEST}))?")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole reference. `tag` and `digest` are "" where there is none; `str()` gives the long form."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository: domain and path."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in rest else rest

    @property
    def familiar(self) -> str:
        """The reference as people write it: `busybox:latest`."""
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        """Give the long form."""
        return self.name + self._suffix


def parse(text: str) -> Reference:
    """Read a reference in any form; without tag and digest it gets the tag `latest`. Raises
    `InvalidArgument`."""
    reference = parse_exact(text)
    return reference if reference.tag or reference.digest else replace(reference, tag=DEFAULT_TAG)


def parse_exact(text: str) -> Reference:
    """Read a reference in any form and add no tag. Raises `InvalidArgument` with Docker's texts."""
    if _HEX64.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    repository = rest.partition("@")[0].partition(":")[0]
    if repository.lower() != repository:
        raise InvalidArgument(f"invalid reference format: repository name ({repository}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if match is None:
        raise InvalidArgument("invalid reference format")
    if len(match[2]) > _PATH_MAX:
        raise InvalidArgument(f"repository name must not be more than {_PATH_MAX} characters")
    if match[4]:
        check_digest(match[4])
    return Reference(match[1], match[2], match[3] or "", match[4] or "")


def familiar(text: str) -> str:
    """Give a reference as people write it. Raises `InvalidArgument`."""
    return parse_exact(text).familiar


def check_digest(text: str) -> str:
    """Give back a well-formed sha256 digest. Raises `InvalidArgument` for anything else."""
    if _SHA256.fullmatch(text):
        return text
    algorithm, colon, value = text.partition(":")
    if not colon:
        raise InvalidArgument("invalid checksum digest format")
    if algorithm != "sha256":
        raise InvalidArgument("unsupported digest algorithm", remedy="only sha256 is known here")
    if len(value) != 64:
        raise InvalidArgument("invalid checksum digest length")
    raise InvalidArgument("invalid checksum digest format")


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    looks_like_host = first.lower() != first or "." in first or ":" in first or first == "localhost"
    if not slash or not looks_like_host:
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest
