"""Images and containers that attack the host from inside, through the whole engine (A01–A07, A17, A20, A22)."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import sysconfig
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from ground.daemon import Daemon
from ground.hostile import busybox_with, import_image
from ground.waiting import wait_until
from sampan.linux import cgroups

SHELL = ("busybox", "sh", "-c")
STARTS = 60
EXECS = 15


def _run(daemon: Daemon, image: str, script: str, *options: str) -> str:
    return daemon.docker("run", "--rm", *options, image, "sh", "-c", script, check=None).stdout.decode()


def _imported(daemon: Daemon, root: bytes, *changes: str) -> str:
    name = f"hostile{secrets.token_hex(3)}"
    status, answer = import_image(daemon, name, root, *changes)
    assert status == 200, answer
    return name


# ---------------------------------------------------------------- A01: descriptors and working directories


def test_no_descriptor_of_the_host_on_run_and_exec(daemon: Daemon) -> None:
    """Bites: a descriptor that the shell itself opens is listed."""
    listing = "for fd in /proc/$$/fd/*; do readlink $fd; done; true"
    assert len(_run(daemon, "busybox", f"exec 7</etc/passwd; {listing}").split()) == 4
    for name, output in (("run", _run(daemon, "busybox", listing)), ("exec", _exec(daemon, listing))):
        links = output.split()
        assert len(links) == 3, (name, output)
        assert all(link.startswith(("pipe:", "/dev/null", "socket:")) for link in links), (name, links)


def _exec(daemon: Daemon, script: str) -> str:
    daemon.docker("run", "-d", "--name", "host", "busybox", "sleep", "600")
    return daemon.docker("exec", "host", "sh", "-c", script).stdout.decode()


def test_working_directory_by_descriptor_stays_inside(daemon: Daemon) -> None:
    """CVE-2024-21626: with a directory of the host open, `..` from it led to the host's /etc."""
    daemon.docker("run", "-d", "--name", "host", "--hostname", "inside", "busybox", "sleep", "600")
    look = "pwd; cat ../../../../../../../../etc/hostname"
    for number in range(3, 33):
        directory = f"/proc/self/fd/{number}"
        ran = daemon.docker("run", "--rm", "--hostname", "inside", "-w", directory, "busybox", "sh", "-c", look, check=None)
        executed = daemon.docker("exec", "-w", directory, "host", "sh", "-c", look, check=None)
        for done in (ran, executed):
            assert done.returncode != 0 or done.stdout.endswith(b"\ninside\n"), (number, done.stdout)
            assert b"unreachable" not in done.stdout


def test_working_directory_that_is_a_link_to_a_descriptor(daemon: Daemon) -> None:
    image = _imported(daemon, busybox_with([(f"l{n}", tarfile.SYMTYPE, f"/proc/self/fd/{n}") for n in range(3, 12)]))
    for number in range(3, 12):
        done = daemon.docker("run", "--rm", "--hostname", "inside", "-w", f"/l{number}", image, "cat",
                             "../../../../../etc/hostname", check=None)  # fmt: skip
        assert done.returncode != 0 or done.stdout == b"inside\n", done.stdout


# ---------------------------------------------------------------- A02: the engine's own programs


def _digests() -> dict[str, str]:
    programs = (sys.executable, "/bin/busybox", "/usr/bin/docker", "/usr/sbin/runc")
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in programs if Path(path).exists()}


def test_runtime_is_not_overwritten(daemon: Daemon) -> None:
    """CVE-2019-5736. Looks for any program but its own behind /proc/*/exe, while processes are started by way of
    `#!/proc/self/exe` too: who finds the engine's has only to wait until nobody runs it, to write to it."""
    before = _digests()
    trap = [("bin/trap", tarfile.REGTYPE, "#!/proc/self/exe\n")]
    image = _imported(daemon, busybox_with(trap))
    daemon.docker("run", "--rm", "--entrypoint", "/bin/trap", image, check=None)
    hunt = (
        "while :; do for p in /proc/[0-9]*; do l=$(busybox readlink $p/exe); case \"$l\" in ''|/bin/busybox) ;; *)"
        ' echo "$l" >> /found; (: >> $p/exe) 2>/dev/null && echo opened >> /found;; esac; done; done'
    )
    daemon.docker("run", "-d", "--name", "host", image, "sh", "-c", hunt)
    for _ in range(EXECS):
        daemon.docker("exec", "host", "/bin/trap", check=None)
        daemon.docker("exec", "host", "true")
    assert daemon.docker("exec", "host", "cat", "/found", check=None).stdout == b""
    assert _digests() == before


