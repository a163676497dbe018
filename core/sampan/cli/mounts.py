"""Mount flags: `-v`, `--mount` and `--tmpfs`."""

from __future__ import annotations

import os.path
from typing import Any

from sampan.cli.units import parse_size

_MODES = frozenset(
    [
        "ro",
        "rw",
        "z",
        "Z",
        "nocopy",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "rprivate",
        "consistent",
        "cached",
        "delegated",
        "volume-nocopy",
    ]
)
_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def parse_volume(text: str) -> tuple[str, str]:
    """Parse `-v`: give (bind, "") for `SRC:DST[:MODE]`, ("", path) for an anonymous volume. Raises `ValueError`."""
    parts = text.split(":")
    if len(parts) == 1:
        if not text.startswith("/"):
            raise ValueError(f"invalid volume specification: {text!r}: the path in the container must be absolute")
        return "", text
    if len(parts) > 3 or not parts[0] or not parts[1]:
        raise ValueError(f"invalid volume specification: {text!r}: it is [SOURCE:]PATH[:MODE]")
    if not parts[1].startswith("/"):
        raise ValueError(f"invalid volume specification: {text!r}: the path in the container must be absolute")
    if parts[1].strip("/") == "":
        raise ValueError(f"invalid volume specification: {text!r}: destination can't be '/'")
    if len(parts) == 3 and (unknown := [mode for mode in parts[2].split(",") if mode not in _MODES]):
        raise ValueError(f"invalid volume specification: {text!r}: invalid mode: {unknown[0]}")
    if parts[0].startswith((".", "~")):
        parts[0] = os.path.abspath(os.path.expanduser(parts[0]))
    return ":".join(parts), ""


def parse_tmpfs(text: str) -> tuple[str, str]:
    """Parse `--tmpfs PATH[:OPTIONS]`. Raises `ValueError`."""
    path, _, options = text.partition(":")
    if not path.startswith("/"):
        raise ValueError(f"invalid tmpfs {text!r}: the path in the container must be absolute")
    return path, options


def parse_mount(text: str) -> dict[str, Any]:
    """Parse `--mount type=…,src=…,dst=…` to the API's Mount. Raises `ValueError`."""
    import csv

    fields = next(csv.reader([text]), [])
    if not fields:
        raise ValueError("value is empty")
    mount: dict[str, Any] = {"Type": "volume"}
    for field in fields:
        key, equals, value = field.partition("=")
        _set(mount, key.strip().lower(), value, bool(equals), field)
    _check(mount)
    return mount


def _set(mount: dict[str, Any], key: str, value: str, given: bool, field: str) -> None:
    if not given and key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
        raise ValueError(f"invalid field {field!r} must be a key=value pair")
    match key:
        case "type":
            mount["Type"] = value.lower()
        case "source" | "src":
            relative = value in (".", "..") or value.startswith(("./", "../"))
            mount["Source"] = os.path.abspath(value) if relative else value
        case "target" | "dst" | "destination":
            mount["Target"] = value
        case "readonly" | "ro":
            mount["ReadOnly"] = _switch(key, value, given)
        case "consistency":
            mount["Consistency"] = value.lower()
        case "bind-propagation":
            if value.lower() not in _PROPAGATIONS:
                raise ValueError(f"invalid value for {key}: {value}")
            mount.setdefault("BindOptions", {})["Propagation"] = value.lower()
        case "bind-nonrecursive":
            mount.setdefault("BindOptions", {})["NonRecursive"] = _switch(key, value, given)
        case "bind-recursive":
            _recursive(mount.setdefault("BindOptions", {}), value)
        case "bind-create-src":
            mount.setdefault("BindOptions", {})["CreateMountpoint"] = _switch(key, value, given)
        case "volume-subpath":
            mount.setdefault("VolumeOptions", {})["Subpath"] = value
        case "volume-nocopy":
            mount.setdefault("VolumeOptions", {})["NoCopy"] = _switch(key, value, given)
        case "volume-label":
            name, _, label = value.partition("=")
            mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = label
        case "volume-driver":
            mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
        case "volume-opt":
            name, _, option = value.partition("=")
            driver = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
            driver.setdefault("Options", {})[name] = option
        case "image-subpath":
            mount.setdefault("ImageOptions", {})["Subpath"] = value
        case "tmpfs-size":
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = parse_size(value)
        case "tmpfs-mode":
            mount.setdefault("TmpfsOptions", {})["Mode"] = _octal(value)
        case _:
            raise ValueError(f"unexpected key {key!r} in {field!r}")


def _check(mount: dict[str, Any]) -> None:
    kind = mount["Type"]
    if kind not in ("bind", "volume", "tmpfs", "image"):
        raise ValueError(f"mount type {kind!r} is not supported: it is bind, volume, tmpfs or image")
    if not mount.get("Target"):
        raise ValueError("target is required")
    if kind in ("bind", "image") and not mount.get("Source"):
        raise ValueError(f"source is required for type={kind}")
    for options, owner in (
        ("BindOptions", "bind"), ("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs"), ("ImageOptions", "image"),
    ):  # fmt: skip
        if options in mount and kind != owner:
            raise ValueError(f"cannot mix '{owner}-*' options with mount type {kind!r}")


def _recursive(options: dict[str, Any], value: str) -> None:
    keys = {"enabled": (), "disabled": ("NonRecursive",), "writable": ("ReadOnlyNonRecursive",),
            "readonly": ("ReadOnlyForceRecursive",)}  # fmt: skip
    if value not in keys:
        raise ValueError(f"invalid value for bind-recursive: {value}: it is enabled, disabled, writable or readonly")
    options.update(dict.fromkeys(keys[value], True))


def _switch(key: str, value: str, given: bool) -> bool:
    if not given or value in ("1", "true", "True", "TRUE", "t", "T"):
        return True
    if value in ("0", "false", "False", "FALSE", "f", "F"):
        return False
    raise ValueError(f"invalid value for {key}: {value}")


def _octal(value: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for tmpfs-mode: {value}: it is octal, as 1777") from None
