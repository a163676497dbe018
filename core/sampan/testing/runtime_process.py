"""The runtime suite: what a process is made of besides its program: its five capability sets and its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from sampan.api.runtime import RuntimeCapability, Spec
from sampan.linux.capabilities import mask
from sampan.linux.syscalls import syscall
from sampan.testing.runtime_ground import Workshop, shell, status_fields
from sampan.testing.selection import needs

__all__ = ["ProcessCases"]

_SETS: Final = {
    "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID"],
    "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
    "effective": ["CAP_KILL"],
    "inheritable": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
    "ambient": ["CAP_NET_BIND_SERVICE"],
}

# include/uapi/linux/keyctl.h
_JOIN_SESSION_KEYRING: Final = 1
_SETPERM: Final = 5
_SESSION_KEYRING: Final = -3
_POSSESSOR_ONLY: Final = 0x3F000000


class ProcessCases:
    """Rights and keys of a process are the spec's, not the caller's."""

    @pytest.mark.parametrize("uid", [0, 1000])
    def test_five_capability_sets(self, workshop: Workshop, uid: int) -> None:
        """Each is the spec's, until the kernel makes of them what the program gets: capabilities(7)."""
        changes: Spec = {"user": {"uid": uid, "gid": uid}, "capabilities": _SETS}
        sets = {kind: mask(names) for kind, names in _SETS.items()}
        program = sets["ambient"] if uid else sets["bounding"] | sets["inheritable"]
        expected = {
            "CapInh": sets["inheritable"], "CapPrm": program, "CapEff": program, "CapBnd": sets["bounding"],
            "CapAmb": sets["ambient"],
        }  # fmt: skip
        assert status_fields(workshop.run("cat /proc/self/status", **changes), "Cap") == expected

    @needs(RuntimeCapability.EXEC)
    def test_five_capability_sets_of_an_exec(self, workshop: Workshop) -> None:
        """Those of the process object, whatever the first process has."""
        user = {"uid": 1000, "gid": 1000}
        sets = {kind: mask(names) for kind, names in _SETS.items()}
        found = status_fields(workshop.idle().exec(shell("cat /proc/self/status", user=user, capabilities=_SETS)), "Cap")
        assert (found["CapBnd"], found["CapInh"], found["CapAmb"]) == (sets["bounding"], sets["inheritable"], sets["ambient"])
        assert found["CapEff"] == found["CapPrm"] == sets["ambient"]

    def test_keys_of_the_caller_stay_with_it(self, workshop: Workshop) -> None:
        """What is in the caller's session keyring for who has that, neither a container nor an exec has."""
        syscall("keyctl", _JOIN_SESSION_KEYRING, None)
        key = syscall("add_key", "user", f"{workshop.mark}-secret", b"secret", 6, _SESSION_KEYRING)
        syscall("keyctl", _SETPERM, key, _POSSESSOR_ONLY)
        name = f"{workshop.mark}-secret"
        assert name in Path("/proc/keys").read_text()
        spec = workshop.spec("cat /proc/keys; echo end; exec sleep 1000")
        spec["linux"]["maskedPaths"].remove("/proc/keys")
        container = workshop.idle(spec)
        assert name not in container.main.read_until(b"end").decode()
