"""Seccomp: from an OCI `linux.seccomp` object to a BPF program, and into the kernel.

The program looks at the architecture, then finds the system call by binary search over ranges of numbers with
the same answer, then compares arguments where a rule has some. Rules are read as libseccomp and runc read
them: a rule without arguments wins over those with; among those the first that matches; two conditions on one
argument are alternatives; names that no architecture here knows are skipped, and so are rules that say what
the default says. On 32-bit architectures and x32 only the lower half of an argument is compared. A call with a
higher number than any that the profile names does not exist (ENOSYS), unless the default lets calls pass: a libc
that tries a newer call falls back only then.

Sources: OCI runtime spec `config-linux.md#seccomp`, `seccomp(2)`,
`include/uapi/linux/{seccomp,filter,audit}.h`.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sampan.linux.seccomp_tables import numbers
from sampan.linux.syscalls import MACHINE, syscall

SECCOMP_RET_KILL_PROCESS: Final = 0x80000000
SECCOMP_RET_KILL_THREAD: Final = 0x00000000
SECCOMP_RET_TRAP: Final = 0x00030000
SECCOMP_RET_ERRNO: Final = 0x00050000
SECCOMP_RET_USER_NOTIF: Final = 0x7FC00000
SECCOMP_RET_TRACE: Final = 0x7FF00000
SECCOMP_RET_LOG: Final = 0x7FFC0000
SECCOMP_RET_ALLOW: Final = 0x7FFF0000

_ACTION_FULL: Final = 0xFFFF0000
_MAX_ERRNO: Final = 4094  # libseccomp's; the kernel would make 4095 of what is higher
SECCOMP_SET_MODE_FILTER: Final = 1

TSYNC: Final = 1
SPEC_ALLOW: Final = 4
NEW_LISTENER: Final = 8
"""Flag of a filter that notifies: `install` gives the descriptor at which notifications are read."""
WAIT_KILLABLE_RECV: Final = 32

_ACTIONS = {
    "SCMP_ACT_KILL": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": SECCOMP_RET_KILL_PROCESS, "SCMP_ACT_TRAP": SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": SECCOMP_RET_ERRNO, "SCMP_ACT_TRACE": SECCOMP_RET_TRACE,
    "SCMP_ACT_ALLOW": SECCOMP_RET_ALLOW, "SCMP_ACT_LOG": SECCOMP_RET_LOG,
    "SCMP_ACT_NOTIFY": SECCOMP_RET_USER_NOTIF,
}  # fmt: skip
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": TSYNC, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": WAIT_KILLABLE_RECV,
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_ARCH_NAMES = {
    "SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "x86", "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64", "SCMP_ARCH_ARM": "arm",
}  # fmt: skip
_COMPATIBLE = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm")}
_FOREIGN = frozenset(
    f"SCMP_ARCH_{name}" for name in (
        "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC",
        "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB",
    )
)  # fmt: skip
"""What a profile may list and none of our kernels runs: there is nothing to do for them."""
_64_BIT = ("x86_64", "aarch64")
_X32_BIT = 0x40000000

# 32-bit x86 reaches sockets and System V IPC also through one call that takes the number of the real one
# first.
_SOCKETCALL = (
    "", "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send",
    "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4",
    "recvmmsg", "sendmmsg",
)  # fmt: skip
_IPC = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13,
    "msgctl": 14, "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}  # fmt: skip
_MULTIPLEXED = {name: ("socketcall", number) for number, name in enumerate(_SOCKETCALL) if name} | {
    name: ("ipc", number) for name, number in _IPC.items()
}

Condition = tuple[int, str, int, int]
"""Index of an argument, operator, value, second value."""


class _Rules:
    """What one architecture's calls get: an answer, or rules by arguments."""

    def __init__(self) -> None:
        self.always: dict[int | None, int] = {}
        self.conditional: dict[int, list[tuple[tuple[Condition, ...], int]]] = {}

    def add(self, number: int, conditions: tuple[Condition, ...], answer: int) -> None:
        """Add a rule with conditions: all must hold, but of several on one argument any."""
        seen = [index for index, *_ in conditions]
        alternatives = [conditions] if len(set(seen)) == len(seen) else [(one,) for one in conditions]
        self.conditional.setdefault(number, []).extend((each, answer) for each in alternatives)


