from __future__ import annotations

from typing import Any

import pytest

from sampan.api.types import ContainerConfig, ContainerCreateRequest
from sampan.engine.containers import merge
from sampan.engine.records import ImageRecord

IMAGE = {
    "Env": ["PATH=/image", "A=image"], "Cmd": ["image-command"], "Entrypoint": ["image-entry"], "User": "app",
    "WorkingDir": "/image", "Labels": {"a": "image", "b": "image"}, "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/v": {}}, "StopSignal": "SIGINT",
}  # fmt: skip


def merged(**request: Any) -> ContainerConfig:
    image = ImageRecord(
        id="sha256:1", manifest_digest="", created=0, size=0, diff_ids=[], layers=[], architecture="amd64", os="linux",
        config=ContainerConfig.model_validate(IMAGE),
    )  # fmt: skip
    return merge(ContainerCreateRequest.model_validate({"Image": "x", **request}), image)


def test_an_empty_request_is_the_image() -> None:
    config = merged()
    assert (config.entrypoint, config.cmd) == (["image-entry"], ["image-command"])
    assert (config.user, config.working_dir, config.stop_signal) == ("app", "/image", "SIGINT")
    assert config.env == ["PATH=/image", "A=image"]
    assert (set(config.exposed_ports), set(config.volumes)) == ({"80/tcp"}, {"/v"})


def test_the_request_wins() -> None:
    config = merged(
        Env=["A=mine", "B=mine"], User="0", WorkingDir="/mine", Labels={"a": "mine"}, ExposedPorts={"53/UDP": {}},
        Volumes={"/w": {}}, StopSignal="SIGTERM", HostConfig={"PortBindings": {"81": [{"HostPort": "1"}]}},
    )  # fmt: skip
    assert config.env == ["A=mine", "B=mine", "PATH=/image"]
    assert (config.user, config.working_dir, config.stop_signal) == ("0", "/mine", "SIGTERM")
    assert config.labels == {"a": "mine", "b": "image"}
    assert set(config.exposed_ports) == {"80/tcp", "53/udp", "81/tcp"}
    assert set(config.volumes) == {"/v", "/w"}


@pytest.mark.parametrize(
    ("request_", "entrypoint", "command"),
    [
        ({"Cmd": ["c"]}, ["image-entry"], ["c"]),
        ({"Entrypoint": ["e"]}, ["e"], None),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, ["e"], ["c"]),
        ({"Entrypoint": "e"}, ["e"], None),
        ({"Entrypoint": [""]}, [], None),
        ({"Entrypoint": [""], "Cmd": ["c"]}, [], ["c"]),
        ({"Entrypoint": []}, [], ["image-command"]),
        ({"Entrypoint": None, "Cmd": None}, ["image-entry"], ["image-command"]),
        ({"Cmd": []}, ["image-entry"], ["image-command"]),
    ],
)
def test_entry_point_and_command(request_: dict[str, Any], entrypoint: list[str], command: list[str] | None) -> None:
    config = merged(**request_)
    assert (config.entrypoint, config.cmd) == (entrypoint, command)
