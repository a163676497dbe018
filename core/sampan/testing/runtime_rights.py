"""The runtime suite: capabilities, system calls and devices."""

from __future__ import annotations

import signal

import pytest

from sampan.api.runtime import Spec
from sampan.testing.runtime_ground import DOCKER_CAPABILITIES, Workshop, status_fields

_CAP_NET_BIND_SERVICE = 1 << 10


class RightCases:
    """What a process may do is what the spec allows."""

    def test_capability_sets(self, workshop: Workshop) -> None:
        """Root has the spec's sets and no more."""
        assert status_fields(workshop.run("cat /proc/self/status"), "Cap") == {
            "CapInh": 0,
            "CapPrm": DOCKER_CAPABILITIES,
            "CapEff": DOCKER_CAPABILITIES,
            "CapBnd": DOCKER_CAPABILITIES,
            "CapAmb": 0,
        }

    def test_capabilities_of_a_user(self, workshop: Workshop) -> None:
        """A user has none but the ambient ones; the bounding set is the spec's."""
        user = {"uid": 1000, "gid": 1000}
        sets = status_fields(workshop.run("cat /proc/self/status", user=user), "Cap")
        assert (sets["CapEff"], sets["CapPrm"], sets["CapBnd"]) == (0, 0, DOCKER_CAPABILITIES)
        kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
        given = {kind: ["CAP_NET_BIND_SERVICE"] for kind in kinds}
        sets = status_fields(workshop.run("cat /proc/self/status", user=user, capabilities=given), "Cap")
        assert set(sets.values()) == {_CAP_NET_BIND_SERVICE}

    def test_no_capabilities(self, workshop: Workshop) -> None:
        """Empty sets are empty, for root too."""
        output = workshop.run("cat /proc/self/status; chown 1 /dev/shm", capabilities={"bounding": []})
        assert set(status_fields(output, "Cap").values()) == {0}
        assert b"Operation not permitted" in output.stderr

    @pytest.mark.parametrize("wanted", [False, True])
    def test_no_new_privileges(self, workshop: Workshop, wanted: bool) -> None:
        """The flag is set if asked, and not set if not."""
        output = workshop.run("cat /proc/self/status", noNewPrivileges=wanted)
        assert status_fields(output, "NoNewPrivs") == {"NoNewPrivs": int(wanted)}

    @pytest.mark.parametrize("user", [{"uid": 0, "gid": 0}, {"uid": 1000, "gid": 1000}])
    @pytest.mark.parametrize("no_new_privileges", [False, True])
    def test_seccomp(self, workshop: Workshop, user: Spec, no_new_privileges: bool) -> None:
        """A profile blocks what it names, by name and by argument, and nothing else; with any user and
        flag."""
        script = (
            "grep Seccomp: /proc/self/status; mkdir /tmp/blocked; trap '' USR1 USR2; "
            "kill -USR1 $$ && echo usr1; kill -USR2 $$ || echo no usr2"
        )
        spec = workshop.spec(script, user=user, noNewPrivileges=no_new_privileges)
        kill_usr2 = {"index": 1, "value": int(signal.SIGUSR2), "op": "SCMP_CMP_EQ"}
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [kill_usr2]},
            ],
        }
        output = workshop.container(spec).run()
        assert output.lines == ["Seccomp:\t2", "usr1", "no usr2"]
        assert b"Function not implemented" in output.stderr

    @pytest.mark.parametrize("allowed", [False, True])
    def test_device_rules(self, workshop: Workshop, allowed: bool) -> None:
        """A node can be made, but opened only if the rules allow its device."""
        spec = workshop.spec("mknod /dev/kmsg c 1 11 && true > /dev/kmsg; echo $?; mknod /dev/again c 1 5 && head -c 3 /dev/again | wc -c")
        if allowed:
            spec["linux"]["resources"]["devices"].append({"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"})
        output = workshop.container(spec).run()
        assert output.lines == ["0" if allowed else "1", "3"]
        assert (b"Operation not permitted" in output.stderr) == (not allowed)
