"""The command line: global options, then a command with its own. A parser is made for the one command that is given."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_ROOT: Final = "/run/sampan-runtime"

_ID: Final = re.compile(r"[\w+.-]{1,1024}", re.ASCII)
_EXEC_FAILED: Final = 255
_HELP_WIDTH: Final = 110


class Command(NamedTuple):
    """A command: `target` is `module:function` in this package, `declare` gives its options, `failure` is its exit
    status when it fails itself. One that `logs` may have warnings to tell."""

    target: str
    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    failure: int = 1
    logs: bool = False
    needs_root: bool = True


class Parser(argparse.ArgumentParser):
    """No abbreviations, and exit status 1 as runc has it. Of a fixed width: argparse imports a lot to ask the terminal."""

    def __init__(self, prog: str, **attributes: Any) -> None:
        """As the parent."""
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, width=_HELP_WIDTH)
        super().__init__(prog, allow_abbrev=False, formatter_class=layout, **attributes)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def parse(line: Sequence[str]) -> argparse.Namespace:
    """Give global options, the command with its options, and what `Command` says of it, in one namespace. Ends the process for
    `--help`, `--version` and for a line that is wrong."""
    parser = _global_parser()
    options = parser.parse_args(line)
    if options.version:
        from sampan_runtime_native.cli.version import version_text

        sys.stdout.write(version_text())
        sys.exit()
    if not options.command:
        parser.print_help()
        sys.exit()
    command = COMMANDS.get(options.command)
    if command is None:
        parser.error(f"{options.command!r} is not a command; see 'sampan-runtime --help'")
    if options.systemd_cgroup:
        parser.error(
            "--systemd-cgroup: cgroups are made in the cgroup file system, not by systemd; leave it out, and set the"
            " caller to cgroupfs (dockerd: --exec-opt native.cgroupdriver=cgroupfs, podman: --cgroup-manager cgroupfs)"
        )
    own = Parser(f"{parser.prog} {options.command}", description=command.help)
    command.declare(own)
    options = own.parse_args(options.rest, options)
    options.target, options.failure, options.logs, options.needs_root = (
        command.target, command.failure, command.logs, command.needs_root,
    )  # fmt: skip
    return options


def _global_parser() -> Parser:
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:{width}}{command.help}" for name, command in COMMANDS.items())
    parser = Parser(
        "sampan-runtime",
        usage="%(prog)s [global options] command [options] [arguments]",
        epilog=f"commands:\n{listing}",
    )
    parser.add_argument(
        "--root", default=DEFAULT_ROOT, metavar="DIR", help=f"where state is kept (default {DEFAULT_ROOT})"
    )
    parser.add_argument("--log", default="", metavar="FILE", help="write the log there instead of stderr")
    parser.add_argument("--log-format", default="text", choices=("text", "json"), help="form of the log")
    parser.add_argument("--debug", action="store_true", help="log more")
    parser.add_argument("--systemd-cgroup", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--rootless", dest="for_rootless", default="auto", choices=("auto", "true", "false"), help=argparse.SUPPRESS
    )
    parser.add_argument("--criu", default="", help=argparse.SUPPRESS)
    parser.add_argument("--version", "-v", action="store_true", help="show the version")
    parser.add_argument("command", nargs="?", default="", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


# -- options of the commands


def _container(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", type=_container_id, metavar="CONTAINER")


def _container_id(text: str) -> str:
    if not _ID.fullmatch(text) or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"invalid container ID format: {text!r}")
    return text


def _process_of_caller(parser: argparse.ArgumentParser) -> None:
    """What `create`, `run` and `exec` have in common: how the new process is given to the caller."""
    parser.add_argument(
        "--console-socket", default="", metavar="PATH", help="unix socket that gets the terminal's descriptor"
    )
    parser.add_argument("--pid-file", default="", metavar="FILE", help="write the process's pid there")
    parser.add_argument(
        "--preserve-fds", type=_count, default=0, metavar="N", help="pass descriptors 3 to N+2 on as well"
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", "-b", default=".", metavar="DIR", help="directory with config.json (default: this one)"
    )
    _process_of_caller(parser)
    parser.add_argument("--no-pivot", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-new-keyring", action="store_true", help=argparse.SUPPRESS)
    _container(parser)


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", "-d", action="store_true", help="return when the program runs")
    parser.add_argument("--keep", action="store_true", help="do not delete the container when it has ended")
    parser.add_argument("--no-subreaper", action="store_true", help="leave orphaned processes to others")
    _create(parser)


def _exec(parser: argparse.ArgumentParser) -> None:
    _process_of_caller(parser)
    parser.add_argument("--process", "-p", default="", metavar="FILE", help="take the OCI process object in this file")
    parser.add_argument("--detach", "-d", action="store_true", help="return when the program runs")
    parser.add_argument("--tty", "-t", action="store_true", help="give the process a terminal")
    parser.add_argument("--cwd", default="", metavar="DIR", help="working directory in the container")
    parser.add_argument("--env", "-e", action="append", default=[], metavar="NAME=VALUE", help="set a variable")
    parser.add_argument("--user", "-u", type=_user, default=(None, None), metavar="UID[:GID]", help="run as this user")
    parser.add_argument(
        "--additional-gids", "-g", type=_count, action="append", default=[], metavar="GID", help="add a group"
    )
    parser.add_argument("--cap", "-c", action="append", default=[], metavar="CAP", help="add a capability")
    parser.add_argument("--no-new-privs", action="store_true", help="set no_new_privs")
    parser.add_argument("--apparmor", default="", metavar="PROFILE", help="AppArmor profile of the process")
    parser.add_argument("--process-label", default="", metavar="LABEL", help="SELinux label of the process")
    parser.add_argument("--ignore-paused", action="store_true", help="also in a paused container, where it waits")
    parser.add_argument("--cgroup", default="", help=argparse.SUPPRESS)
    _container(parser)
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND", help="program and its arguments")


def _user(text: str) -> tuple[int, int | None]:
    uid, colon, gid = text.partition(":")
    return _count(uid), _count(gid) if colon else None


def _kill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", "-a", action="store_true", help="to every process of the container")
    _container(parser)
    parser.add_argument("signal", nargs="?", default="TERM", help="name or number (default: TERM)")


def _delete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", "-f", action="store_true", help="kill it first; no error if there is none")
    _container(parser)


def _ps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", "-f", default="table", choices=("table", "json"), help="form of the answer")
    _container(parser)
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="PS-OPTION", help="options for ps (default: -ef)")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", "-f", default="table", choices=("table", "json"), help="form of the answer")
    parser.add_argument("--quiet", "-q", action="store_true", help="only the ids")


def _events(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stats", action="store_true", help="one reading, then end")
    parser.add_argument(
        "--interval", type=_seconds, default=5.0, metavar="TIME", help="between readings, as 500ms, 5s, 1m (default 5s)"
    )
    _container(parser)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0 such as 500ms, 5s or 1m")
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]


def _update(parser: argparse.ArgumentParser) -> None:
    from sampan_runtime_native.cli.update import declare

    declare(parser)
    _container(parser)


def _spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", "-b", default=".", metavar="DIR", help="where to write config.json (default: here)")
    parser.add_argument("--rootless", action="store_true", help=argparse.SUPPRESS)


def _nothing(_parser: argparse.ArgumentParser) -> None:
    pass


COMMANDS: Final = {
    "create": Command("creation:create", "create a container; its program waits for 'start'", _create, logs=True),
    "delete": Command("lifecycle:delete", "delete a container that has ended", _delete),
    "events": Command("events:events", "show use of resources and kills for want of memory", _events),
    "exec": Command("execution:execute", "run one more process in a container", _exec, _EXEC_FAILED, logs=True),
    "features": Command("features:features", "show what this runtime can do, as JSON", _nothing, needs_root=False),
    "kill": Command("lifecycle:kill", "send a signal to a container", _kill),
    "list": Command("reports:list_", "list containers", _list),
    "pause": Command("lifecycle:pause", "stop all processes of a container where they are", _container),
    "ps": Command("reports:ps", "show the processes of a container", _ps),
    "resume": Command("lifecycle:resume", "let a paused container go on", _container),
    "run": Command("creation:run", "create and start a container", _run, logs=True),
    "spec": Command("template:spec", "write a config.json to start from", _spec, needs_root=False),
    "start": Command("lifecycle:start", "start the program of a created container", _container),
    "state": Command("reports:state", "show the state of a container, as JSON", _container),
    "update": Command("update:update", "change limits of a container", _update),
}
