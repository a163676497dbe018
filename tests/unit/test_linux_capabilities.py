from __future__ import annotations

import pytest

from sampan.linux import capabilities
from sampan.linux.capabilities import CapabilitySets


def test_names_are_the_kernels_bits() -> None:
    assert capabilities.mask(["CAP_CHOWN", "CAP_SYS_ADMIN"]) == 1 | 1 << 21
    assert capabilities.names(1 | 1 << 40) == ("CAP_CHOWN", "CAP_CHECKPOINT_RESTORE")
    assert capabilities.last_cap() < len(capabilities.NAMES) + 8


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="CAP_FLY"):
        capabilities.mask(["CAP_FLY"])


def test_sets_of_a_spec() -> None:
    sets = CapabilitySets.of_spec({"bounding": ["CAP_KILL"], "effective": ["CAP_CHOWN"], "ambient": []})
    assert sets == CapabilitySets(bounding=1 << 5, effective=1)


def test_nothing_is_gained_over_the_ceiling() -> None:
    ceiling = CapabilitySets(bounding=0b0111, effective=0b0111, permitted=0b0111)
    wanted = CapabilitySets(*[0b1101] * 5)
    assert wanted.reachable(ceiling) == CapabilitySets(*[0b0101] * 5)


def test_current_sets_are_consistent() -> None:
    current = capabilities.current()
    assert current.effective & ~current.permitted == 0
