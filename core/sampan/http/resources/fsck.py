"""Whether the engine's storage is as it should be: `/sampan/system/fsck`."""

from __future__ import annotations

from typing import Any

from sampan.engine.engine import Engine
from sampan.engine.faults import Fault
from sampan.engine.fsck import Fsck, Report
from sampan.http.request import Request
from sampan.http.resources.storage import damage_view
from sampan.http.response import Response, json_response
from sampan.http.router import Router


class FsckRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._fsck = Fsck(engine)

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/sampan/system/fsck", self.check)
        router.add("POST", "/sampan/system/fsck", self.repair)

    async def check(self, request: Request) -> Response:
        """Tell every orphan and every loss, changing nothing; `deep` also verifies digests."""
        return json_response(_report_view(await self._fsck.check(deep=request.query.get_bool("deep"))))

    async def repair(self, request: Request) -> Response:
        """Mend what can be mended, and tell what is left."""
        return json_response(_report_view(await self._fsck.repair(deep=request.query.get_bool("deep"))))


def _report_view(report: Report) -> dict[str, Any]:
    return {
        "Mended": [_fault_view(fault) for fault in report.mended],
        "Damage": [_fault_view(fault) for fault in report.damage],
        "Skipped": list(report.skipped),
    }


def _fault_view(fault: Fault) -> dict[str, Any]:
    return {"Area": fault.area} | damage_view(fault.damage)