def test_engine_runs_from_a_readonly_view(daemon: Daemon) -> None:
    """Whoever gets hold of the executable of a process that became a container's holds a mount that can't be written."""
    daemon.docker("run", "-d", "--name", "host", "busybox", "sleep", "600")
    status = Path(f"/proc/{daemon.api('GET', '/containers/host/json')['State']['Pid']}/status").read_text()
    shim = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    held = os.open(f"/proc/{shim}/exe", os.O_PATH)
    try:
        assert os.path.samestat(os.fstat(held), os.stat(sys.executable))
        assert os.fstatvfs(held).f_flag & os.ST_RDONLY, "the engine's executable is writable from where it runs"
    finally:
        os.close(held)


# ---------------------------------------------------------------- A03–A06: what the image puts in the way


def test_dev_null_of_the_image_masks_nothing(daemon: Daemon) -> None:
    """CVE-2025-31133: /dev is ours, so the link is not there; a /dev of the host's own is refused as soon as it lies."""
    image = _imported(daemon, busybox_with([("dev/null", tarfile.SYMTYPE, "/proc/sys/kernel/core_pattern")]))
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    output = _run(daemon, image, "ls -l /dev/null; for p in /proc/kcore /proc/keys; do (echo x > $p); head -c 9 $p | wc -c; done")
    assert output.startswith("c"), output
    assert output.split("\n")[-2] == "0"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@pytest.mark.parametrize("name", ["console", "pts", "pts/0", "ptmx", "tty"])
def test_console_of_the_image_is_not_used(daemon: Daemon, name: str) -> None:
    """CVE-2025-52565."""
    image = _imported(daemon, busybox_with([(f"dev/{name}", tarfile.SYMTYPE, "/proc/sys/kernel/core_pattern")]))
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    output = _run(daemon, image, "echo here; cat /proc/self/mountinfo", "-t")
    assert "here" in output
    targets = [line.split()[4] for line in output.splitlines()[1:] if len(line.split()) > 6]
    assert "/dev/console" in targets
    assert "/proc/sys/kernel/core_pattern" not in targets
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@pytest.mark.parametrize("place", ["proc", "sys", "dev", "etc"])
def test_link_in_the_place_of_a_mount_makes_nothing_on_the_host(daemon: Daemon, place: str) -> None:
    """A05, A06. The host's directory would get /etc/hosts, a /dev or a procfs."""
    outside = Path(f"/tmp/sampan-abuse-{secrets.token_hex(4)}")
    outside.mkdir()
    try:
        links = [(place, tarfile.SYMTYPE, f"../../../../../../../..{outside}")]
        image = _imported(daemon, busybox_with(links, leave_out=[place]))
        daemon.docker("run", "--rm", image, "true", check=None)
        assert list(outside.iterdir()) == []
        assert str(outside) not in Path("/proc/self/mountinfo").read_text()
    finally:
        outside.rmdir()


def test_proc_of_the_image_gets_no_writes_of_ours(daemon: Daemon) -> None:
    """CVE-2025-52881, CVE-2019-19921: what the runtime would write to lies in the image, and stays as it was."""
    names = ("attr/exec", "attr/apparmor/exec", "oom_score_adj", "setgroups", "timerslack_ns", "loginuid")
    decoys = [(f"proc/self/{name}", tarfile.REGTYPE, "decoy") for name in names]
    decoys += [("proc/sys/net/ipv4/ping_group_range", tarfile.REGTYPE, "decoy"), ("proc/sys/net/ipv4/ip_forward", tarfile.REGTYPE, "decoy")]
    image = _imported(daemon, busybox_with(decoys))
    assert "1" in _run(daemon, image, "cat /proc/sys/net/ipv4/ip_forward", "--sysctl", "net.ipv4.ip_forward=1")
    daemon.docker("run", "-d", "--name", "host", "--oom-score-adj", "5", image, "sleep", "600")
    pid = daemon.api("GET", "/containers/host/json")["State"]["Pid"]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "5"


# ---------------------------------------------------------------- A07: a shared volume that moves


def test_mounts_land_in_the_root_while_their_place_is_flipped(daemon: Daemon) -> None:
    """CVE-2021-30465. The flipper exchanges a directory and a link that leads out by a name that only the host's
    view has; a mount or a directory made there would be seen."""
    outside = Path(f"/tmp/sampan-abuse-{secrets.token_hex(4)}")
    flip = (
        f"cd /v; mkdir d; ln -s ../../../../../../../../..{outside} l; ln -s {outside} m;"
        " while :; do mv d x; mv l d; mv d l; mv x d; mv d x; mv m d; mv d m; mv x d; done"
    )
    daemon.docker("run", "-d", "--name", "flipper", "-v", "shared:/v", *SHELL, flip)
    asked: dict[str, Any] = {
        "Image": "busybox", "Cmd": ["sh", "-c", "cat /proc/self/mountinfo; ls /v/d"],
        "HostConfig": {"Binds": ["shared:/v", "other:/v/d/deep"], "AutoRemove": True},
    }  # fmt: skip
    started = 0
    for _ in range(STARTS):
        made = daemon.api("POST", "/containers/create", asked)["Id"]
        status, _ = daemon.api_raw("POST", f"/containers/{made}/start")
        started += status == 204
        assert not outside.exists()
        assert str(outside) not in Path("/proc/self/mountinfo").read_text()
    assert started > 0
    wait_until(lambda: len(daemon.api("GET", "/containers/json?all=1")) == 1, "all but the flipper gone")


