from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument
from sampan.engine.seccomp_profile import default_seccomp, load_profile, resolve_profile
from sampan.linux import seccomp
from sampan.linux.seccomp_tables import numbers

X86_64, X86, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32 = 0x4000003E
ALLOW = seccomp.SECCOMP_RET_ALLOW
EPERM = seccomp.SECCOMP_RET_ERRNO | errno.EPERM
INTERESTING = (0, 1, 2, 16, 38, 39, 40, 41, 0x7E020000, 0x10000000, 0x20000, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1)
OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")


def decide(program: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """Run a classic BPF program as the kernel would; the instructions that seccomp filters use."""
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *args, *(0,) * (6 - len(args)))
    code = list(struct.iter_unpack("=HBBI", program))
    memory = [0] * 16
    accumulator = index = at = 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif op == 0x60:
            accumulator = memory[k]
        elif op == 0x02:
            memory[k] = accumulator
        elif op == 0x07:
            index = accumulator
        elif op == 0x87:
            accumulator = index
        elif op == 0x54:
            accumulator &= k
        elif op == 0x05:
            at += k
        elif op == 0x06:
            return int(k)
        else:
            taken = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}
            at += yes if taken[op] else no


class Argument(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_ERRNO": 0x00050000, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_TRAP": 0x00030000, "SCMP_ACT_TRACE": 0x7FF00000, "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}  # fmt: skip
TAKE_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
PASS = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
ARCHES = {"SCMP_ARCH_X86_64": X86_64, "SCMP_ARCH_X86": X86, "SCMP_ARCH_X32": X32}


class Reference:
    """libseccomp, by ctypes, fed as runc feeds it."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libseccomp.so.2")
        self.lib.seccomp_init.restype = ctypes.c_void_p
        self.lib.seccomp_init.argtypes = [ctypes.c_uint32]
        self.lib.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
        ]  # fmt: skip
        self.lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        self.lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        self.lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self.lib.seccomp_release.argtypes = [ctypes.c_void_p]
        self.lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        self.lib.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        self.lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p

    def compile(self, profile: dict[str, Any], arches: tuple[int, ...]) -> Verdicts:
        default = self._action(profile["defaultAction"], profile.get("defaultErrnoRet"))
        context = self.lib.seccomp_init(default)
        try:
            for arch in arches:
                self.lib.seccomp_arch_add(context, arch)
            self.lib.seccomp_attr_set(context, 2, 0x80000000)  # SCMP_FLTATR_ACT_BADARCH
            for call in profile["syscalls"]:
                action = self._action(call["action"], call.get("errnoRet"))
                if action == default:
                    continue
                args = call.get("args") or []
                array = (Argument * max(1, len(args)))(
                    *[
                        Argument(
                            each["index"],
                            OPERATORS.index(each["op"].removeprefix("SCMP_CMP_")) + 1,
                            each["value"],
                            each.get("valueTwo", 0),
                        )
                        for each in args
                    ]
                )
                for name in call["names"]:
                    number = self.lib.seccomp_syscall_resolve_name(name.encode())
                    if number != -1:
                        assert self.lib.seccomp_rule_add_array(context, action, number, len(args), array) == 0
            fd = os.memfd_create("filter")
            try:
                assert self.lib.seccomp_export_bpf(context, fd) == 0
                program = os.pread(fd, 1 << 20, 0)
            finally:
                os.close(fd)
        finally:
            self.lib.seccomp_release(context)
        patched = profile["defaultAction"] not in PASS and profile.get("defaultErrnoRet") != errno.ENOSYS
        return Verdicts(program, {arch: self._last(profile, arch) for arch in (X86_64, *arches)} if patched else {})

    def names(self, arch: int, offset: int = 0) -> Iterator[tuple[str, int]]:
        for number in range(600):
            found = self.lib.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(arch), offset + number)
            if found:
                yield ctypes.string_at(found).decode(), number

    def _last(self, profile: dict[str, Any], arch: int) -> int:
        names = [name for call in profile["syscalls"] for name in call["names"]]
        return max((self.lib.seccomp_syscall_resolve_name_arch(arch, name.encode()) for name in names), default=0)

    @staticmethod
    def _action(name: str, value: int | None) -> int:
        return ACTIONS[name] | ((1 if value is None else value) if name in TAKE_ERRNO else 0)


@dataclass
class Verdicts:
    """A program of libseccomp's behind what runc puts before it: calls after the last that the profile names don't exist."""

    program: bytes
    last: dict[int, int]

    def of(self, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
        kind = X32 if arch == X86_64 and number & 1 << 30 else arch
        last = self.last.get(kind, 0)
        if last > 0 and number > last:
            return seccomp.SECCOMP_RET_ERRNO | errno.ENOSYS
        return decide(self.program, arch, number, args)


REFERENCE = Reference()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return REFERENCE


@pytest.mark.parametrize(
    ("arch", "audit", "offset"),
    [("x86_64", X86_64, 0), ("x86", X86, 0), ("x32", X32, 0x40000000), ("aarch64", AARCH64, 0), ("arm", ARM, 0)],
)
def test_tables_agree_with_libseccomp(reference: Reference, arch: str, audit: int, offset: int) -> None:
    ours = numbers(arch)
    theirs = dict(reference.names(audit, offset))
    assert len(theirs) > 300
    assert {name: ours.get(name) for name in theirs} == theirs


def test_default_profile_decides_as_libseccomp(reference: Reference) -> None:
    profile = default_seccomp(["CAP_CHOWN"], "x86_64")
    ours = seccomp.compile(profile, "x86_64")
    theirs = reference.compile(profile, (X86_64, X86, X32))
    with_arguments = {
        table[name]
        for table in (numbers("x86_64"), numbers("x86"), numbers("x32"))
        for name in ("personality", "clone", "socket", "socketcall")
        if name in table
    }
    for arch, offset, table, of in ((X86_64, 0, "x86_64", X86_64), (X86, 0, "x86", X86), (X86_64, 1 << 30, "x32", X32)):
        # Calls that libseccomp 2.5 doesn't know by name are refused by its filter, and are beyond its last.
        known = {name for name, _ in reference.names(of, offset)}
        newer = {number for name, number in numbers(table).items() if name not in known}
        for number in itertools.chain(range(600), (0x3FFFFFFF, 0x7FFFFFFF)):
            if number in newer or theirs.last[of] & ~offset < number <= max(newer):
                continue
            for value in INTERESTING if number in with_arguments else (0, 2**64 - 1):
                args = (value, 0)
                assert decide(ours, arch, number | offset, args) == theirs.of(arch, number | offset, args), (
                    hex(arch), number | offset, hex(value),
                )  # fmt: skip
    assert decide(ours, AARCH64, 0) == theirs.of(AARCH64, 0) == seccomp.SECCOMP_RET_KILL_PROCESS


CALLS = ("read", "ioctl", "clone", "close", "openat", "bpf")
CONDITION = st.tuples(
    st.integers(0, 5), st.sampled_from(OPERATORS), st.sampled_from(INTERESTING), st.sampled_from(INTERESTING)
)
CONDITIONS = st.lists(CONDITION, max_size=3, unique_by=lambda each: each[0])
ARGUMENTS = st.tuples(*[st.sampled_from(INTERESTING)] * 6)
Rules = list[tuple[str, list[tuple[int, str, int, int]]]]


def profile_of(rules: Rules) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "syscalls": [
            {
                "names": [name], "action": "SCMP_ACT_ALLOW",
                "args": arguments_of(conditions),
            }
            for name, conditions in rules
        ],
    }  # fmt: skip


def arguments_of(conditions: list[tuple[int, str, int, int]]) -> list[dict[str, Any]]:
    return [
        {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second} for index, op, value, second in conditions
    ]


def holds(condition: tuple[int, str, int, int], args: tuple[int, ...]) -> bool:
    index, operator, value, second = condition
    argument = args[index]
    return {
        "NE": argument != value, "LT": argument < value, "LE": argument <= value, "EQ": argument == value,
        "GE": argument >= value, "GT": argument > value, "MASKED_EQ": argument & value == second & value,
    }[operator]  # fmt: skip


VALUE = st.one_of(st.none(), st.integers(0, 4094))


@st.composite
def profiles(draw: Any) -> dict[str, Any]:
    """Profiles with one rule a call: of more, libseccomp 2.5 makes a tree that permits some calls that no rule permits."""

    def action(names: list[str], key: str, value: str) -> dict[str, Any]:
        chosen = draw(st.sampled_from(names))
        number = draw(VALUE) if chosen in TAKE_ERRNO else None
        return {key: chosen, **({} if number is None else {value: number})}

    rules = draw(st.lists(st.tuples(st.sampled_from(CALLS), CONDITIONS), max_size=6, unique_by=lambda rule: rule[0]))
    return {
        **action([name for name in ACTIONS if name != "SCMP_ACT_NOTIFY"], "defaultAction", "defaultErrnoRet"),
        "architectures": draw(st.lists(st.sampled_from(sorted(ARCHES)), unique=True)),
        "syscalls": [
            {**action(list(ACTIONS), "action", "errnoRet"), "names": [name], "args": arguments_of(conditions)}
            for name, conditions in rules
        ],
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(profile=profiles(), args=ARGUMENTS)
def test_generated_profiles_decide_as_libseccomp(profile: dict[str, Any], args: tuple[int, ...]) -> None:
    """All actions, operators and architectures, and what runc adds for calls newer than the profile."""
    ours = seccomp.compile(profile, "x86_64")
    theirs = REFERENCE.compile(profile, tuple(ARCHES[name] for name in profile["architectures"]))
    for arch, table, offset in ((X86_64, "x86_64", 0), (X86, "x86", 0), (X86_64, "x32", 1 << 30)):
        for number in (*(numbers(table)[name] for name in (*CALLS, "write")), 599):
            answers = decide(ours, arch, number | offset, args), theirs.of(arch, number | offset, args)
            assert answers[0] == answers[1], (table, number, [hex(answer) for answer in answers])


@settings(max_examples=200, deadline=None)
@given(rules=st.lists(st.tuples(st.sampled_from(CALLS), CONDITIONS), max_size=12), args=ARGUMENTS)
def test_many_rules_a_call_decide_as_the_spec_says(rules: Rules, args: tuple[int, ...]) -> None:
    """Not beside libseccomp: 2.5 merges the rules of one call into a tree, and permits some that no rule permits."""
    program = seccomp.compile(profile_of([*rules, ("statx", [])]), "x86_64")  # the last that is named
    for name in (*CALLS, "write"):
        allowed = any(
            each == name and all(holds(condition, args) for condition in conditions) for each, conditions in rules
        )
        assert decide(program, X86_64, numbers("x86_64")[name], args) == (ALLOW if allowed else EPERM)


def test_two_conditions_on_one_argument_are_alternatives() -> None:
    either = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (3, 5)]
    program = seccomp.compile(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["close"], "action": "SCMP_ACT_ALLOW", "args": either}],
        },
        "x86_64",
    )
    assert [decide(program, X86_64, 3, (value,)) for value in (3, 4, 5)] == [ALLOW, EPERM, ALLOW]


def test_calls_newer_than_the_profile_do_not_exist() -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["openat2"], "action": "SCMP_ACT_ALLOW"}]}
    program = seccomp.compile(profile, "x86_64")
    assert decide(program, X86_64, 437) == ALLOW
    assert decide(program, X86_64, 436) == EPERM
    assert decide(program, X86_64, 438) == seccomp.SECCOMP_RET_ERRNO | errno.ENOSYS
    with_value = seccomp.compile({**profile, "defaultErrnoRet": 13}, "x86_64")
    assert decide(with_value, X86_64, 436) == seccomp.SECCOMP_RET_ERRNO | errno.EACCES
    assert decide(with_value, X86_64, 438) == seccomp.SECCOMP_RET_ERRNO | errno.ENOSYS
    passing = {"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["openat2"], "action": "SCMP_ACT_ALLOW"}]}
    assert decide(seccomp.compile(passing, "x86_64"), X86_64, 438) == seccomp.SECCOMP_RET_LOG


def test_upper_half_of_an_argument_does_not_lead_around_a_rule_of_32_bits() -> None:
    """x32 passes 64 bits, of which the kernel takes an int: libseccomp compares that, and so do we."""
    refuse = {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 16}]}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X32"], "syscalls": [refuse]}
    number = numbers("x32")["socket"] | 1 << 30
    assert decide(seccomp.compile(profile, "x86_64"), X86_64, number, (1 << 32 | 16,)) == EPERM


def test_architectures_of_other_machines_are_passed_over() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X", "SCMP_ARCH_RISCV64", "SCMP_ARCH_X86"]}
    assert seccomp.compile(profile, "x86_64") == seccomp.compile({**profile, "architectures": ["SCMP_ARCH_X86"]}, "x86_64")


def test_flags() -> None:
    """Without a list runc's default; a listener excludes TSYNC, and only with one there is something to wait for."""
    notify = {"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}
    assert seccomp.flags_of({}) == seccomp.SPEC_ALLOW
    assert seccomp.flags_of({"flags": []}) == 0
    assert seccomp.flags_of({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]}) == 3
    assert seccomp.flags_of({**notify, "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]}) == seccomp.NEW_LISTENER
    waits = {"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}
    assert seccomp.flags_of({**notify, **waits}) == seccomp.NEW_LISTENER | seccomp.WAIT_KILLABLE_RECV
    with pytest.raises(ValueError, match="needs a rule with SCMP_ACT_NOTIFY"):
        seccomp.flags_of(waits)
    with pytest.raises(ValueError, match="unknown flag 'DANCE'"):
        seccomp.flags_of({"flags": ["DANCE"]})


def test_many_answers_reach_over_long_jumps() -> None:
    names = sorted(numbers("x86_64"), key=numbers("x86_64").__getitem__)
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {
                "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 + position % 100,
                "args": [{"index": 1, "op": "SCMP_CMP_GT", "value": position << 31}],
            }
            for position, name in enumerate(names)
        ],
    }  # fmt: skip
    program = seccomp.compile(profile, "x86_64")
    for position, name in enumerate(names):
        number = numbers("x86_64")[name]
        refused = seccomp.SECCOMP_RET_ERRNO | (1 + position % 100)
        assert decide(program, X86_64, number, (0, (position << 31) + 1)) == refused
        assert decide(program, X86_64, number, (0, position << 31)) == ALLOW


def test_unix_sockets_of_x86_also_by_socketcall() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["bind"], "action": "SCMP_ACT_ALLOW"}],
    }  # fmt: skip
    program = seccomp.compile(profile, "x86_64")
    assert decide(program, X86, 102, (2,)) == ALLOW
    assert decide(program, X86, 102, (3,)) == EPERM


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"defaultAction": "SCMP_ACT_DANCE"}, "unknown action 'SCMP_ACT_DANCE'"),
        ({"architectures": ["SCMP_ARCH_VAX"]}, "unknown architecture 'SCMP_ARCH_VAX'"),
        (
            {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "op": "x", "value": 0}]}]},
            "argument index 6",
        ),
        (
            {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "op": "x", "value": 0}]}]},
            "unknown operator 'x'",
        ),
        (
            {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64}]}]},
            "does not fit in 64 bits",
        ),
        ({"syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}, "names no system call"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 5}]}, "takes no errno"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536}]}, "errno 65536"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4095}]}, "errno 4095"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536}]}, "errno 65536"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY as the default"),
        ({"syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}]}, "SCMP_ACT_NOTIFY of 'write'"),
    ],
)
def test_bad_profile_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        seccomp.compile({"defaultAction": "SCMP_ACT_ALLOW", **change}, "x86_64")


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.sampled_from(["read", "SCMP_ACT_ERRNO", "SCMP_CMP_EQ", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["names", "action", "args", "index", "op", "value", "valueTwo", "errnoRet", "syscalls", "flags"]), inner
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(["syscalls", "architectures", "flags", "defaultAction", "defaultErrnoRet"]), junk=JUNK)
def test_what_is_no_profile_is_told_so(key: str, junk: Any) -> None:
    """By the errors that a driver translates: it is a client's text."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", key: junk}
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        seccomp.compile(profile, "x86_64")
        seccomp.flags_of(profile)


def test_kernel_takes_the_default_filter_and_obeys() -> None:
    """In a child: no_new_privs stands in for root. The mount call is refused, and unshare of a user namespace."""
    program = seccomp.compile(default_seccomp([]))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            from sampan.linux.mounts import mount
            from sampan.linux.namespaces import CLONE_NEWUSER, unshare
            from sampan.linux.syscalls import PR_SET_NO_NEW_PRIVS, prctl

            prctl(PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(program)
            refused = 0
            for attempt in (lambda: mount("none", "/proc", "tmpfs"), lambda: unshare(CLONE_NEWUSER)):
                try:
                    attempt()
                except PermissionError:
                    refused += 1
            status = 0 if refused == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


GRANTS = {
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_SYS_ADMIN": (
        "bpf", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "lsm_get_self_attr",
        "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl",
        "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount2", "unshare",
    ),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise"),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": ("clock_settime", "settimeofday"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYSLOG": ("syslog",),
    "CAP_BPF": ("bpf",),
    "CAP_PERFMON": ("perf_event_open",),
}  # fmt: skip
"""What each capability opens in Docker's profile, beyond what is open to all (github.com/moby/profiles, cd3bed8)."""

ALWAYS = ("ptrace", "process_vm_readv", "process_vm_writev", "openat2", "pidfd_open", "memfd_create", "arch_prctl", "modify_ldt", "mseal")
NEVER = (
    "add_key", "keyctl", "request_key", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "kexec_load",
    "kexec_file_load", "swapon", "swapoff", "pivot_root", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl", "create_module",
)  # fmt: skip


def answers_of(*caps: str) -> Any:
    """Give what Docker's profile answers a container with `caps`: of a call's name and arguments."""
    program = seccomp.compile(default_seccomp(caps, "x86_64"), "x86_64")
    return lambda name, *args: decide(program, X86_64, numbers("x86_64")[name], args)


@pytest.mark.parametrize("capability", GRANTS)
def test_default_profile_follows_capabilities(capability: str) -> None:
    """A23, as a table: with the capability the call passes, without it or with another it is refused."""
    without, granted, other = answers_of(), answers_of(capability), answers_of("CAP_NET_ADMIN")
    for name in GRANTS[capability]:
        refused = seccomp.SECCOMP_RET_ERRNO | (errno.ENOSYS if name == "clone3" else errno.EPERM)
        assert (name, without(name), granted(name), other(name)) == (name, refused, ALLOW, refused)


def test_default_profile_for_everybody() -> None:
    """What passes always, what never does, and what depends on its arguments."""
    nobody, everybody = answers_of(), answers_of(*GRANTS, "CAP_NET_ADMIN")
    assert [name for name in ALWAYS if nobody(name) != ALLOW] == []
    assert [name for name in NEVER if everybody(name) != EPERM] == []
    assert nobody("clone", 0x11) == ALLOW
    namespaces = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    assert [flag for flag in namespaces if nobody("clone", flag | 0x11) != EPERM] == []
    assert everybody("clone", 0x10000000) == ALLOW
    assert [family for family in range(64) if nobody("socket", family) != ALLOW] == [38, 40]  # AF_ALG, AF_VSOCK
    permitted = [value for value in (0, 8, 0x20, 0x20000, 0x20008, 0x40000, 0x8000000, 0xFFFFFFFF) if nobody("personality", value) == ALLOW]
    assert permitted == [0, 8, 0x20000, 0x20008, 0xFFFFFFFF]


def test_default_profile_of_other_architectures() -> None:
    """The 32-bit calls of x86 and ARM come with their own entries to sockets and memory."""
    program = seccomp.compile(default_seccomp([], "x86_64"), "x86_64")
    for name in ("socketcall", "ipc", "mmap2", "waitpid", "clock_gettime64"):
        assert (name, decide(program, X86, numbers("x86")[name])) == (name, ALLOW)
    assert decide(program, X86, numbers("x86")["mount"]) == EPERM
    assert decide(program, X86_64, numbers("x32")["mount"] | 1 << 30) == EPERM
    program = seccomp.compile(default_seccomp([], "aarch64"), "aarch64")
    assert decide(program, AARCH64, numbers("aarch64")["openat2"]) == ALLOW
    assert decide(program, ARM, numbers("arm")["set_tls"]) == ALLOW
    assert decide(program, AARCH64, numbers("aarch64")["mount"]) == decide(program, ARM, numbers("arm")["mount"]) == EPERM
    assert decide(program, X86_64, 0) == seccomp.SECCOMP_RET_KILL_PROCESS


def test_profile_of_a_client(tmp_path: Any) -> None:
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "mkdir", "action": "SCMP_ACT_ERRNO"}]})
    (tmp_path / "profile.json").write_text(text)
    expected = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    assert resolve_profile(load_profile(text), [], "x86_64") == expected
    assert resolve_profile(load_profile(tmp_path / "profile.json"), [], "x86_64") == expected
    for bad in ("{", "[]", "{}", str(tmp_path / "missing")):
        with pytest.raises(InvalidArgument, match="seccomp profile"):
            load_profile(bad)
