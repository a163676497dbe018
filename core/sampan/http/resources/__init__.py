"""One module per resource of the API."""

from __future__ import annotations

import logging

from sampan.engine.engine import Engine
from sampan.http.resources import unbuilt
from sampan.http.resources.checkpoints import CheckpointRoutes
from sampan.http.resources.commits import CommitRoutes
from sampan.http.resources.container_stats import StatsRoutes
from sampan.http.resources.containers import ContainerRoutes
from sampan.http.resources.execs import ExecRoutes
from sampan.http.resources.fsck import FsckRoutes
from sampan.http.resources.images import ImageRoutes
from sampan.http.resources.ledger import LedgerRoutes
from sampan.http.resources.networks import NetworkRoutes
from sampan.http.resources.storage import StorageRoutes
from sampan.http.resources.system import SystemRoutes
from sampan.http.resources.volumes import VolumeRoutes
from sampan.http.router import Router

log = logging.getLogger(__name__)

ROUTES = (
    SystemRoutes, ContainerRoutes, StatsRoutes, CheckpointRoutes, ExecRoutes, CommitRoutes, ImageRoutes, NetworkRoutes, VolumeRoutes,
    StorageRoutes, LedgerRoutes, FsckRoutes,
)  # fmt: skip
"""The classes of handlers; each adds the routes of one resource."""


def build_router(engine: Engine) -> Router:
    """Give the whole API over one engine, the plugins' routes included."""
    router = Router()
    for routes in ROUTES:
        routes(engine).register(router)
    unbuilt.register(router)
    _add_plugin_routes(engine, router)
    return router


def _add_plugin_routes(engine: Engine, router: Router) -> None:
    """Ask each plugin for its routes; one that fails adds none, or not all, and is listed as broken."""
    for implementation in engine.registry.manager.hook.sampan_register_routes.get_hookimpls():
        try:
            implementation.function(**dict.fromkeys(implementation.argnames, router))
        except Exception as error:
            log.exception("plugin %s failed to register its routes", implementation.plugin_name)
            engine.registry.report(implementation.plugin_name, f"sampan_register_routes: {type(error).__name__}: {error}")
