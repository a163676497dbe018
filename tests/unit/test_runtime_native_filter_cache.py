"""The native driver's cache of seccomp programs."""

from __future__ import annotations

import stat
from binascii import crc32
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import seccomp
from sampan_runtime_native import filter_cache
from sampan_runtime_native.filter_cache import compile_once


def profile(errno: int) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was compiled since, by its errno."""
    calls: list[int] = []
    compile_ = seccomp.compile

    def counting(given: Any) -> bytes:
        calls.append(given["syscalls"][0]["errnoRet"])
        return compile_(given)

    monkeypatch.setattr(filter_cache.seccomp, "compile", counting)
    return calls


def test_a_profile_is_compiled_once(tmp_path: Path, compiled: list[int]) -> None:
    cache = tmp_path / "not/there/yet"
    programs = [compile_once(profile(number), cache) for number in (1, 2, 1, 2, 1)]
    assert sorted(compiled) == [1, 2]
    assert programs[0] == programs[2] == programs[4] == seccomp.compile(profile(1))
    assert programs[1] == programs[3] == seccomp.compile(profile(2))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert not [file for file in cache.iterdir() if file.name.startswith(".")]


def test_profiles_that_share_a_place_are_not_mistaken(tmp_path: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A checksum only says where to look: with one place for all, each still gets its own program."""
    monkeypatch.setattr(filter_cache, "_PLACES", 1)
    assert crc32(b"") == 0
    for number in (1, 2, 1):
        assert compile_once(profile(number), tmp_path) == seccomp.compile(profile(number))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", [lambda content: content[:10], lambda content: b"", lambda content: b"\xff" * len(content)])
def test_a_file_that_is_cut_or_of_others_counts_as_none(tmp_path: Path, compiled: list[int], damage: Any) -> None:
    wanted = compile_once(profile(1), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert compile_once(profile(1), tmp_path) == wanted
    assert len(compiled) == 2


def test_without_a_cache_or_with_one_that_is_no_directory_it_is_compiled(tmp_path: Path, compiled: list[int]) -> None:
    file = tmp_path / "file"
    file.touch()
    for cache in (None, file, file / "below"):
        assert compile_once(profile(1), cache) == seccomp.compile(profile(1))
    assert list(tmp_path.iterdir()) == [file]
