"""Every attack gets through a build without the guard that stops it: else it would prove nothing.

Where a guard is now is written here; who moves it, moves it here too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ground.broken import Broken, Change, check_bites

NATIVE = "tests/conformance/test_runtime_native.py::TestNative"

CLOSES_NOTHING = (
    Change("sampan_runtime_native/init.py", "    keep_only((0, 1, 2, *kept))\n", ""),
    Change("sampan_runtime_native/program.py", "        close_range(3, flags=CLOSE_RANGE_CLOEXEC)\n", ""),
)
FOLLOWS_MAGIC_LINKS = (
    Change("sampan_runtime_native/program.py", "os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)", "os.O_PATH | os.O_DIRECTORY)"),
    Change("sampan_runtime_native/program.py", 'if not os.getcwd().startswith("/"):', "if False:"),
)

BUILDS = (
    Broken("A01", "closing what the caller has open", CLOSES_NOTHING, f"{NATIVE}::test_only_three_descriptors", "waited for|assert"),
    Broken("A01", "refusing magic links to the directory of a process", (*CLOSES_NOTHING, *FOLLOWS_MAGIC_LINKS),
           f"{NATIVE}::test_directory_of_a_descriptor", "outside of the container's root|the host's"),
    Broken("A01", "refusing magic links to the directory of an exec", (*CLOSES_NOTHING, *FOLLOWS_MAGIC_LINKS),
           f"{NATIVE}::test_exec_in_directory_of_a_descriptor", "outside of the container's root|the host's"),
)  # fmt: skip


@pytest.mark.parametrize("broken", BUILDS, ids=str)
def test_attack_gets_through_a_broken_build(broken: Broken, tmp_path: Path) -> None:
    check_bites(broken, tmp_path)
