"""Conformance suites: subclass one, name your driver class, run pytest."""

import pkgutil

import pytest

# so that a failing assert of a suite shows its values, as those of a test file do
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
