"""Commands from plugins: asked for only when a command is unknown, since the scan of installed packages takes time."""

from __future__ import annotations

import importlib.metadata
import os
import sys

import click
import pluggy

from sampan.api import hookspecs


def register_commands(cli: click.Group) -> None:
    """Let every installed plugin add commands to `cli`. A plugin that fails is named on standard error, and skipped."""
    blocked = {name.strip() for name in os.environ.get("SAMPAN_DISABLED_PLUGINS", "").split(",")}
    for entry_point in importlib.metadata.entry_points(group=hookspecs.PROJECT):
        if entry_point.name in blocked:
            continue
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            plugin = entry_point.load()
            if not hasattr(plugin, "sampan_register_commands"):
                continue
            manager.register(plugin, name=entry_point.name)
            manager.hook.sampan_register_commands(cli=cli)
        except Exception as error:
            print(
                f"sampan: plugin {entry_point.name} gives no commands: {type(error).__name__}: {error}",
                file=sys.stderr,
            )