def compile(seccomp: Mapping[str, Any], arch: str = MACHINE) -> bytes:  # noqa: A001
    """Give the BPF program, an array of `struct sock_filter`, for `seccomp` on a kernel of `arch`.

    Raises `ValueError` that says what in the object is wrong or not known, or that the program is too long.
    """
    if arch not in _COMPATIBLE:
        raise ValueError(f"seccomp: architecture {arch} is not supported")
    default = _answer(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    if default == SECCOMP_RET_USER_NOTIF:
        raise ValueError("seccomp: SCMP_ACT_NOTIFY as the default action would stop the process before its listener is told of")
    wanted = {arch}
    for name in seccomp.get("architectures") or ():
        if name in _ARCH_NAMES:
            wanted.add(_ARCH_NAMES[name])
        elif name not in _FOREIGN:
            raise ValueError(f"seccomp: unknown architecture {name!r}")
    arches = [each for each in _COMPATIBLE[arch] if each in wanted]
    calls = _parse_calls(seccomp.get("syscalls") or ())
    passes = default & _ACTION_FULL in (SECCOMP_RET_ALLOW, SECCOMP_RET_LOG, SECCOMP_RET_TRACE)
    programs: dict[str, list[_Segment]] = {}
    for each in arches:
        last = -1 if passes else _last_named(each, calls)
        programs[each] = _segments(_rules_of(each, [call for call in calls if call[2] != default]), default, last)
    return _Assembler(default).program(programs)


@dataclass(frozen=True, slots=True)
class Words:
    """The names that a profile may have, as the OCI spec has them."""

    actions: frozenset[str]
    operators: frozenset[str]
    archs: frozenset[str]
    flags: frozenset[str]


def known() -> Words:
    """Give the names that `compile` and `flags_of` take."""
    return Words(frozenset(_ACTIONS), _Assembler.OPERATORS, frozenset(_ARCH_NAMES) | _FOREIGN, frozenset(_FLAGS))


def is_known(arch: str) -> bool:
    """Tell whether `compile` can make programs for an architecture."""
    return arch in _COMPATIBLE


def warm_up(arch: str = MACHINE) -> None:
    """Read the tables of this machine's architectures now, for processes that are forked later to share."""
    for each in _COMPATIBLE.get(arch, ()):
        numbers(each)


def notifies(seccomp: Mapping[str, Any]) -> bool:
    """Tell whether some call is to be answered by a listener."""
    return any(call.get("action") == "SCMP_ACT_NOTIFY" for call in seccomp.get("syscalls") or ())


def flags_of(seccomp: Mapping[str, Any]) -> int:
    """Give the flags for `install`; where the profile says nothing of flags, runc's default. Raises `ValueError`."""
    given = seccomp.get("flags")
    bits = SPEC_ALLOW if given is None else 0
    for name in given or ():
        if name not in _FLAGS:
            raise ValueError(f"seccomp: unknown flag {name!r}")
        bits |= _FLAGS[name]
    if notifies(seccomp):
        return bits & ~TSYNC | NEW_LISTENER  # the two exclude each other, and who installs has one thread
    if bits & WAIT_KILLABLE_RECV:
        raise ValueError("seccomp: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY")
    return bits


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(program: bytes, flags: int = 0) -> int:
    """Put the filter on this thread, for good; with `NEW_LISTENER` give the descriptor of its notifications, which closes on
    exec. Needs CAP_SYS_ADMIN or no_new_privs. Raises `OSError`.
    """
    fprog = _SockFprog(len(program) // 8, program)
    return syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog))


_Call = tuple[Sequence[str], tuple[Condition, ...], int]


def _answer(action: str, value: int | None) -> int:
    if action not in _ACTIONS:
        raise ValueError(f"seccomp: unknown action {action!r}")
    answer = _ACTIONS[action]
    if answer in (SECCOMP_RET_ERRNO, SECCOMP_RET_TRACE):
        value = errno.EPERM if value is None else value
        most = _MAX_ERRNO if answer == SECCOMP_RET_ERRNO else 0xFFFF
        if not 0 <= value <= most:
            raise ValueError(f"seccomp: errno {value} is not within 0 to {most}")
        return answer | value
    if value:
        raise ValueError(f"seccomp: {action} takes no errno, and {value} is given")
    return answer


