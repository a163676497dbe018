from __future__ import annotations

from pathlib import Path

import pytest

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.engine import security_options
from sampan.engine.security_options import parse_security_options


@pytest.fixture
def apparmor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file that says whether the kernel has AppArmor, as one that has it writes it."""
    path = tmp_path / "enabled"
    path.write_text("Y\n")
    monkeypatch.setattr(security_options, "APPARMOR", path)
    return path


def test_security_options(apparmor: Path) -> None:
    assert parse_security_options([]).seccomp is None
    assert parse_security_options(["no-new-privileges:true"]).no_new_privileges
    assert parse_security_options(["no-new-privileges=1"]).no_new_privileges
    assert not parse_security_options(["no-new-privileges", "no-new-privileges=false"]).no_new_privileges
    assert parse_security_options([], no_new_privileges=True).no_new_privileges
    assert not parse_security_options(["no-new-privileges=false"], no_new_privileges=True).no_new_privileges
    assert parse_security_options(["seccomp=unconfined"]).seccomp_unconfined
    assert parse_security_options(["seccomp:unconfined"]).seccomp_unconfined
    assert parse_security_options(['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}']).seccomp == {"defaultAction": "SCMP_ACT_ALLOW"}
    assert parse_security_options(["apparmor=mine"]).apparmor == "mine"
    assert parse_security_options(["apparmor=unconfined", "label=disable", "disable"]).apparmor == ""
    assert parse_security_options([]).writable_cgroups is None
    assert parse_security_options(["writable-cgroups"]).writable_cgroups is True
    assert parse_security_options(["writable-cgroups=false"]).writable_cgroups is False


@pytest.mark.parametrize(
    "option",
    ["nonsense", "nonsense=1", "seccomp=/absent/file", "seccomp={", "systempaths=unconfined", "no-new-privileges=perhaps", "writable-cgroups=2"],
)
def test_security_options_refused(option: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_security_options([option])


def test_what_the_kernel_would_not_enforce_is_refused(apparmor: Path) -> None:
    with pytest.raises(Unsupported, match="SELinux"):
        parse_security_options(["label=type:x"])
    for text in ("N\n", None):
        apparmor.unlink() if text is None else apparmor.write_text(text)
        with pytest.raises(Unsupported, match="kernel has no AppArmor"):
            parse_security_options(["apparmor=mine"])
