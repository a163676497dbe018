"""The suite itself: a good driver that claims less passes, and a driver with a fault is found out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

MODEST = """
    @classmethod
    def probe(cls, root):
        return Probe(True)

    def create(self, request):
        if request.netns >= 0:
            raise Unsupported("join a network")
        return super().create(request)

    def exec(self, handle, request):
        raise Unsupported("exec")

    def pause(self, handle):
        raise Unsupported("pause")

    def update(self, handle, resources):
        raise Unsupported("update")
"""

FAULTS = {
    "leaves its state": (
        "exit_code and true",
        "delete leaves files",
        """
    def delete(self, handle):
        super().delete(handle)
        (self.context.state / "left").touch()
""",
    ),
    "leaves a process": (
        "created_is_not_started",
        "still runs after",
        """
    def delete(self, handle):
        if not (self.context.state / "asked").exists():
            (self.context.state / "asked").touch()
            return
        (self.context.state / "asked").unlink()
        super().delete(handle)
""",
    ),
    "leaves a cgroup": (
        "exit_code and true",
        "cgroups: left behind",
        """
    def delete(self, handle):
        super().delete(handle)
        Path("/sys/fs/cgroup/pids" + handle.data["cgroup"]).mkdir()
""",
    ),
    "raises what is not of the contract": (
        "exit_code and true",
        "broke its contract",
        """
    def start(self, handle):
        raise OSError("no translation")
""",
    ),
    "keeps state in the object": (
        "exit_code and true",
        "broke its contract",
        """
    def create(self, request):
        self.remembered = request.id
        return super().create(request)

    def start(self, handle):
        super().start(handle.__class__(handle.pid, 1, {"id": self.remembered}))
""",
    ),
    "swallows what it cannot do": (
        "refusal",
        "DID NOT RAISE",
        """
    @classmethod
    def probe(cls, root):
        return Probe(True)
""",
    ),
}


def run_suite(tmp_path: Path, body: str, select: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_third_party.py").write_text(
        "from pathlib import Path\n"
        "from sampan.api.driver import Probe\n"
        "from sampan.api.errors import Unsupported\n"
        "from sampan.testing import containers\n"
        "from sampan.testing.runtime import RuntimeDriverSuite\n"
        "from sampan_runtime_oci.driver import RuncRuntime\n"
        "containers.TIMEOUT = 2\n"
        f"class Runtime(RuncRuntime):\n{body}\n"
        "class TestThirdParty(RuntimeDriverSuite):\n"
        "    driver_class = Runtime\n"
        "    require_supported = True\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", select, "--tb=short"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)


def test_a_modest_driver_passes(tmp_path: Path) -> None:
    done = run_suite(tmp_path, MODEST, "refusal or exit_code or pause or only_three")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(tmp_path: Path, fault: str) -> None:
    select, complaint, body = FAULTS[fault]
    done = run_suite(tmp_path, body, select)
    for cgroup in set(re.findall(r"left behind (/sys/fs/cgroup/\S+)", done.stdout)):
        Path(cgroup).rmdir()
    assert done.returncode == 1, done.stdout
    assert complaint in done.stdout
