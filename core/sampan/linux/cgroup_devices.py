"""Which devices a cgroup may use: v1's lists, and for v2 an eBPF program that decides as those lists would.

Sources: OCI runtime spec `config-linux.md#allowed-device-list`, the kernel's `cgroup-v1/devices.rst`,
`bpf(2)`, `include/uapi/linux/bpf.h` (`struct bpf_cgroup_dev_ctx`, `union bpf_attr`).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sampan.linux.cgroup_files import read
from sampan.linux.syscalls import syscall

BPF_PROG_LOAD: Final = 5
BPF_PROG_ATTACH: Final = 8
BPF_PROG_DETACH: Final = 9
BPF_PROG_GET_FD_BY_ID: Final = 13
BPF_PROG_QUERY: Final = 16
BPF_PROG_TYPE_CGROUP_DEVICE: Final = 15
BPF_CGROUP_DEVICE: Final = 6
BPF_F_ALLOW_MULTI: Final = 2
BPF_F_REPLACE: Final = 4

_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2}

_ALWAYS: Final = tuple(
    {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
    for kind, major, minor, access in (
        ("c", None, None, "m"), ("b", None, None, "m"),
        ("c", 1, 3, "rwm"), ("c", 1, 5, "rwm"), ("c", 1, 7, "rwm"), ("c", 1, 8, "rwm"), ("c", 1, 9, "rwm"),
        ("c", 5, 0, "rwm"), ("c", 5, 2, "rwm"), ("c", 136, None, "rwm"),
    )
)  # fmt: skip
"""What every container may use, as with runc: null, zero, full, random, urandom, tty, ptmx, pts; and make any node."""

Key = tuple[int, int, int]
"""Type as in `struct bpf_cgroup_dev_ctx`, major, minor; -1 is any number."""


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """What a list comes to: what is the rule, and the exceptions from it, with their access bits."""

    default_allow: bool
    exceptions: Mapping[Key, int]

    @classmethod
    def of_spec(cls, devices: Sequence[Mapping[str, Any]]) -> DeviceRules:
        """Read an OCI `resources.devices` list: nothing is allowed before it, later entries win, the devices that every
        container has come last.

        Raises `ValueError` for a bad entry, and for one that takes away a part of a wildcard: v1 overlooks such an entry,
        which then only looks as if it protected something.
        """
        default_allow = False
        exceptions: dict[Key, int] = {}
        for device in (*devices, *_ALWAYS):
            kind, major, minor, access = _entry(device)
            if kind == "a":
                default_allow = bool(device["allow"])
                exceptions.clear()
                continue
            key = (_TYPES[kind], major, minor)
            bits = sum(_ACCESS[letter] for letter in access)
            if bool(device["allow"]) != default_allow:
                exceptions[key] = exceptions.get(key, 0) | bits
                continue
            for wider in {(key[0], -1, minor), (key[0], major, -1), (key[0], -1, -1)} - {key}:
                if exceptions.get(wider, 0) & bits:
                    raise ValueError(
                        f"device rule {dict(device)!r}: it makes a hole in an earlier one, which cgroup v1 cannot"
                    )
            if left := exceptions.pop(key, 0) & ~bits:
                exceptions[key] = left
        return cls(default_allow, exceptions)

    @classmethod
    def of_v1(cls, text: str) -> DeviceRules:
        """Read v1's `devices.list`. It keeps its exceptions to itself where all devices are the rule."""
        exceptions: dict[Key, int] = {}
        for line in text.splitlines():
            kind, numbers, access = line.split(" ")
            if kind == "a":
                return cls(True, {})
            major, minor = (-1 if number == "*" else int(number) for number in numbers.split(":"))
            exceptions[_TYPES[kind], major, minor] = sum(_ACCESS[letter] for letter in access)
        return cls(False, exceptions)

    def changes(self, now: DeviceRules) -> Iterator[tuple[bool, str]]:
        """Give what to write to v1's `devices.allow` (True) and `devices.deny`, so that what stays allowed is so all the time."""
        had = now.exceptions
        if now.default_allow or self.default_allow:
            yield self.default_allow, "a"
            had = {}
        for allow, wanted, there in (
            (not self.default_allow, self.exceptions, had),
            (self.default_allow, had, self.exceptions),
        ):
            for key, bits in wanted.items():
                if bits := bits & ~there.get(key, 0):
                    yield allow, _line(key, bits)

    def program(self) -> bytes:
        """Give the eBPF instructions: the result is 1 to permit an access, 0 to refuse it."""
        # r2 type, r3 access, r4 major, r5 minor
        code = [
            _insn(0x61, 2, 1, 0, 0), _insn(0xBF, 3, 2, 0, 0),
            _insn(0x57, 2, 0, 0, 0xFFFF), _insn(0x77, 3, 0, 0, 16),
            _insn(0x61, 4, 1, 4, 0), _insn(0x61, 5, 1, 8, 0),
        ]  # fmt: skip
        for (kind, major, minor), bits in self.exceptions.items():
            tests = [(2, kind), *((reg, number) for reg, number in ((4, major), (5, minor)) if number >= 0)]
            body = [
                _insn(0xBF, 6, 3, 0, 0),
                _insn(0x57, 6, 0, 0, bits if self.default_allow else ~bits & 7),
                # jne 0 when any refused bit refuses, jeq 0 the other way: skip the return when it doesn't
                # hold
                _insn(0x15 if self.default_allow else 0x55, 6, 0, 2, 0),
                *_return(not self.default_allow),
            ]
            for index, (register, number) in enumerate(tests):
                code.append(_insn(0x55, register, 0, len(tests) - index - 1 + len(body), number))
            code += body
        return b"".join([*code, *_return(self.default_allow)])


