"""The key sequence that takes a terminal's client off without ending the process. Bytes in, bytes out, no I/O."""

from __future__ import annotations

from sampan.api.errors import InvalidArgument


def parse_keys(text: str) -> bytes:
    """Read `ctrl-p,ctrl-q` or single characters. Raises `InvalidArgument`."""
    keys = bytearray()
    for part in text.split(","):
        if len(part) == 1 and part.isascii():
            keys += part.encode()
            continue
        letter = part.removeprefix("ctrl-")
        code = ord(letter.upper()) - 64 if len(letter) == 1 and part.startswith("ctrl-") else -1
        if not (1 <= code <= 31 or code == 0):
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
        keys.append(code)
    return bytes(keys)


class Detacher:
    """Looks for the keys in what a client types; a beginning of them is held back until it is clear."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0
        self.matched = False

    def feed(self, data: bytes) -> bytes:
        """Take what was typed, give what may go on. Sets `matched` once the whole sequence came."""
        if not self._keys:
            return data
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._held]:
                self._held += 1
                if self._held == len(self._keys):
                    self.matched = True
                    break
                continue
            out += self._keys[: self._held]
            self._held = 0
            if byte == self._keys[0]:
                self._held = 1
            else:
                out.append(byte)
        return bytes(out)
