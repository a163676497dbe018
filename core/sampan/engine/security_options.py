"""What `--security-opt` asks for. Docker's options, words and defaults (moby's `parseSecurityOpt`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.engine.seccomp_profile import UNCONFINED, load_profile, resolve_profile

APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
"""Says `Y` where the kernel has AppArmor, and it is on."""

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """The parsed options. `seccomp` is None for the engine's default; `writable_cgroups` is None if nothing was said."""

    no_new_privileges: bool = False
    seccomp: dict[str, Any] | None = None
    seccomp_unconfined: bool = False
    apparmor: str = ""
    writable_cgroups: bool | None = None


def parse_security_options(options: list[str], *, no_new_privileges: bool = False) -> SecurityOptions:
    """Read `--security-opt`s; a later one wins. `no_new_privileges` is what holds where none of them says it.

    Raises `InvalidArgument`; `Unsupported` for a label or a profile that this host's kernel would not enforce.
    """
    seccomp: dict[str, Any] | None = None
    unconfined = False
    apparmor = ""
    writable_cgroups: bool | None = None
    for option in options:
        key, value = _split(option)
        if key == "no-new-privileges":
            no_new_privileges = _boolean(value, option)
        elif key == "writable-cgroups":
            writable_cgroups = _boolean(value, option)
        elif key == "seccomp":
            unconfined = value == UNCONFINED
            seccomp = None if value in (UNCONFINED, "builtin") else _client_profile(value)
        elif key == "apparmor":
            apparmor = "" if value == UNCONFINED else _enforced(value)
        elif key == "label":
            if value != "disable":
                raise Unsupported(f"security option {option!r}: this engine sets no SELinux labels", remedy="use label=disable")
        else:
            raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
    return SecurityOptions(no_new_privileges, seccomp, unconfined, apparmor, writable_cgroups)


def _split(option: str) -> tuple[str, str]:
    """Split `KEY=VALUE`, or `KEY:VALUE` as it was once written; two options stand for themselves with `true`."""
    if option in ("no-new-privileges", "writable-cgroups"):
        return option, "true"
    if option == "disable":
        return "label", "disable"
    key, separator, value = option.partition("=" if "=" in option else ":")
    if not separator:
        raise InvalidArgument(f"invalid --security-opt 1: {option!r}")
    return key, value


def _boolean(value: str, option: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
    return value in _TRUE


def _enforced(profile: str) -> str:
    """Give the name of an AppArmor profile, which a kernel without AppArmor would ignore."""
    if not apparmor_enabled():
        raise Unsupported(
            f"confine a container by the AppArmor profile {profile!r}: this host's kernel has no AppArmor",
            remedy="leave it out, or use apparmor=unconfined",
        )
    return profile


def apparmor_enabled() -> bool:
    """Say whether the kernel enforces AppArmor profiles."""
    try:
        return APPARMOR.read_text().startswith("Y")
    except OSError:
        return False


def _client_profile(text: str) -> dict[str, Any]:
    """Read a profile that a client sent, in Docker's form. It is never the name of a file of the host."""
    if not text.lstrip().startswith("{"):
        raise InvalidArgument(f"decoding seccomp profile failed: {text[:64]!r} is not a JSON object",
                              remedy="send the profile's text, as the docker client does")  # fmt: skip
    try:
        profile = load_profile(text)
        resolve_profile(profile, ())
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"decoding seccomp profile failed: {type(error).__name__}: {error}") from error
    return profile
