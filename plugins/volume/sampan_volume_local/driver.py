"""Volumes as directories: `<root>/<name>/_data`, as Docker lays them.

A volume is made under a temporary name and appears by rename; it goes by being renamed away first. So a crash leaves either
a whole volume or a directory with a dot in front, which `open` sweeps.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from sampan.api.driver import Probe
from sampan.api.errors import InvalidArgument, NotFound, System
from sampan.api.volume import VolumeDriver, VolumeInfo

DATA = "_data"
OPTIONS = "options.json"
_TEMPORARY = "."


class LocalVolumes(VolumeDriver):
    """Directories under the engine's root."""

    name = "local"

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Any host works."""
        return Probe(True)

    def open(self) -> None:
        """Sweep what a crash left half made or half removed."""
        for entry in self.context.root.iterdir():
            if entry.name.startswith(_TEMPORARY):
                shutil.rmtree(entry, ignore_errors=True)

    def create(self, name: str, options: Mapping[str, str]) -> VolumeInfo:
        """Make the directory; no options are known yet."""
        if options:
            raise InvalidArgument(
                f"create volume {name}: unknown option {', '.join(sorted(options))}",
                remedy="the local driver takes no options yet; bind a mounted directory instead",
            )
        path = self._path(name)
        if not path.exists():
            temporary = self.context.root / f"{_TEMPORARY}{secrets.token_hex(8)}"
            try:
                temporary.mkdir(mode=0o701)
                data = temporary / DATA
                data.mkdir()
                data.chmod(0o755)
                (temporary / OPTIONS).write_text(json.dumps(dict(options)))
                temporary.rename(path)
            except OSError as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise System(f"create volume {name}: {error}") from error
        return self.get(name)

    def remove(self, name: str) -> None:
        """Rename the directory away, then delete it."""
        temporary = self.context.root / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            self._path(name).rename(temporary)
        except FileNotFoundError:
            return
        try:
            shutil.rmtree(temporary)
        except OSError as error:
            raise System(f"remove volume {name}: {error}", remedy="the rest is deleted when the engine starts") from error

    def mount(self, name: str, user: str) -> Path:
        """Give the directory: there is nothing to mount."""
        return self._existing(name) / DATA

    def unmount(self, name: str, user: str) -> None:
        """Nothing was mounted."""

    def get(self, name: str) -> VolumeInfo:
        """Describe one volume."""
        path = self._existing(name)
        options = path / OPTIONS
        return VolumeInfo(name, path / DATA, json.loads(options.read_text()) if options.exists() else {})

    def list(self) -> Iterator[VolumeInfo]:
        """Give every volume."""
        for entry in sorted(os.listdir(self.context.root)):
            if not entry.startswith(_TEMPORARY) and (self.context.root / entry / DATA).is_dir():
                yield self.get(entry)

    def _path(self, name: str) -> Path:
        if not name or "/" in name or "\0" in name or name.startswith(_TEMPORARY) or len(name) > 255:
            raise InvalidArgument(f"volume name {name[:64]!r} is not valid")
        return self.context.root / name

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        if not (path / DATA).is_dir():
            raise NotFound(f"get {name}: no such volume")
        return path
