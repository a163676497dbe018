from __future__ import annotations

import pytest

from sampan.api.errors import InvalidArgument
from sampan.api.types import ContainerConfig
from sampan.content.changes import apply_changes


def changed(*changes: str) -> dict:
    return apply_changes(ContainerConfig(), changes).model_dump(by_alias=True, exclude_defaults=True)


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ('CMD ["sh", "-c", "x"]', {"Cmd": ["sh", "-c", "x"]}),
        ("CMD echo hi", {"Cmd": ["/bin/sh", "-c", "echo hi"]}),
        ("cmd [broken", {"Cmd": ["/bin/sh", "-c", "[broken"]}),
        ('ENTRYPOINT ["/init"]', {"Entrypoint": ["/init"]}),
        ("ENV A=1 B=\"two words\" C='x' D=a\\ b", {"Env": ["A=1", "B=two words", "C=x", "D=a b"]}),
        ("ENV A one two", {"Env": ["A=one two"]}),
        ("LABEL a=1 b=", {"Labels": {"a": "1", "b": ""}}),
        (
            "EXPOSE 80 53/udp 8000-8001",
            {"ExposedPorts": dict.fromkeys(("80/tcp", "53/udp", "8000/tcp", "8001/tcp"), {})},
        ),
        ("USER 1000:1000", {"User": "1000:1000"}),
        ('VOLUME ["/a b", "/c"]', {"Volumes": {"/a b": {}, "/c": {}}}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ("WORKDIR /srv\nWORKDIR app", {"WorkingDir": "/srv/app"}),
        ("STOPSIGNAL SIGQUIT", {"StopSignal": "SIGQUIT"}),
        ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
            {"Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90 * 10**9, "Retries": 3}},
        ),
        ("# nothing", {}),
    ],
)
def test_each_instruction(change, result):
    assert changed(change) == result


def test_later_changes_win():
    assert changed("ENV A=1", "ENV B=2", "ENV A=3") == {"Env": ["B=2", "A=3"]}


@pytest.mark.parametrize(
    "change",
    ["RUN x", "FROM x", "CMD", "ENV A", 'ENV A="x', "LABEL a=1 b", "EXPOSE x", "EXPOSE 70000", "EXPOSE 9-8", "USER a b",
     "ONBUILD FROM x", "HEALTHCHECK x", "HEALTHCHECK --colour=red CMD x", "HEALTHCHECK --interval=x CMD x"],
)  # fmt: skip
def test_what_is_wrong_is_refused(change):
    with pytest.raises(InvalidArgument):
        changed(change)


def test_the_given_config_is_not_touched():
    config = ContainerConfig()
    apply_changes(config, ["ENV A=1", "LABEL a=b"])
    assert config == ContainerConfig()
