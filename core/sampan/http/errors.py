"""From an exception to Docker's answer: `{"message": …}` with the status of its kind."""

from __future__ import annotations

import logging

from sampan.api.errors import SampanError
from sampan.http.response import Response, empty, json_response

log = logging.getLogger(__name__)


class BadRequest(Exception):
    """A message that breaks HTTP itself.

    The connection answers with `status` and is closed: its framing is lost.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ClientGone(ConnectionError):
    """The client went before it had its answer. Quiet: not worth a line in the log."""


def error_response(error: Exception, what: str) -> Response:
    """Give the answer for an exception out of the handler of `what` (`GET /info`).

    An unforeseen one is logged, here only.
    """
    if isinstance(error, BadRequest):
        return json_response({"message": str(error)}, error.status)
    if isinstance(error, SampanError):
        if error.status == 304:
            return empty(304)
        return json_response({"message": str(error)}, error.status)
    log.error("%s failed", what, exc_info=error)
    return json_response({"message": f"{what}: internal error: {error or type(error).__name__}"}, 500)
