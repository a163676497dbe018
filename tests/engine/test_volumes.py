"""Volumes through the API: made, found, used, refused, pruned."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from ground.daemon import Daemon


def test_make_inspect_remove(daemon: Daemon) -> None:
    made = daemon.api("POST", "/volumes/create", {"Name": "data", "Labels": {"a": "b"}})
    assert (made["Name"], made["Driver"], made["Labels"], made["Scope"]) == ("data", "local", {"a": "b"}, "local")
    assert Path(made["Mountpoint"]).is_dir()
    assert daemon.api("POST", "/volumes/create", {"Name": "data"}) == made
    assert daemon.api("GET", "/volumes/data") == made
    daemon.api("DELETE", "/volumes/data")
    assert not Path(made["Mountpoint"]).exists()
    assert daemon.api_raw("GET", "/volumes/data")[0] == 404
    assert daemon.api_raw("DELETE", "/volumes/data")[0] == 404
    assert daemon.api_raw("DELETE", "/volumes/data?force=1")[0] == 204


def test_contents_outlive_containers(daemon: Daemon) -> None:
    daemon.docker("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/file; chown 5:6 /d/file")
    assert daemon.docker("run", "--rm", "-v", "data:/d:ro", "busybox", "cat", "/d/file").stdout == b"kept\n"
    assert daemon.docker("run", "--rm", "-v", "data:/d", "busybox", "stat", "-c", "%u:%g", "/d/file").stdout == b"5:6\n"
    daemon.docker("run", "--rm", "-v", "data:/d:ro", "busybox", "touch", "/d/other", check=1)


def test_one_in_use_is_not_removed(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "user", "-v", "data:/d", "busybox", "true")
    status, answer = daemon.api_raw("DELETE", "/volumes/data")
    assert status == 409
    assert b"volume is in use" in answer


def test_an_anonymous_one_goes_with_its_container(daemon: Daemon) -> None:
    daemon.docker("run", "--rm", "-v", "/d", "busybox", "touch", "/d/file")
    assert daemon.api("GET", "/volumes")["Volumes"] == []
    daemon.docker("create", "--name", "kept", "-v", "/d", "busybox", "true")
    daemon.docker("rm", "kept")
    (left,) = daemon.api("GET", "/volumes")["Volumes"]
    assert "com.docker.volume.anonymous" in left["Labels"]
    assert daemon.api("POST", "/volumes/prune")["VolumesDeleted"] == [left["Name"]]


def test_prune_keeps_what_is_named_and_what_is_used(daemon: Daemon) -> None:
    daemon.api("POST", "/volumes/create", {"Name": "named"})
    daemon.docker("create", "--name", "user", "-v", "/d", "busybox", "true")
    assert daemon.api("POST", "/volumes/prune")["VolumesDeleted"] == []
    every = quote(json.dumps({"all": ["1"]}))
    assert daemon.api("POST", f"/volumes/prune?filters={every}")["VolumesDeleted"] == ["named"]


def test_refusals(daemon: Daemon) -> None:
    for body, told in (
        ({"Name": "../x"}, b"Invalid volume name"),
        ({"Name": "data", "Driver": "nfs"}, b"known ones are local"),
        ({"Name": "data", "DriverOpts": {"type": "nfs"}}, b"unknown option"),
    ):
        status, answer = daemon.api_raw("POST", "/volumes/create", body)
        assert (status, told in answer) == (400, True), answer
