from __future__ import annotations

from pathlib import Path

import pytest

from sampan.api.errors import InvalidArgument
from sampan.api.types import Ulimit
from sampan.settings import Settings, load


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_nothing_given_is_the_defaults(tmp_path: Path) -> None:
    settings = load({}, write(tmp_path / "c", ""), {})
    assert settings == Settings()
    assert (settings.root, settings.state) == (Path("/var/lib/sampan"), Path("/run/sampan"))
    assert settings.hosts == ("unix:///run/sampan.sock",)
    assert settings.runtime == "native"


def test_environment_is_stronger_than_file_and_flags_than_both(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c", 'runtime = "from-file"\nlog-driver = "from-file"\nstorage-driver = "from-file"\nbridge_name = "file0"\n'
    )
    environment = {"SAMPAN_LOG_DRIVER": "from-env", "SAMPAN_STORAGE_DRIVER": "from-env", "SAMPAN_HOSTS": "unix:///a,fd://"}
    settings = load({"storage_driver": "from-flag"}, config, environment)
    assert settings.runtime == "from-file"
    assert settings.bridge_name == "file0"
    assert settings.log_driver == "from-env"
    assert settings.storage_driver == "from-flag"
    assert settings.hosts == ("unix:///a", "fd://")


def test_environment_gives_booleans(tmp_path: Path) -> None:
    assert load({}, write(tmp_path / "c", ""), {"SAMPAN_INSECURE_TCP": "true"}).insecure_tcp is True
    assert load({}, write(tmp_path / "c", ""), {"SAMPAN_TLSVERIFY": "0"}).tlsverify is False


def test_variables_of_others_are_no_settings(tmp_path: Path) -> None:
    settings = load({}, write(tmp_path / "c", ""), {"SAMPAN_HOST": "unix:///x", "DOCKER_HOST": "unix:///y", "ROOT": "/z"})
    assert settings == Settings()


def test_tables_of_drivers(tmp_path: Path) -> None:
    config = write(tmp_path / "c", '[storage.btrfs]\nsize = "2G"\n[runtimes.runc]\nprogram = "/opt/runc"\n')
    settings = load({}, config, {})
    assert settings.storage == {"btrfs": {"size": "2G"}}
    assert settings.runtimes == {"runc": {"program": "/opt/runc"}}


def test_relative_directories_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"root": "r", "state": "s"}, write(tmp_path / "c", ""), {}).root == tmp_path / "r"


@pytest.mark.parametrize(
    ("text", "overrides", "environment", "expected"),
    [
        ('storage-drvier = "vfs"', {}, {}, "config file {path}: storage_drvier: is not a setting"),
        ("storage-driver = 3", {}, {}, "config file {path}: storage_driver: Input should be a valid string"),
        ("root = x", {}, {}, "read config file {path}: Invalid value (at line 1, column 8)"),
        ("", {"log_level": "loud"}, {}, "command line: log_level: Input should be 'debug', 'info', 'warning' or 'error'"),
        ("", {}, {"SAMPAN_TLSVERIFY": "maybe"}, "environment: tlsverify: Input should be a valid boolean"),
        ("", {}, {"SAMPAN_HOSTS": "http://x"}, "environment: hosts: 'http://x' is none of unix://PATH, tcp://HOST:PORT, fd://"),
        ("", {"bridge_subnet": "fd00::1/64"}, {}, "command line: bridge_subnet: "),
        ("", {"bridge_subnet6": "10.0.0.1/24"}, {}, "command line: bridge_subnet6: "),
        ("", {"bridge_range": "10.0.0.0/26"}, {}, "command line: bridge_range: '10.0.0.0/26' is no part of bridge_subnet"),
        ("", {"bridge_subnet": "10.0.0.1/25", "bridge_range": "10.0.0.192/26"}, {}, "command line: bridge_range: "),
        ("", {"bridge_subnet": "10.0.0.0/99"}, {}, "command line: bridge_subnet: '10.0.0.0/99' does not appear to be"),
        ("[storage]\nbtrfs = 3", {}, {}, "config file {path}: storage.btrfs: Input should be a valid dictionary"),
    ],
)
def test_a_bad_value_is_told_with_its_source_and_name(
    tmp_path: Path, text: str, overrides: dict[str, str], environment: dict[str, str], expected: str
) -> None:
    path = write(tmp_path / "c", text)
    with pytest.raises(InvalidArgument) as caught:
        load(overrides, path, environment)
    assert str(caught.value).startswith(expected.format(path=path))


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "c", 'nonsense = 1\nlog-level = "loud"\n')
    with pytest.raises(InvalidArgument, match=r"log_level: .*; .*nonsense: is not a setting"):
        load({}, path, {})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=rf"read config file {tmp_path}/absent: it does not exist"):
        load({}, str(tmp_path / "absent"), {})


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=rf"read config file {tmp_path}: .*Is a directory"):
        load({}, str(tmp_path), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match=r"read config file .*/binary: .*utf-8"):
        load({}, str(tmp_path / "binary"), {})


def test_what_host_gateway_stands_for(tmp_path: Path) -> None:
    settings = load({}, write(tmp_path / "c", ""), {"SAMPAN_HOST_GATEWAY_IP": "10.0.0.1,fd00::0:1"})
    assert settings.host_gateway_ip == ("10.0.0.1", "fd00::1")


def test_sizes_and_limits_as_docker_writes_them(tmp_path: Path) -> None:
    config = write(tmp_path / "c", 'default-shm-size = "128m"\ndefault-ulimits = ["nofile=1024:2048", "core=-1"]\n')
    settings = load({}, config, {})
    assert settings.default_shm_size == 128 << 20
    assert settings.default_ulimits == (Ulimit(name="nofile", soft=1024, hard=2048), Ulimit(name="core", soft=-1, hard=-1))
    environment = {"SAMPAN_DEFAULT_ULIMITS": "nproc=5,core=0", "SAMPAN_DEFAULT_SHM_SIZE": "1g"}
    assert [limit.name for limit in load({}, config, environment).default_ulimits] == ["nproc", "core"]
    assert load({}, config, environment).default_shm_size == 1 << 30
    assert load({"default_ulimits": ("nice=1",)}, config, environment).default_ulimits[0].name == "nice"
    for text, wrong in (('default-ulimits = ["nofile"]', "is no limit"), ('default-shm-size = "big"', "is no size"), ("default-shm-size = 0", "greater than 0")):
        with pytest.raises(InvalidArgument, match=wrong):
            load({}, write(tmp_path / "c", text), {})
