"""The kernel's packet filter through libnftables: text in nft's own language, one transaction per call.

    nft = Nftables()
    nft.run("add table inet mine")
    nft.list("table inet mine")     # nft's JSON, as Python data

An `Nftables` speaks to the network namespace of the thread that made it. The library is not thread-safe; a
lock makes one object safe to share. A transaction that fails changes nothing; it raises `NftError` with the
library's words.

Sources: `libnftables(3)`, `libnftables-json(5)`, `nft(8)`; `include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h`.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import threading
from typing import Any

from sampan.linux.netlink import NLM_F_REQUEST, unpack_attributes

NFT_CTX_DEFAULT = 0
NFT_CTX_OUTPUT_JSON = 1 << 4
NFT_CTX_OUTPUT_NUMERIC_PROTO = 1 << 7

NETLINK_NETFILTER = 12
"""include/uapi/linux/netlink.h"""

NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFTA_GEN_ID = 10, 16, 1

LIBRARY = "libnftables.so.1"

_HEADER = struct.Struct("=IHHIIBBH")
"""`struct nlmsghdr` and `struct nfgenmsg`."""


class NftError(Exception):
    """A transaction that the kernel or the library refused; nothing of it was done."""


class LibraryMissing(Exception):
    """`libnftables.so.1` cannot be loaded."""


class Nftables:
    """One context of the library. Raises `LibraryMissing`; its methods raise `NftError`."""

    def __init__(self) -> None:
        """Load the library and open its socket in the calling thread's network namespace."""
        self._lib = load()
        self._kernel = _open_kernel()
        self._lock = threading.Lock()
        self._context = self._lib.nft_ctx_new(NFT_CTX_DEFAULT)
        if not self._context:
            self._kernel.close()
            raise NftError("make a libnftables context: out of memory or no netlink socket")
        self._lib.nft_ctx_buffer_error(self._context)
        self._lib.nft_ctx_buffer_output(self._context)

    def close(self) -> None:
        """Free the context. Idempotent."""
        with self._lock:
            self._kernel.close()
            if self._context:
                self._lib.nft_ctx_free(self._context)
                self._context = None

    def run(self, commands: str) -> None:
        """Carry out commands as one transaction: all of them, or none."""
        with self._lock:
            self._run(commands)

    def list(self, what: str) -> list[dict[str, Any]]:
        """Give the objects of `list WHAT` as libnftables-json(5) describes them, without the header."""
        with self._lock:
            self._lib.nft_ctx_output_set_flags(self._context, NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_NUMERIC_PROTO)
            try:
                output = self._run(f"list {what}")
            finally:
                self._lib.nft_ctx_output_set_flags(self._context, 0)
        objects: list[dict[str, Any]] = json.loads(output)["nftables"]
        return [item for item in objects if "metainfo" not in item]

    def generation(self) -> int:
        """Give the number of the network namespace's rules: each transaction of anybody's makes it another.

        By a socket that stays open: to close one, the kernel waits until all that was deleted is freed, 3 to 15 ms.
        """
        question = _HEADER.pack(_HEADER.size, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0, 0, 0, 0)
        try:
            with self._lock:
                self._kernel.send(question)
                answer = self._kernel.recv(1 << 12)
        except OSError as error:
            raise NftError(f"ask for the rules' generation: {error.strerror}") from error
        return int.from_bytes(unpack_attributes(answer[_HEADER.size :]).get(NFTA_GEN_ID, b""))

    def _run(self, commands: str) -> bytes:
        if not self._context:
            raise NftError("the libnftables context is closed")
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._context)
        if failed:
            raise NftError(_first_error(self._lib.nft_ctx_get_error_buffer(self._context)))
        return output


def _open_kernel() -> socket.socket:
    """Open a socket as the library will: where the kernel has none, the library ends the whole process."""
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError as error:
        raise NftError(f"open a netfilter socket: {error.strerror}; the kernel has no nf_tables: modprobe nf_tables") from error


def _first_error(text: bytes) -> str:
    """Give the words of the first error; the library also quotes the command and points into it."""
    lines = text.decode(errors="replace").splitlines()
    errors = [line.partition("Error: ")[2] for line in lines if "Error: " in line]
    return errors[0] if errors else " ".join(lines) or "refused without a reason"


def load() -> ctypes.CDLL:
    """Load the library. Raises `LibraryMissing`."""
    try:
        lib = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise LibraryMissing(f"{LIBRARY} cannot be loaded: {error}") from error
    context, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", context, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_get_error_buffer", text, [context]),
        ("nft_ctx_get_output_buffer", text, [context]),
        ("nft_ctx_output_set_flags", None, [context, ctypes.c_uint]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, text]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
