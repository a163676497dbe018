"""Settings of the overlayfs driver, `[storage.overlayfs]` in config.toml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sampan.api.config import DriverConfig
from sampan_storage_overlayfs.quota import PROJECT_IDS

ProjectId = Annotated[int, Field(ge=1, le=0xFFFFFFFE)]


class OverlayfsConfig(DriverConfig):
    """`volatile`: treat every active snapshot as if it had been asked for with `SnapshotOptions.volatile`.

    `quota`: how a snapshot with a size is limited, by project quotas of the file system that the root is on, or by a file system
    of its own on a loop file. `project_ids`: the first and the last number that a project may get.
    `redirect_dir`: renaming a directory of a lower layer renames it, where otherwise `mv` copies. `metacopy`: a change of owner or mode
    does not copy a file's data; needs `redirect_dir`. Once on, they must stay on.
    """

    volatile: bool = False
    redirect_dir: bool = False
    metacopy: bool = False
    quota: Literal["project", "loop"] = "project"
    project_ids: tuple[ProjectId, ProjectId] = PROJECT_IDS

    @model_validator(mode="after")
    def _metacopy_can_be(self) -> Self:
        if self.metacopy and not self.redirect_dir:
            raise ValueError("metacopy needs redirect_dir, by which a renamed file finds its data: set redirect_dir = true as well")
        return self

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        first, last = self.project_ids
        if first > last:
            raise ValueError(f"project_ids: the first, {first}, is above the last, {last}")
        return self
