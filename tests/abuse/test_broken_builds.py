"""Every attack gets through a build without the guard that stops it: else it would prove nothing.

Where a guard is now is written here; who moves it, moves it here too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ground.broken import Broken, Change, check_bites

NATIVE = "tests/conformance/test_runtime_native.py::TestNative"
HOOKS = "tests/conformance/test_runtime_native_hooks.py::TestNativeHooks"
SECCOMP = "tests/conformance/test_runtime_native_seccomp.py::TestNativeSeccomp"
ATTACKS = "tests/abuse/test_runtime_attacks.py::TestAttacks"
CONTAINER = "tests/abuse/test_hostile_container.py"
RESOURCES = "tests/abuse/test_resources.py"
LOOPBACK = "tests/abuse/test_loopback_publish.py"

CLOSES_NOTHING = (
    Change("sampan_runtime_native/init.py", "keep_only((*range(3", "((*range(3"),
    Change("sampan_runtime_native/program.py", "        close_range(3 + preserved", "        (lambda *given, **flags: None)(3 + preserved"),
)
FOLLOWS_MAGIC_LINKS = (
    Change("sampan_runtime_native/program.py", "os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)", "os.O_PATH | os.O_DIRECTORY)"),
    Change("sampan_runtime_native/program.py", 'if not os.getcwd().startswith("/"):', "if False:"),
)
LEADS_OUT = (
    Change("sampan/linux/files.py", "    how = _open_how.pack(",
           "    if resolve & (RESOLVE_IN_ROOT | RESOLVE_BENEATH):\n"
           '        dirfd, path, resolve = AT_FDCWD, f"/proc/self/fd/{dirfd}/{os.fsdecode(path)}", 0\n'
           "    how = _open_how.pack("),
)
TRUSTS_NULL = (
    Change("sampan_runtime_native/rootfs.py", "if stat.S_IFMT(found.st_mode) != stat.S_IFMT(device.mode) or", "if False and"),
    Change("sampan_runtime_native/rootfs.py", '"dev/null", os.O_PATH | os.O_NOFOLLOW,', '"dev/null", os.O_PATH,'),
    Change("sampan_runtime_native/rootfs.py", "if not is_null_device(found):", "if False:"),
)
TRUSTS_CONSOLE = (
    Change("sampan_runtime_native/rootfs.py", 'os.unlink("console", dir_fd=dev)', "pass"),
    Change("sampan_runtime_native/rootfs.py", "flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC\n            os.close(os.open(\"console\"",
           "flags = os.O_CREAT | os.O_CLOEXEC\n            os.close(os.open(\"console\""),
    Change("sampan_runtime_native/rootfs.py", 'os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)',
           'os.open("console", os.O_PATH | os.O_CLOEXEC, dir_fd=dev)'),
)
CAN_BE_LOOKED_INTO = (
    *(Change(f"sampan_runtime_native/{name}.py", "prctl(PR_SET_DUMPABLE, 0)", "pass") for name in ("init", "birth", "creation", "joining", "program")),
    Change("sampan_runtime_native/program.py", "            os.execve(self._path", "            __import__('time').sleep(0.1)  # the window is held open\n            os.execve(self._path"),
)
RUNS_ANYTHING = (Change("sampan_runtime_native/program.py", "if os.path.samestat(found, engine):", "if False:"),)

BUILDS = (
    Broken("A01", "closing what the caller has open", CLOSES_NOTHING, f"{NATIVE}::test_only_three_descriptors", r"contains \d+ more items|waited for"),
    Broken("A01", "refusing magic links to the directory of a process", (*CLOSES_NOTHING, *FOLLOWS_MAGIC_LINKS),
           f"{NATIVE}::test_directory_of_a_descriptor", "outside of the container's root|the host's"),
    Broken("A01", "refusing magic links to the directory of an exec", (*CLOSES_NOTHING, *FOLLOWS_MAGIC_LINKS),
           f"{NATIVE}::test_exec_in_directory_of_a_descriptor", "outside of the container's root|the host's"),
    Broken("A02", "refusing the engine's executable", RUNS_ANYTHING, f"{ATTACKS}::test_engine_does_not_become_the_program", "python3"),
    Broken("A02", "keeping others from looking into a process", CAN_BE_LOOKED_INTO,
           f"{ATTACKS}::test_process_on_its_way_cannot_be_looked_into", "found /"),
    Broken("A03", "a look at what masks", TRUSTS_NULL, f"{ATTACKS}::test_image_does_not_choose_what_masks", "'0:0'"),
    Broken("A03", "masking", (
        Change("sampan_runtime_native/rootfs.py", "if any(each.is_bind and os.path.normpath(each.target) == \"/dev\"", "if True or any(each.is_bind and os.path.normpath(each.target) == \"/dev\""),
        Change("sampan_runtime_native/rootfs.py", "null = self._null_device() if self._plan.masked else -1", "null = -1"),
        Change("sampan_runtime_native/rootfs.py", "for path in self._plan.masked:", "for path in ():"),
    ), f"{ATTACKS}::test_missing_null_device_does_not_leave_paths_bare", "'0:0'"),
    Broken("A04", "a console of its own", TRUSTS_CONSOLE, f"{NATIVE}::test_console_of_the_image_is_not_used", r"assert \[\] == \['/dev/pts/0'"),
    Broken("A04", "a new file for the console", TRUSTS_CONSOLE,
           f"{ATTACKS}::test_nothing_is_made_through_a_link_that_leads_out[terminal]", "victim/console"),
    Broken("A05", "a procfs of its own for sysctls", (
        Change("sampan_runtime_native/rootfs.py", 'write_proc(proc, f"sys/{path}", value)', 'os.write(os.open(f"/proc/sys/{path}", os.O_WRONLY), value.encode())'),
    ), f"{NATIVE}::test_sysctls_do_not_pass_through_the_image", "'0' == '1'"),
    Broken("A05", "a procfs of its own for an exec", (
        Change("sampan_runtime_native/init.py", "        os.close(container.pidfd)\n", '        os.close(container.pidfd)\n        proc = os.open("/proc", os.O_PATH)\n'),
    ), f"{ATTACKS}::test_exec_writes_to_no_procfs_of_the_container", r"== '123\\n'"),
    Broken("A05", "keeping /proc uncovered", (
        Change("sampan_runtime_native/rootfs.py", "if filesystem_type(place) == PROC_SUPER_MAGIC:", "if False:"),
    ), f"{ATTACKS}::test_nothing_covers_a_part_of_proc", "DID NOT RAISE"),
    Broken("A05", "a look at a sysctl's name", (Change("sampan_runtime_native/plan.py", 'if ".." in dotted or', "if"),),
           f"{ATTACKS}::test_sysctl_stays_in_its_directory", "DID NOT RAISE"),
    *(Broken("A06", f"staying in the root ({what})", LEADS_OUT, f"{ATTACKS}::test_nothing_is_made_through_a_link_that_leads_out[{what}]", "victim/")
      for what in ("device", "mount", "file")),
    Broken("A06", "staying in the root (file system)", LEADS_OUT, f"{ATTACKS}::test_no_file_system_of_the_kernel_lands_outside[dev/pts-devpts]", "- devpts"),
    Broken("A07", "staying in the root (race)", LEADS_OUT, f"{ATTACKS}::test_mount_stays_in_the_root_while_its_place_is_flipped", "victim/deep"),
    Broken("CVE-2016-2568", "a session of its own", (Change("sampan_runtime_native/init.py", "    os.setsid()\n", ""),),
           f"{ATTACKS}::test_session_is_its_own", "'0', "),
    Broken("setuid", "no-new-privileges", (Change("sampan_runtime_native/program.py", "prctl(PR_SET_NO_NEW_PRIVS, 1)", "pass"),),
           f"{ATTACKS}::test_setuid_program_gains_nothing", "'0' == '1000'"),
    Broken("devices", "device rules", (Change("sampan_runtime_native/creation.py", 'cgroup.apply({**plan.resources, "devices": devices})', "cgroup.apply({})"),),
           f"{ATTACKS}::test_device_of_the_image_cannot_be_opened", "/kmsg|/tun"),
    Broken("CVE-2022-0492", "read-only cgroups", (
        Change("sampan_runtime_native/rootfs.py", "mount_setattr(tmpfs, attributes, propagation=MS_PRIVATE, recursive=True)",
               "mount_setattr(tmpfs, attributes & ~MOUNT_ATTR_RDONLY, propagation=MS_PRIVATE, recursive=True)"),
    ), f"{ATTACKS}::test_cgroups_of_the_container_are_read_only", "/sys/fs/cgroup|made"),
    Broken("A02", "keeping others from looking into an exec", CAN_BE_LOOKED_INTO, f"{CONTAINER}::test_runtime_is_not_overwritten", r"assert b'/"),
    Broken("A02", "a read-only view of the engine's executable", (
        Change("sampan/launch/client.py", 'executable=f"/proc/self/fd/{executable}",', ""),
    ), f"{CONTAINER}::test_engine_runs_from_a_readonly_view", "writable"),
    Broken("A18", "a look at ids", (
        Change("sampan/engine/users.py", "if not _is_id(text):", "if False:"),
        Change("sampan_runtime_native/process.py", "if not all(0 <= number < 0xFFFFFFFF for number in ids):", "if False:"),
    ), "tests/abuse/test_malformed_requests.py::test_refused_by_create_or_start[uid below zero]", "204"),
    Broken("A19", "modes of its directories", (
        Change("sampan/engine/drivers.py", "    path.chmod(mode)\n", "    path.chmod(0o755)\n"),
    ), f"{RESOURCES}::test_no_other_user_reads_root_or_state", "493 == 448"),
    Broken("A20", "a path for the shim's socket", (
        Change("sampan/launch/shim.py", 'sock.bind(f"/proc/self/fd/{directory}/{SOCKET}")', 'sock.bind(f"\\0sampan-{os.getpid()}")'),
    ), f"{CONTAINER}::test_no_socket_of_the_engine_in_the_hosts_network", "@sampan-"),
    Broken("A21", "closing the streams of who is gone", (
        Change("sampan/engine/streams.py", "            if stream is not None:\n                stream.close()\n", "            _kept.append(stream)\n\n\n_kept: list[FdStream | None] = []\n"),
    ), f"{RESOURCES}::test_clients_that_drop_leave_nothing", "descriptors of dropped clients closed"),
    Broken("A22", "masked paths", (
        Change("sampan/engine/isolation.py", "return [] if privileged else list(default)", "return []"),
    ), f"{CONTAINER}::test_side_channels_are_masked", r"assert '.+' == ''"),
    Broken("A22", "read-only paths", (
        Change("sampan/engine/isolation.py", "return [] if privileged else list(default)", "return []"),
    ), f"{CONTAINER}::test_what_must_stay_readonly", "/proc/sys/kernel/hostname"),
    Broken("A23", "a default profile", (
        Change("sampan/engine/isolation.py", "return default_seccomp(frozenset(granted), os.uname().machine)", "return None"),
    ), "tests/abuse/test_syscalls.py::test_default_profile", "EFAULT|EINVAL|ENOENT|EPERM|Seccomp"),
    Broken("A23", "an answer to other architectures", (
        Change("sampan/linux/seccomp.py", "kill = self._ret(SECCOMP_RET_KILL_PROCESS)", "kill = self._ret(SECCOMP_RET_ALLOW)"),
    ), f"{SECCOMP}::test_a_door_that_the_profile_does_not_name_kills", "'159'"),
    Broken("A23", "rules for 32-bit x86", (
        Change("sampan/linux/seccomp.py", 'entry = self._step(self._LD, self._NR, search)',
               'entry = self._ret(SECCOMP_RET_ALLOW) if arch == "x86" else self._step(self._LD, self._NR, search)'),
    ), f"{SECCOMP}::test_other_doors_of_x86[True]", "assert \\[-"),
    Broken("A23", "a look at whose filter a cached one is", (
        Change("sampan_runtime_native/filter_cache.py", "if found.startswith(key):", "if found:"),
    ), "tests/unit/test_runtime_native_filter_cache.py::test_profiles_that_share_a_place_are_not_mistaken", "assert b"),
    Broken("keys", "a session keyring of its own", (Change("sampan_runtime_native/init.py", "    leave_keyring()\n", ""),),
           f"{NATIVE}::test_keys_of_the_caller_stay_with_it", "-secret"),
    Broken("A02", "a look at hooks of the image", (  # the kernel opens the engine, and misses its loader in the root
        Change("sampan_runtime_native/program.py", "for path in visitors.programs if visitors else ():", "for path in ():"),
    ), f"{HOOKS}::test_the_engine_is_not_run_by_a_hook_of_the_image", "/hook: no such file"),
    Broken("hooks", "confining hooks of the image", (
        Change("sampan_runtime_native/program.py", "        for path in visitors.programs if visitors else ():\n",
               "        if visitors:\n            visitors.before_program()\n            visitors = None\n        for path in ():\n"),
    ), f"{HOOKS}::test_a_hook_inside_is_under_the_rights_and_the_filter_of_the_container", "'0', '0'"),
    Broken("A24", "the guard against neighbours", (
        Change("sampan_network_bridge/rules.py", '"incoming": ["ip daddr 127.0.0.0/8 return", ', '"incoming": ['),
    ), f"{LOOPBACK}::test_neighbour_does_not_reach_what_is_published_on_loopback", r"assert \d+ == 0"),
    Broken("A24", "the guard against containers", (
        Change("sampan_network_bridge/rules.py", '"guard": ["iifname @bridges ip daddr 127.0.0.0/8 drop", ', '"guard": ['),
        Change("sampan_network_bridge/rules.py", '"incoming": ["ip daddr 127.0.0.0/8 return", ', '"incoming": ['),
    ), f"{LOOPBACK}::test_a_container_does_not_reach_what_is_published_on_loopback", r"assert \d+ == 0"),
    Broken("A27", "a limit of processes", (
        Change("sampan/linux/cgroup_limits.py", '"max" if pids["limit"] < 0 else str(pids["limit"])', '"max"'),
    ), f"{RESOURCES}::test_fork_bomb_within_its_limit", "<= 64"),
    Broken("devices", "device rules", (
        Change("sampan/engine/devices.py", '{"allow": False, "access": "rwm"},', '{"allow": True, "access": "rwm"},'),
    ), f"{CONTAINER}::test_device_of_the_image_cannot_be_opened", "/kmsg|/tun"),
    Broken("CVE-2019-14271", "an end of imports", (  # and with an import there: as it is, nothing is imported so late
        Change("sampan_runtime_native/init.py", "    sys.meta_path.clear()\n", "    pass\n"),
        Change("sampan_runtime_native/program.py", "        self._env = dict(process.env)\n", "        import cProfile\n        self._env = dict(process.env)\n"),
    ), f"{CONTAINER}::test_no_module_of_the_image_is_imported", "'' == 'clean'"),
    Broken("peers", "taking the right to look into others", (
        Change("sampan/engine/isolation.py", '"CAP_AUDIT_WRITE",\n)', '"CAP_AUDIT_WRITE", *capabilities.NAMES,\n)'),
    ), f"{CONTAINER}::test_engine_is_closed_to_who_shares_the_hosts_processes", "open /proc/"),
)  # fmt: skip


@pytest.mark.parametrize("broken", BUILDS, ids=str)
def test_attack_gets_through_a_broken_build(broken: Broken, tmp_path: Path) -> None:
    check_bites(broken, tmp_path)
