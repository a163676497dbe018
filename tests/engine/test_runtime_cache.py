"""What a runtime driver makes once for all containers of an engine: compiled seccomp programs."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from ground.daemon import Daemon


def test_containers_share_a_filter(own_daemon: Daemon, tmp_path: Path) -> None:
    """One profile is one file, of root's alone; another engine, of another release maybe, begins without."""
    cache = own_daemon.state / "runtimes/native"
    for _ in range(2):
        own_daemon.docker("run", "--rm", "--network", "none", "busybox", "grep", "-q", "Seccomp:.2", "/proc/self/status")
    (first,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    own_daemon.docker("run", "--rm", "--network", "none", "--cap-add", "SYS_ADMIN", "busybox", "unshare", "-m", "true")
    assert len(list(cache.iterdir())) == 2
    own_daemon.docker("run", "--rm", "--privileged", "--network", "none", "busybox", "true")
    assert len(list(cache.iterdir())) == 2
    own_daemon.stop()
    own_daemon.start()
    assert not cache.exists()
    own_daemon.docker("run", "--rm", "--network", "none", "busybox", "true")
    assert [file.name for file in cache.iterdir()] == [first.name]


def test_a_filter_in_the_cache_is_what_is_installed(own_daemon: Daemon, tmp_path: Path) -> None:
    """The second container of a profile, which compiles nothing, is confined as the first."""
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    for _ in range(2):
        done = own_daemon.docker(
            "run", "--rm", "--network", "none", "--security-opt", f"seccomp={profile}", "busybox", "mkdir", "/made", check=None
        )
        assert b"Invalid cross-device link" in done.stderr