# ---------------------------------------------------------------- A17: what an image says about itself


def test_config_of_an_image_controls_nothing(daemon: Daemon) -> None:
    changes = (
        "LABEL io.kubernetes.cri.sandbox-id=x org.systemd.property.DevicePolicy=auto sampan.privileged=true name=evil execID=evil",
        "ENV SAMPAN_ROOT=/ LISTEN_FDS=3 NOTIFY_SOCKET=/x LD_PRELOAD=/evil.so _LIBCONTAINER_INITPIPE=3",
    )  # fmt: skip
    image = _imported(daemon, busybox_with(), *changes)
    made = daemon.docker("run", "-d", "--name", "host", image, "sleep", "600").stdout.decode().strip()
    seen = daemon.api("GET", "/containers/host/json")
    assert not seen["HostConfig"]["Privileged"]
    spec = json.loads((daemon.root / "containers" / made / "bundle" / "config.json").read_text())
    assert spec["annotations"] == {}
    since = int(time.time()) - 60
    events = daemon.api_raw("GET", f"/events?since={since}&until={int(time.time()) + 1}")[1]
    named = [json.loads(line)["Actor"]["Attributes"]["name"] for line in events.splitlines() if b'"start"' in line]
    assert named[-1] == "host"
    status = Path(f"/proc/{seen['State']['Pid']}/status").read_text()
    shim = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    assert b"evil" not in Path(f"/proc/{shim}/environ").read_bytes()


@pytest.mark.parametrize("place", ["/proc", "/proc/sys", "/proc/self", "/sys/firmware", "/dev/pts", "/dev"])
def test_volume_of_the_image_over_the_kernels_places(daemon: Daemon, place: str) -> None:
    """No volume of an image takes the masks off: either it is refused, or it holds nothing of the kernel's."""
    image = _imported(daemon, busybox_with(), f"VOLUME {place}")
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    output = _run(daemon, image, "(echo x > /proc/sys/kernel/core_pattern) 2>/dev/null; head -c 4 /proc/kcore; ls -A /sys/firmware")
    assert output == ""
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


# ---------------------------------------------------------------- A18: account files


@pytest.mark.parametrize("kind, content", [(tarfile.FIFOTYPE, ""), (tarfile.SYMTYPE, "/proc/self/root/etc/passwd"),
                                           (tarfile.SYMTYPE, "../../../../../etc/passwd"), (tarfile.DIRTYPE, "")])  # fmt: skip
def test_strange_passwd_is_no_passwd(daemon: Daemon, kind: bytes, content: str) -> None:
    """A FIFO once opened would hang; a link would name the host's users. `messagebus` and the like are only there."""
    entries = [("etc/group", tarfile.REGTYPE, "root:x:0:\n"), ("etc/passwd", kind, content)]
    image = _imported(daemon, busybox_with(entries))
    began = time.monotonic()
    assert daemon.docker("run", "--rm", "-u", "www-data", image, "id", check=None).returncode != 0
    status = daemon.docker("run", "--rm", "-u", "12345", image, "cat", "/proc/self/status").stdout
    assert b"Uid:\t12345\t12345\t12345\t12345" in status
    assert time.monotonic() - began < 20


# ---------------------------------------------------------------- A20, A22


def test_no_socket_of_the_engine_in_the_hosts_network(daemon: Daemon) -> None:
    """CVE-2020-15257. Abstract sockets go by network namespace, so one of ours would be listed."""
    daemon.docker("run", "-d", "--name", "host", "busybox", "sleep", "600")
    output = _run(daemon, "busybox", "cat /proc/net/unix; ls -l /proc/net/unix", "--network", "host")
    assert "/proc/net/unix" in output
    names = [line.split(maxsplit=7)[7] for line in output.splitlines() if len(line.split(maxsplit=7)) == 8]
    assert [name for name in names if name.startswith("@") and "sampan" in name] == []
    own = [line for line in output.splitlines() if line.split()[-1:] and line.split()[-1].startswith("@")]
    assert own == []


SIDE_CHANNELS = ("/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/sched_debug",
                 "/proc/scsi", "/proc/acpi", "/sys/firmware", "/sys/devices/virtual/powercap")  # fmt: skip


