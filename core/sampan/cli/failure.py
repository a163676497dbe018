"""What ends a command early: a message for people and an exit status, never a traceback."""

from __future__ import annotations

CANNOT_RUN = 125
"""Exit status when the daemon or a flag is at fault rather than the container, as docker's."""


class CliError(Exception):
    """An error to show as `sampan: <message>. <remedy>`, then exit with `status`."""

    def __init__(self, message: str, *, remedy: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.status = status

    def __str__(self) -> str:
        if not self.remedy:
            return self.message
        stop = "" if self.message.endswith((".", "!", "?", "\n")) else "."
        return f"{self.message}{stop} {self.remedy}"


class DaemonError(CliError):
    """The daemon answered with an HTTP error; `code` is its status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.code = code
        self.daemon_message = message


class Unreachable(CliError):
    """No daemon answers at the endpoint."""
