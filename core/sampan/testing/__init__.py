"""Conformance suites: subclass one, name your driver class, run pytest."""

import pytest

pytest.register_assert_rewrite(
    *(f"sampan.testing.{plank}" for plank in ("storage", "network", "runtime", "volume", "logs", "ipam"))
)
