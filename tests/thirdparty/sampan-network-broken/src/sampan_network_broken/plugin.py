"""Entry point: needs a library that no one has."""

import library_that_is_not_installed  # noqa: F401
