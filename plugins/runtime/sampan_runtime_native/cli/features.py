"""`features`: what this runtime knows, read from the tables that it works by.

Source: OCI runtime spec 1.2, `features.md` and `features-linux.md`.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from sampan import __version__
from sampan.linux import capabilities, mounts, seccomp
from sampan_runtime_native import hooks, plan
from sampan_runtime_native.cli.version import OCI_VERSION


def features(_options: Namespace) -> int:
    """Write the features object as JSON."""
    sys.stdout.write(json.dumps(known(), indent=4) + "\n")
    return 0


def known() -> dict[str, Any]:
    """Give the features object. What needs something of the host says only that this program would use it."""
    words = seccomp.known()
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(hooks.MOMENTS),
        "mountOptions": sorted(mounts.known_options()),
        "linux": {
            "namespaces": sorted(plan.NAMESPACES),
            "capabilities": sorted(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(words.actions),
                "operators": sorted(words.operators),
                "archs": sorted(words.archs),
                "knownFlags": sorted(words.flags),
                "supportedFlags": sorted(words.flags),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": False},
        },
        "annotations": {"io.sampan.runtime.version": __version__},
    }
