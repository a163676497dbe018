"""Conformance suites: subclass one, name your driver class, run pytest."""