def test_side_channels_are_masked(daemon: Daemon) -> None:
    """Bites: privileged, the same look finds some of them full."""
    look = f"for p in {' '.join(SIDE_CHANNELS)} /sys/devices/system/cpu/cpu*/thermal_throttle; do" + (
        " if [ -d $p ]; then ls -A $p; elif [ -e $p ]; then head -c 64 $p; fi; done"
    )
    assert _run(daemon, "busybox", look) == ""
    assert _run(daemon, "busybox", look, "--privileged") != ""


def test_what_must_stay_readonly(daemon: Daemon) -> None:
    places = "/proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run"
    tries = f"for p in {places}; do (: > $p) 2>/dev/null && echo $p; done; true"
    assert _run(daemon, "busybox", tries) == ""
    assert _run(daemon, "busybox", tries, "--privileged") != ""


# ---------------------------------------------------------------- beyond the list


def test_no_module_of_the_image_is_imported(daemon: Daemon) -> None:
    """CVE-2019-14271's way in: what a process imports once it is in the container comes from the image, and runs with all
    rights. The image has a module for every name of the library, where the engine's own library is."""
    library = sysconfig.get_path("stdlib").lstrip("/")
    trap = "import os\nos.close(os.open('/imported', os.O_CREAT | os.O_WRONLY))\n"
    image = _imported(daemon, busybox_with([(f"{library}/{name}.py", tarfile.REGTYPE, trap) for name in sys.stdlib_module_names]))
    look = "test ! -e /imported && echo clean"
    for options in ((), ("-t",), ("-u", "1000:5"), ("-w", "/made/deep"), ("--tmpfs", "/x"), ("--sysctl", "net.ipv4.ip_forward=1")):
        assert _run(daemon, image, look, *options).strip() == "clean", options
    daemon.docker("run", "-d", "--name", "host", image, "sleep", "600")
    for arguments in (("host", "true"), ("-u", "1000", "host", "true"), ("-t", "host", "true"), ("host", "nosuch"), ("-w", "/no", "host", "true")):
        daemon.docker("exec", *arguments, check=None)
    assert daemon.docker("exec", "host", "sh", "-c", look).stdout == b"clean\n"


def test_device_of_the_image_cannot_be_opened(daemon: Daemon) -> None:
    """A node that lies in the image opens nothing; nor does one that the container makes for itself."""
    look = "for n in 'c 1 11 /kmsg' 'c 10 200 /tun'; do set -- $n; mknod $4 $1 $2 $3 && (: < $4) 2>/dev/null && echo $4; done; true"
    assert _run(daemon, "busybox", look) == ""


def test_engine_is_closed_to_who_shares_the_hosts_processes(daemon: Daemon) -> None:
    """With `--pid host` a container sees the engine's processes. It has none of their files, directories or variables."""
    daemon.docker("run", "-d", "--name", "host", "busybox", "sleep", "600")
    status = Path(f"/proc/{daemon.api('GET', '/containers/host/json')['State']['Pid']}/status").read_text()
    shim = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    look = (
        f"for p in {daemon.pid} {shim}; do test -d /proc/$p || echo missing; for name in root cwd fd/0 exe environ mem maps; do"
        " (readlink /proc/$p/$name || ls /proc/$p/$name/ || head -c 1 /proc/$p/$name) >/dev/null 2>&1 && echo open /proc/$p/$name; done; done; true"
    )
    assert _run(daemon, "busybox", look, "--pid", "host") == ""


# ---------------------------------------------------------------- A27: containers that do not want to end


FREEZE = "cd /sys/fs/cgroup/freezer && mkdir own && echo $$ > own/cgroup.procs && echo FROZEN > own/freezer.state"


@pytest.mark.parametrize("end", [("rm", "-f"), ("stop", "-t", "0")], ids=["rm", "stop"])
@pytest.mark.parametrize("runtime", ["native", "runc"])
def test_who_has_frozen_itself_is_ended(daemon: Daemon, runtime: str, end: tuple[str, ...]) -> None:
    """By v1's freezer, out of which no SIGKILL gets; pure v2 hosts have none. It once stayed for ever."""
    if "freezer" not in cgroups.detect().v1:
        return
    container = daemon.docker("run", "-d", "--privileged", "--runtime", runtime, "busybox", "sh", "-c", FREEZE).stdout.decode().strip()
    pid = daemon.api("GET", f"/containers/{container}/json")["State"]["Pid"]
    state = Path(f"/proc/{pid}/wchan")
    wait_until(lambda: state.read_text() in ("__refrigerator", "do_freezer_trap"), "it is frozen")
    daemon.docker(*end, container)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it is gone")
