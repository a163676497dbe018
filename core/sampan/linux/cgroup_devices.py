"""Which devices a cgroup may use: v1's lists, and for v2 an eBPF program that decides as those lists would.

Sources: OCI runtime spec `config-linux.md#allowed-device-list`, the kernel's `cgroup-v1/devices.rst`,
`bpf(2)`, `include/uapi/linux/bpf.h` (`struct bpf_cgroup_dev_ctx`, `union bpf_attr`).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sampan.linux.syscalls import syscall

BPF_PROG_LOAD: Final = 5
BPF_PROG_ATTACH: Final = 8
BPF_PROG_DETACH: Final = 9
BPF_PROG_GET_FD_BY_ID: Final = 13
BPF_PROG_QUERY: Final = 16
BPF_PROG_TYPE_CGROUP_DEVICE: Final = 15
BPF_CGROUP_DEVICE: Final = 6
BPF_F_ALLOW_MULTI: Final = 2

_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2}


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """What v1's list comes to: what is the rule, and the exceptions from it.

    `exceptions`: (type, major, minor, access bits); type as in `struct bpf_cgroup_dev_ctx`, -1 is any number.
    """

    default_allow: bool
    exceptions: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def of_spec(cls, devices: Sequence[Mapping[str, Any]]) -> DeviceRules:
        """Read an OCI `resources.devices` list; later entries win. Raises `ValueError` for a bad entry."""
        default_allow = True
        exceptions: dict[tuple[int, int, int], int] = {}
        for device in devices:
            kind, major, minor, access = _entry(device)
            if kind == "a":
                default_allow = bool(device["allow"])
                exceptions.clear()
                continue
            key = (_TYPES[kind], major, minor)
            bits = sum(_ACCESS[letter] for letter in access)
            if device["allow"] == default_allow:
                exceptions[key] = exceptions.get(key, 0) & ~bits
            else:
                exceptions[key] = exceptions.get(key, 0) | bits
        return cls(default_allow, tuple((*key, bits) for key, bits in exceptions.items() if bits))

    def program(self) -> bytes:
        """Give the eBPF instructions: the result is 1 to permit an access, 0 to refuse it."""
        # r2 type, r3 access, r4 major, r5 minor
        code = [
            _insn(0x61, 2, 1, 0, 0), _insn(0xBF, 3, 2, 0, 0),
            _insn(0x57, 2, 0, 0, 0xFFFF), _insn(0x77, 3, 0, 0, 16),
            _insn(0x61, 4, 1, 4, 0), _insn(0x61, 5, 1, 8, 0),
        ]  # fmt: skip
        for kind, major, minor, bits in self.exceptions:
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


def write_v1(directory: str, devices: Sequence[Mapping[str, Any]]) -> None:
    """Put a list into the v1 cgroup `directory`. Raises `OSError` that names file and value."""
    files = {
        allow: os.open(f"{directory}/devices.{name}", os.O_WRONLY | os.O_CLOEXEC)
        for allow, name in ((True, "allow"), (False, "deny"))
    }
    try:
        for device in devices:
            kind, major, minor, access = _entry(device)
            numbers = f"{'*' if major < 0 else major}:{'*' if minor < 0 else minor}"
            value = "a" if kind == "a" else f"{kind} {numbers} {access}"
            try:
                os.write(files[bool(device["allow"])], value.encode())
            except OSError as error:
                name = f"{directory}/devices.{'allow' if device['allow'] else 'deny'}"
                text = f"write {value!r} to {name}: {os.strerror(error.errno or 0)}"
                raise OSError(error.errno, text, name) from error
    finally:
        for fd in files.values():
            os.close(fd)


def attach_v2(directory: str, rules: DeviceRules) -> None:
    """Make `rules` the only ones of ours on the v2 cgroup `directory`; the new ones hold before the old
    go."""
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = _attached(cgroup)
        program = _load(rules.program())
        try:
            _bpf(BPF_PROG_ATTACH, struct.pack("=IIII", cgroup, program, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI))
        finally:
            os.close(program)
        for number in old:
            previous = _bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
            try:
                _bpf(BPF_PROG_DETACH, struct.pack("=III", cgroup, previous, BPF_CGROUP_DEVICE))
            finally:
                os.close(previous)
    except OSError as error:
        raise OSError(error.errno, f"device rules of {directory}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(cgroup)


def _entry(device: Mapping[str, Any]) -> tuple[str, int, int, str]:
    kind = device.get("type") or "a"
    access = device.get("access") or "rwm"
    if kind not in ("a", "b", "c") or not set(access) <= set(_ACCESS):
        raise ValueError(f"device rule {dict(device)!r}: type is a, b or c, access some of r, w, m")
    major, minor = (-1 if device.get(key) is None else int(device[key]) for key in ("major", "minor"))
    return kind, major, minor, access


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
