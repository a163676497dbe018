"""Seccomp profiles in Docker's form, and what they come to for one container: an OCI `linux.seccomp` object.

A profile's rules may depend on the container's capabilities and on the machine (`includes`, `excludes`,
`archMap`); the OCI form has neither. The default is `seccomp_default.json` beside this file; its source is
named in it. Source for the form: https://docs.docker.com/engine/security/seccomp/ and
github.com/moby/profiles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from sampan.api.errors import InvalidArgument

UNCONFINED: Final = "unconfined"

_GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "i686": "x86", "armv7l": "arm"}
_SCMP_ARCH = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def default_seccomp(capabilities: Collection[str], arch: str = os.uname().machine) -> dict[str, Any]:
    """Give Docker's default filter for a container with `capabilities` (its bounding set, `CAP_…`)."""
    return resolve_profile(_default_profile(), capabilities, arch)


def load_profile(path_or_json: str | Path) -> dict[str, Any]:
    """Read a profile from its JSON text (what a docker client sends) or a file. Raises `InvalidArgument`."""
    text = str(path_or_json)
    if not text.lstrip().startswith("{"):
        try:
            text = Path(path_or_json).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InvalidArgument(f"opening seccomp profile ({path_or_json}) failed: {error}") from error
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"decoding seccomp profile failed: {error}") from error
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
        raise InvalidArgument("seccomp profile: no defaultAction in it", remedy="see Docker's seccomp profile format")
    return profile


def resolve_profile(
    profile: Mapping[str, Any], capabilities: Collection[str], arch: str = os.uname().machine
) -> dict[str, Any]:
    """Give the OCI `linux.seccomp` object that `profile` means for these capabilities on this machine.

    Raises `InvalidArgument` where the profile contradicts itself.
    """
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument("seccomp profile: both 'architectures' and 'archMap' are given; use either")
    resolved: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"]
    architectures = _architectures(profile, arch)
    if architectures:
        resolved["architectures"] = architectures
    for key in ("flags", "listenerPath", "listenerMetadata"):
        if profile.get(key):
            resolved[key] = profile[key]
    resolved["syscalls"] = [
        _rule(rule)
        for rule in profile.get("syscalls") or ()
        if _applies(rule, frozenset(capabilities), _GO_ARCH.get(arch, arch))
    ]
    return resolved


@cache
def _default_profile() -> dict[str, Any]:
    return load_profile(Path(__file__).with_name("seccomp_default.json"))


def _architectures(profile: Mapping[str, Any], arch: str) -> list[str]:
    if profile.get("architectures"):
        return list(profile["architectures"])
    native = _SCMP_ARCH.get(arch)
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return []


def _applies(rule: Mapping[str, Any], capabilities: frozenset[str], arch: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or ()):
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    if not capabilities.isdisjoint(excludes.get("caps") or ()):
        return False
    return _kernel_is(includes.get("minKernel")) and not (
        excludes.get("minKernel") and _kernel_is(excludes["minKernel"])
    )


def _kernel_is(minimum: str | None) -> bool:
    if not minimum:
        return True
    wanted = tuple(int(part) for part in minimum.split(".")[:2])
    running = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return running >= wanted


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    if rule.get("name") and rule.get("names"):
        raise InvalidArgument("seccomp profile: a rule has both 'name' and 'names'; use either")
    names = [rule["name"]] if rule.get("name") else list(rule.get("names") or ())
    resolved: dict[str, Any] = {"names": names, "action": rule["action"]}
    if rule.get("errnoRet") is not None:
        resolved["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        resolved["args"] = rule["args"]
    return resolved