def write_v1(directory: str, rules: DeviceRules) -> None:
    """Make `rules` those of the v1 cgroup `directory`. Raises `OSError` that names file and value."""
    now = DeviceRules.of_v1(read(directory + "/devices.list"))
    files = {
        allow: os.open(f"{directory}/devices.{name}", os.O_WRONLY | os.O_CLOEXEC)
        for allow, name in ((True, "allow"), (False, "deny"))
    }
    try:
        for allow, value in rules.changes(now):
            try:
                os.write(files[allow], value.encode())
            except OSError as error:
                name = f"{directory}/devices.{'allow' if allow else 'deny'}"
                text = f"write {value!r} to {name}: {os.strerror(error.errno or 0)}"
                raise OSError(error.errno, text, name) from error
    finally:
        for fd in files.values():
            os.close(fd)


def attach_v2(directory: str, rules: DeviceRules) -> None:
    """Make `rules` the only ones on the v2 cgroup `directory`, without a moment with others or none."""
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        program = _load(rules.program())
        try:
            _replace(cgroup, program)
        finally:
            os.close(program)
    except OSError as error:
        raise OSError(error.errno, f"device rules of {directory}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(cgroup)


def _replace(cgroup: int, program: int) -> None:
    """Put a program in the place of the one that is there. Of several, which are not of our making, all go in the end."""
    old = [_bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0)) for number in _attached(cgroup)]
    try:
        flags, replaced = BPF_F_ALLOW_MULTI, 0
        if len(old) == 1:
            flags, replaced = BPF_F_ALLOW_MULTI | BPF_F_REPLACE, old[0]
        _bpf(BPF_PROG_ATTACH, struct.pack("=IIIII", cgroup, program, BPF_CGROUP_DEVICE, flags, replaced))
        for previous in () if replaced else old:
            _bpf(BPF_PROG_DETACH, struct.pack("=III", cgroup, previous, BPF_CGROUP_DEVICE))
    finally:
        for fd in old:
            os.close(fd)


def _entry(device: Mapping[str, Any]) -> tuple[str, int, int, str]:
    kind = device.get("type") or "a"
    access = device.get("access") or "rwm"
    if kind not in ("a", "b", "c") or not set(access) <= set(_ACCESS):
        raise ValueError(f"device rule {dict(device)!r}: type is a, b or c, access some of r, w, m")
    major, minor = (-1 if device.get(key) is None else int(device[key]) for key in ("major", "minor"))
    return kind, major, minor, access


def _line(key: Key, bits: int) -> str:
    kind, major, minor = key
    numbers = f"{'*' if major < 0 else major}:{'*' if minor < 0 else minor}"
    letters = "".join(letter for letter, bit in _ACCESS.items() if bits & bit)
    return f"{'b' if kind == 1 else 'c'} {numbers} {letters}"


def _insn(code: int, dst: int, src: int, offset: int, immediate: int) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, offset, immediate)


def _return(allow: bool) -> list[bytes]:  # noqa: FBT001
    return [_insn(0xB7, 0, 0, 0, int(allow)), _insn(0x95, 0, 0, 0, 0)]


def _bpf(command: int, attr: bytes) -> int:
    buffer = ctypes.create_string_buffer(attr, 128)
    return syscall("bpf", command, buffer, 128)


def _load(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack(
        "=IIQQIIQII16sII", BPF_PROG_TYPE_CGROUP_DEVICE, len(code) // 8, ctypes.addressof(instructions),
        ctypes.addressof(license_), 0, 0, 0, 0, 0, b"", 0, BPF_CGROUP_DEVICE,
    )  # fmt: skip
    return _bpf(BPF_PROG_LOAD, attr)


def _attached(cgroup: int) -> list[int]:
    ids = (ctypes.c_uint32 * 64)()
    attr = ctypes.create_string_buffer(
        struct.pack("=IIIIQI", cgroup, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), 64), 128
    )
    syscall("bpf", BPF_PROG_QUERY, attr, 128)
    count: int = struct.unpack_from("=I", attr, 24)[0]
    return list(ids[:count])