def _parse_calls(calls: Sequence[Mapping[str, Any]]) -> list[_Call]:
    parsed: list[_Call] = []
    for call in calls:
        if not call.get("names"):
            raise ValueError("seccomp: a rule names no system call")
        answer = _answer(call["action"], call.get("errnoRet"))
        if answer == SECCOMP_RET_USER_NOTIF and "write" in call["names"]:
            raise ValueError("seccomp: SCMP_ACT_NOTIFY of 'write' would stop the process before its listener is told of")
        conditions = tuple(
            (arg["index"], arg["op"], arg["value"], arg.get("valueTwo") or 0)
            for arg in call.get("args") or ()
        )
        for index, op, *values in conditions:
            if not all(0 <= value < 1 << 64 for value in values):
                raise ValueError(f"seccomp: a value in {values} does not fit in 64 bits")
            if not 0 <= index <= 5:
                raise ValueError(f"seccomp: argument index {index} is not within 0 to 5")
            if op not in _Assembler.OPERATORS:
                raise ValueError(f"seccomp: unknown operator {op!r}")
        parsed.append((call["names"], conditions, answer))
    return parsed


def _last_named(arch: str, calls: Sequence[_Call]) -> int:
    """Give the highest number of a call that the profile names, by whatever rule; -1 if it names none. To runc 0 is none,
    but x32's numbers have a bit more.
    """
    lookup = numbers(arch).get
    last = max((number for names, _, _ in calls for number in map(lookup, names) if number is not None), default=-1)
    return last if last or arch == "x32" else -1


def _rules_of(arch: str, calls: Sequence[_Call]) -> _Rules:
    table = numbers(arch)
    rules = _Rules()
    for names, conditions, answer in calls:
        if conditions:
            for number in [table[name] for name in names if name in table]:
                rules.add(number, conditions, answer)
        elif arch == "x86":
            for entry, number in [_MULTIPLEXED[name] for name in names if name in _MULTIPLEXED]:
                rules.add(table[entry], ((0, "SCMP_CMP_EQ", number, 0),), answer)
    # In bulk, by C: one rule of the default profile has 300 names. Backwards, for the first rule wins.
    for names, conditions, answer in reversed(calls):
        if not conditions:
            rules.always.update(dict.fromkeys(map(table.get, names), answer))
    rules.always.pop(None, None)  # names that this architecture doesn't know
    return rules


_Segment = tuple[int, int | list[tuple[tuple[Condition, ...], int]]]


def _segments(rules: _Rules, default: int, last: int) -> list[_Segment]:
    """Give the number line as (first number, answer or rules); each segment reaches to the next one's first. Beyond
    `last`, unless that is -1, there are no calls.
    """
    answers: dict[Any, int | list[tuple[tuple[Condition, ...], int]]] = {**rules.conditional, **rules.always}
    segments: list[_Segment] = [(0, default)]
    following = 0
    for number in sorted(answers):
        answer = answers[number]
        if number == following and answer is segments[-1][1]:  # most numbers go on as the one before
            following += 1
            continue
        if number > following and segments[-1][1] != default:
            segments.append((following, default))
        if isinstance(answer, list) or segments[-1][1] != answer:
            if segments[-1][0] == number:
                segments.pop()
            segments.append((number, answer))
        following = number + 1
    if segments[-1][1] != default:
        segments.append((following, default))
    missing = SECCOMP_RET_ERRNO | errno.ENOSYS
    if last >= 0 and default != missing:
        if segments[-1][0] == last + 1:
            segments.pop()
        segments.append((last + 1, missing))
    return segments


