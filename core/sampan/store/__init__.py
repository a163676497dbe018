"""Metadata: sqlite and its migrations."""
