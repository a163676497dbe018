"""What the daemon asks of sampan-netd: requests and answers of `sampan.linux.messages`, each answered at once.

A request is `{"id": N, "op": NAME, …}`, its answer `{"id": N, "result": …}` or `{"id": N, "error": {…}}`. `hello` gives
the version, and stays as it is for ever: a daemon replaces an older sampan-netd, or one of another major version, by its own.
The other requests are the services'.
"""

from __future__ import annotations

VERSION = (1, 0)
"""Major and minor version. A new minor one only adds requests and fields."""

SOCKET = "netd.sock"
"""Name of the socket in the engine's state directory."""
