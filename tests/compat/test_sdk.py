"""The Docker SDK for Python."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

from ground.daemon import Daemon

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def sdk(daemon: Daemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=daemon.host, timeout=30)
    try:
        yield client
    finally:
        client.close()
        gc.collect()  # the SDK leaves the sockets of hijacked streams to the collector; here, where that is no surprise


def test_versions(sdk: docker.DockerClient) -> None:
    assert sdk.ping() is True
    assert sdk.version()["ApiVersion"] == "1.51"
    assert sdk.info()["OSType"] == "linux"


def test_run(sdk: docker.DockerClient) -> None:
    assert sdk.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    assert sdk.containers.run("busybox", "sh -c 'echo $A'", environment={"A": "b"}, remove=True) == b"b\n"
    with pytest.raises(ContainerError, match="returned non-zero exit status 3: b'bad") as caught:
        sdk.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert caught.value.exit_status == 3
    with pytest.raises(ImageNotFound):
        sdk.containers.create("absent:1", "true")


def test_exec_logs_and_attach(sdk: docker.DockerClient) -> None:
    script = "echo first; read word; echo got $word; exit 4"
    container = sdk.containers.run("busybox", ["sh", "-c", script], detach=True, stdin_open=True, name="sdk")
    assert container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 5"], demux=True) == (5, (b"out\n", b"err\n"))
    streamed = container.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True)
    assert b"".join(streamed.output) == b"1\n2\n3\n"
    following = container.logs(stream=True, follow=True)
    assert next(following) == b"first\n"
    stdin = container.attach_socket(params={"stdin": 1, "stream": 1})
    stdin._sock.sendall(b"word\n")
    assert next(following) == b"got word\n"
    assert container.wait(timeout=20)["StatusCode"] == 4
    assert list(following) == []
    stdin._sock.close()
    stdin.close()
    assert container.logs() == b"first\ngot word\n"
    container.reload()
    assert (container.status, container.attrs["State"]["ExitCode"]) == ("exited", 4)
    container.remove()
    with pytest.raises(NotFound):
        sdk.containers.get("sdk")


def test_attach_stream(sdk: docker.DockerClient) -> None:
    container = sdk.containers.create("busybox", ["sh", "-c", "echo a; echo b >&2"])
    stream = container.attach(stream=True, demux=True, stdout=True, stderr=True)
    container.start()
    parts = list(stream)
    assert b"".join(out for out, _ in parts if out) == b"a\n"
    assert b"".join(err for _, err in parts if err) == b"b\n"


def test_volumes_networks_and_limits(sdk: docker.DockerClient) -> None:
    volume = sdk.volumes.create("sdk-data", labels={"a": "b"})
    assert volume.attrs["Labels"] == {"a": "b"}
    out = sdk.containers.run(
        "busybox", ["sh", "-c", "echo x > /data/x; cat /sys/class/net/*/address"], remove=True, network_mode="none",
        volumes={"sdk-data": {"bind": "/data", "mode": "rw"}}, mem_limit="32m", pids_limit=10,
    )  # fmt: skip
    assert out == b"00:00:00:00:00:00\n"
    volume.remove()
    assert [network.name for network in sdk.networks.list(names=["bridge"])] == ["bridge"]


def test_networks(sdk: docker.DockerClient) -> None:
    pool = docker.types.IPAMPool(subnet="10.70.0.0/24", gateway="10.70.0.1", aux_addresses={"printer": "10.70.0.2"})
    options = {"com.docker.network.driver.mtu": "1400"}
    network = sdk.networks.create("sdk", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"x": "y"}, options=options)
    asked = {"sdk": sdk.api.create_endpoint_config(aliases=["first"], ipv4_address="10.70.0.50")}
    one = sdk.containers.run("busybox", "sleep 60", detach=True, name="one", network="sdk", networking_config=asked)
    two = sdk.containers.run("busybox", "sleep 60", detach=True, name="two")
    network.connect(two, aliases=["second"], links=[("one", "linked")])
    network.reload()
    assert {container.name for container in network.containers} == {"one", "two"}
    two.reload()
    assert two.attrs["NetworkSettings"]["Networks"]["sdk"]["IPAddress"] == "10.70.0.3"
    assert one.exec_run("ping -c 1 -w 5 second").exit_code == 0
    for name in ("first", "linked"):
        assert two.exec_run(f"ping -c 1 -w 5 {name}").exit_code == 0
    assert b"mtu 1400" in two.exec_run("ip link show eth1").output
    with pytest.raises(APIError) as caught:
        network.remove()
    assert caught.value.status_code == 403
    network.disconnect(two)
    one.remove(force=True)
    assert sdk.networks.prune()["NetworksDeleted"] == ["sdk"]


def test_images(sdk: docker.DockerClient) -> None:
    sdk.images.get("busybox").tag("sdk-tag", "v1")
    assert "sdk-tag:v1" in sdk.images.get("sdk-tag:v1").tags
    assert [image.id for image in sdk.images.list("sdk-tag")] == [sdk.images.get("busybox").id]
    sdk.images.remove("sdk-tag:v1")


def test_events(sdk: docker.DockerClient) -> None:
    since = time.time()
    sdk.containers.run("busybox", "true", remove=True)
    events = sdk.events(decode=True, since=since, until=time.time(), filters={"type": "container"})
    assert [event["Action"] for event in events if event["Action"] != "attach"] == ["create", "start", "die", "destroy"]


def test_errors_have_dockers_status(sdk: docker.DockerClient) -> None:
    with pytest.raises(APIError) as caught:
        sdk.containers.create("busybox", "true", mem_limit="1m")
    assert caught.value.status_code == 400
    sdk.containers.create("busybox", "true", name="taken")
    with pytest.raises(APIError) as caught:
        sdk.containers.create("busybox", "true", name="taken")
    assert caught.value.status_code == 409
