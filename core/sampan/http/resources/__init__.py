"""One module per resource of the API."""

from __future__ import annotations

from sampan.engine.engine import Engine
from sampan.http.resources import unbuilt
from sampan.http.resources.containers import ContainerRoutes
from sampan.http.resources.execs import ExecRoutes
from sampan.http.resources.images import ImageRoutes
from sampan.http.resources.networks import NetworkRoutes
from sampan.http.resources.system import SystemRoutes
from sampan.http.resources.volumes import VolumeRoutes
from sampan.http.router import Router


def build_router(engine: Engine) -> Router:
    """Give the whole API over one engine, the plugins' routes included."""
    router = Router()
    for routes in (SystemRoutes, ContainerRoutes, ExecRoutes, ImageRoutes, NetworkRoutes, VolumeRoutes):
        routes(engine).register(router)
    unbuilt.register(router)
    engine.registry.manager.hook.sampan_register_routes(router=router)
    return router
