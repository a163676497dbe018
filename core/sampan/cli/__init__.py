"""The command line: a client of the HTTP API like any other.

`app` has the table of commands; `commands/` one module per kind of object, imported only when one of its commands runs.
"""

from __future__ import annotations


def main() -> int:
    """Run the command line; the entry point of the `sampan` script. Gives the exit status."""
    import gc

    gc.set_threshold(50_000)  # a command allocates little: collecting while it imports would be a tenth of its time
    from sampan.cli.app import run

    return run()