class _Assembler:
    """Builds the program from its end: jumps go forward only, so that every target is there before who jumps
    to it.

    An instruction is the little-endian number that `struct sock_filter` is, which takes half the memory and
    time of a tuple. A position counts instructions from the end. Conditional jumps reach 255 instructions: farther ones go
    over a `ja`.
    """

    OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

    _LD, _AND, _JA, _JEQ, _JGT, _JGE, _RET = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
    _NR, _ARCH, _ARGS = 0, 4, 16
    _REACH = 250

    def __init__(self, default: int) -> None:
        self._code: list[int] = []
        self._answers: dict[int, int] = {}
        self._default = default

    def program(self, programs: dict[str, list[_Segment]]) -> bytes:
        """Put the architectures one behind the other; one that is not listed kills, as libseccomp has it."""
        kill = self._ret(SECCOMP_RET_KILL_PROCESS)
        other = kill
        for arch in reversed(programs):
            if arch == "x32":  # the same audit architecture as x86_64, told apart by a bit in the number
                continue
            if arch == "x86_64":
                x32 = kill
                if "x32" in programs:
                    search = self._search(programs["x32"], 0, len(programs["x32"]), wide=False)
                    x32 = self._step(self._AND, ~_X32_BIT & 0xFFFFFFFF, search)
                search = self._search(programs[arch], 0, len(programs[arch]), wide=arch in _64_BIT)
                search = self._branch(self._JGE, _X32_BIT, x32, search)
            else:
                search = self._search(programs[arch], 0, len(programs[arch]), wide=arch in _64_BIT)
            entry = self._step(self._LD, self._NR, search)
            other = self._branch(self._JEQ, _AUDIT_ARCH[arch], entry, other)
        self._step(self._LD, self._ARCH, other)
        if len(self._code) > 4096:
            raise ValueError(
                f"seccomp: the filter needs {len(self._code)} instructions, the kernel takes 4096"
            )
        return struct.pack(f"<{len(self._code)}Q", *reversed(self._code))

    def _search(self, segments: list[_Segment], low: int, high: int, *, wide: bool) -> int:
        if high - low > 1:
            middle = (low + high) // 2
            right = self._search(segments, middle, high, wide=wide)
            left = self._search(segments, low, middle, wide=wide)
            return self._branch(self._JGE, segments[middle][0], right, left)
        answer = segments[low][1]
        if isinstance(answer, int):
            return self._ret(answer)
        position = self._ret(self._default)
        for conditions, result in reversed(answer):
            fail = position
            position = self._ret(result)
            for condition in reversed(conditions):
                position = self._compare(condition, position, fail, wide)
        return position

    def _compare(self, condition: Condition, match: int, fail: int, wide: bool) -> int:  # noqa: FBT001
        index, operator, value, second = condition
        operator = operator[len("SCMP_CMP_") :]
        if operator in ("NE", "LT", "LE"):
            operator = {"NE": "EQ", "LT": "GE", "LE": "GT"}[operator]
            match, fail = fail, match
        low = self._ARGS + 8 * index  # seccomp_data is little-endian on every architecture here
        high = low + 4
        if operator == "MASKED_EQ":
            second &= value
            position = self._branch(self._JEQ, second & 0xFFFFFFFF, match, fail)
            position = self._step(self._LD, low, self._step(self._AND, value & 0xFFFFFFFF, position))
            if not wide:
                return position
            position = self._branch(self._JEQ, second >> 32, position, fail)
            return self._step(self._LD, high, self._step(self._AND, value >> 32, position))
        jump = {"EQ": self._JEQ, "GT": self._JGT, "GE": self._JGE}[operator]
        position = self._step(self._LD, low, self._branch(jump, value & 0xFFFFFFFF, match, fail))
        if not wide:
            return position
        position = self._branch(self._JEQ, value >> 32, position, fail)
        if operator != "EQ":
            position = self._branch(self._JGT, value >> 32, match, position)
        return self._step(self._LD, high, position)

    def _ret(self, answer: int) -> int:
        known = self._answers.get(answer)
        if known is None or len(self._code) - known > self._REACH:
            known = self._answers[answer] = self._put(self._RET, 0, 0, answer)
        return known

    def _step(self, code: int, operand: int, following: int) -> int:
        last = len(self._code) - 1
        if following != last:
            self._put(self._JA, 0, 0, last - following)
        return self._put(code, 0, 0, operand)

    def _branch(self, code: int, operand: int, yes: int, no: int) -> int:
        here = len(self._code) - 1
        if here - yes > self._REACH or here - no > self._REACH:
            yes, no = self._near(yes), self._near(no)
            here = len(self._code) - 1
        self._code.append(code | here - yes << 16 | here - no << 24 | operand << 32)
        return here + 1

    def _near(self, target: int) -> int:
        distance = len(self._code) - 1 - target
        return target if distance <= self._REACH else self._put(self._JA, 0, 0, distance)

    def _put(self, code: int, yes: int, no: int, operand: int) -> int:
        self._code.append(code | yes << 16 | no << 24 | operand << 32)
        return len(self._code) - 1
