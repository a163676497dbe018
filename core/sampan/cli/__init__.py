"""The command line: a client of the HTTP API like any other.

`app` has the table of commands; `commands/` one module per kind of object, imported only when one of its commands runs.
"""

from __future__ import annotations


def main() -> int:
    """Run the command line; the entry point of the `sampan` script. Gives the exit status."""
    try:
        from sampan.cli.app import run

        return run()
    except KeyboardInterrupt:  # while it was still importing
        return 130
