"""The blob store as an OCI image layout: skopeo lists and copies what docker loads, tags and removes."""

from __future__ import annotations

import json
import subprocess

from ground.daemon import Daemon


def names(daemon: Daemon) -> list[str]:
    index = json.loads((daemon.root / "content" / "index.json").read_text())
    return sorted(entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "") for entry in index["manifests"])


def skopeo(*command: str) -> str:
    return subprocess.run(["skopeo", *command], check=True, capture_output=True, text=True).stdout


def test_the_index_follows_the_tags(daemon: Daemon) -> None:
    assert names(daemon) == ["busybox:latest"]
    daemon.docker("tag", "busybox", "example.com:5000/some/repo:v1")
    assert names(daemon) == ["busybox:latest", "example.com:5000/some/repo:v1"]
    config = json.loads(skopeo("inspect", "--config", f"oci:{daemon.root}/content:example.com:5000/some/repo:v1"))
    assert config["rootfs"]["diff_ids"] == daemon.api("GET", "/images/busybox/json")["RootFS"]["Layers"]
    daemon.docker("rmi", "example.com:5000/some/repo:v1")
    assert names(daemon) == ["busybox:latest"]


def test_an_image_goes_out_and_comes_back_with_the_same_id(daemon: Daemon) -> None:
    image_id = daemon.api("GET", "/images/busybox/json")["Id"]
    archive = daemon.base / "out.tar"
    skopeo("copy", f"oci:{daemon.root}/content:busybox:latest", f"docker-archive:{archive}:back:1")
    daemon.docker("load", "-i", str(archive))
    assert daemon.api("GET", "/images/back:1/json")["Id"] == image_id
    daemon.docker("rmi", "back:1")


def test_an_image_without_a_tag_is_listed(daemon: Daemon) -> None:
    made = daemon.docker("import", "-", stdin=bytes(1024)).stdout.decode().strip()
    assert names(daemon) == ["", "busybox:latest"]
    daemon.docker("rmi", made)
    assert names(daemon) == ["busybox:latest"]


def test_a_restart_writes_a_lost_index(own_daemon: Daemon) -> None:
    own_daemon.stop()
    (own_daemon.root / "content" / "index.json").unlink()
    own_daemon.start()
    assert names(own_daemon) == ["busybox:latest"]
    own_daemon.stop()
