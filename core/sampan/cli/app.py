"""The root command: the table of all commands, where the daemon is, and how errors are shown."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import click

from sampan.cli.client import Access
from sampan.cli.endpoint import TlsFlags
from sampan.cli.failure import CANNOT_RUN, CliError


class Entry(NamedTuple):  # named tuples, here and elsewhere in the client: a dataclass takes 0.7 ms to make at import
    """Where a command is written, as `module:function` under `sampan.cli.commands`, and its line in the help."""

    target: str
    help: str

    def load(self) -> click.Command:
        """Import it."""
        module, _, name = self.target.partition(":")
        command = getattr(__import__(f"sampan.cli.{module}", fromlist=[name]), name)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; its help needs only the table."""

    def __init__(self, name: str, table: dict[str, Entry], **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the table and of what a plugin added."""
        return [*self.table, *sorted(set(self.commands) - set(self.table))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and give one command."""
        if entry := self.table.get(cmd_name):
            return entry.load()
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one ends with a suggestion."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            if name.startswith("-"):
                raise click.NoSuchOption(name, ctx=ctx)
            import difflib

            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise CliError(
                f"'{name}' is not a command of '{ctx.command_path}'",
                remedy=f"{hint}See '{ctx.command_path} --help'",
            )
        return name, command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, importing nothing."""
        rows = [(name, entry.help) for name, entry in self.table.items()]
        rows += [(name, command.get_short_help_str()) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class RootGroup(LazyGroup):
    """The root, which asks the installed plugins about a command that it doesn't know."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and give one command, if need be a plugin's."""
        if command := super().get_command(ctx, cmd_name):
            return command
        from sampan.cli.extensions import register_commands

        register_commands(self)
        return super().get_command(ctx, cmd_name)


_CONTAINER = {
    "attach": Entry("commands.attach:attach", "Attach local standard input, output, and error streams to a running container"),
    "commit": Entry("commands.commit:commit", "Create a new image from a container's changes"),
    "create": Entry("commands.run:create", "Create a new container"),
    "diff": Entry("commands.containers:diff", "Inspect changes to files or directories on a container's filesystem"),
    "exec": Entry("commands.attach:exec_", "Execute a command in a running container"),
    "export": Entry("commands.commit:export", "Export a container's filesystem as a tar archive"),
    "inspect": Entry("commands.containers:inspect", "Display detailed information on one or more containers"),
    "kill": Entry("commands.containers:kill", "Kill one or more running containers"),
    "logs": Entry("commands.logs:logs", "Fetch the logs of a container"),
    "ls": Entry("commands.containers:ps", "List containers"),
    "pause": Entry("commands.containers:pause", "Pause all processes within one or more containers"),
    "port": Entry("commands.containers:port", "List port mappings or a specific mapping for the container"),
    "prune": Entry("commands.containers:prune", "Remove all stopped containers"),
    "rename": Entry("commands.containers:rename", "Rename a container"),
    "restart": Entry("commands.containers:restart", "Restart one or more containers"),
    "rm": Entry("commands.containers:rm", "Remove one or more containers"),
    "run": Entry("commands.run:run", "Create and run a new container from an image"),
    "start": Entry("commands.attach:start", "Start one or more stopped containers"),
    "stats": Entry("commands.stats:stats", "Display a live stream of container(s) resource usage statistics"),
    "stop": Entry("commands.containers:stop", "Stop one or more running containers"),
    "top": Entry("commands.containers:top", "Display the running processes of a container"),
    "trace": Entry("commands.trace:trace", "Show where the time of a container's start went, driver by driver"),
    "unpause": Entry("commands.containers:unpause", "Unpause all processes within one or more containers"),
    "update": Entry("commands.update:update", "Update configuration of one or more containers"),
    "wait": Entry("commands.containers:wait", "Block until one or more containers stop, then print their exit codes"),
}  # fmt: skip

_IMAGE = {
    "bootstrap": Entry("commands.images:bootstrap", "Make the embedded busybox image, without a network"),
    "history": Entry("commands.images:history", "Show the history of an image"),
    "import": Entry("commands.images:import_", "Import the contents from a tarball to create a filesystem image"),
    "inspect": Entry("commands.images:inspect", "Display detailed information on one or more images"),
    "load": Entry("commands.images:load", "Load an image from a tar archive or STDIN"),
    "ls": Entry("commands.images:images", "List images"),
    "prune": Entry("commands.images:prune", "Remove unused images"),
    "pull": Entry("commands.images:pull", "Download an image from a registry"),
    "rm": Entry("commands.images:rmi", "Remove one or more images"),
    "save": Entry("commands.images:save", "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    "tag": Entry("commands.images:tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "unpack": Entry("commands.images:unpack", "Unpack an image into a storage driver, before a container needs it"),
}  # fmt: skip

_NETWORK = {
    "connect": Entry("commands.networks:connect", "Connect a container to a network"),
    "create": Entry("commands.networks:create", "Create a network"),
    "disconnect": Entry("commands.networks:disconnect", "Disconnect a container from a network"),
    "explain": Entry("commands.networks:explain", "Say which packets reach a container, and by which rule"),
    "inspect": Entry("commands.networks:inspect", "Display detailed information on one or more networks"),
    "ls": Entry("commands.networks:ls", "List networks"),
    "prune": Entry("commands.networks:prune", "Remove all unused networks"),
    "rm": Entry("commands.networks:rm", "Remove one or more networks"),
}

_VOLUME = {
    "create": Entry("commands.volumes:create", "Create a volume"),
    "inspect": Entry("commands.volumes:inspect", "Display detailed information on one or more volumes"),
    "ls": Entry("commands.volumes:ls", "List volumes"),
    "prune": Entry("commands.volumes:prune", "Remove unused local volumes"),
    "rm": Entry("commands.volumes:rm", "Remove one or more volumes"),
}

_PLUGINS = {"ls": Entry("commands.plugins:ls", "List drivers, and plugins that are broken")}

_SYSTEM = {
    "df": Entry("commands.df:system_df", "Show disk usage"),
    "events": Entry("commands.system:events", "Get real time events from the server"),
    "fsck": Entry("commands.fsck:fsck", "Look for orphans and losses in the daemon's storage, and mend them"),
    "info": Entry("commands.system:info", "Display system-wide information"),
    "prune": Entry("commands.system:prune", "Remove unused data"),
}

_BENCH = {
    "network": Entry("commands.bench:network", "Measure network drivers side by side"),
    "storage": Entry("commands.bench:storage", "Measure storage drivers side by side"),
}

_STORAGE = {
    "check": Entry("commands.storage:check", "Look for damage in storage drivers"),
    "df": Entry("commands.df:storage_df", "Show whose every byte under the daemon's root is"),
    "ls": Entry("commands.storage:ls", "List the storage drivers, or the snapshots of one"),
    "migrate": Entry("commands.storage:migrate", "Move the files of stopped containers to another storage driver"),
}

_CHECKPOINT = {
    "create": Entry("commands.checkpoints:create", "Create a checkpoint from a running container"),
    "ls": Entry("commands.checkpoints:ls", "List checkpoints for a container"),
    "rm": Entry("commands.checkpoints:rm", "Remove a checkpoint"),
}

container = LazyGroup("container", _CONTAINER, help="Manage containers.")
checkpoint = LazyGroup("checkpoint", _CHECKPOINT, help="Manage checkpoints.")
image = LazyGroup("image", _IMAGE, help="Manage images.")
network = LazyGroup("network", _NETWORK, help="Manage networks.")
volume = LazyGroup("volume", _VOLUME, help="Manage volumes.")
plugins = LazyGroup("plugins", _PLUGINS, help="See the drivers and plugins of the daemon.", invoke_without_command=True)
system = LazyGroup("system", _SYSTEM, help="Manage Sampan.")
storage = LazyGroup("storage", _STORAGE, help="See and look after the storage drivers.")
bench = LazyGroup("bench", _BENCH, help="Measure drivers side by side, without a daemon.")


@plugins.result_callback()
@click.pass_context
def _plugins_default(ctx: click.Context, result: int | None) -> int | None:
    """Make `sampan plugins` mean `sampan plugins ls`."""
    if ctx.invoked_subcommand is None:
        command = _PLUGINS["ls"].load()
        with command.make_context("ls", [], parent=ctx) as inner:
            command.invoke(inner)
    return result


_ROOT = {
    "run": _CONTAINER["run"],
    "exec": _CONTAINER["exec"],
    "ps": _CONTAINER["ls"],
    "images": _IMAGE["ls"],
    "pull": _IMAGE["pull"],
    "version": Entry("commands.system:version", "Show the Sampan version information"),
    "info": _SYSTEM["info"],
    "container": Entry("app:container", "Manage containers"),
    "checkpoint": Entry("app:checkpoint", "Manage checkpoints"),
    "image": Entry("app:image", "Manage images"),
    "network": Entry("app:network", "Manage networks"),
    "volume": Entry("app:volume", "Manage volumes"),
    "plugins": Entry("app:plugins", "See the drivers and plugins of the daemon"),
    "system": Entry("app:system", "Manage Sampan"),
    "storage": Entry("app:storage", "See and look after the storage drivers"),
    "bench": Entry("app:bench", "Measure drivers side by side, without a daemon"),
    "daemon": Entry("daemon:daemon", "Run the Sampan daemon in the foreground"),
    **{name: _CONTAINER[name] for name in (
        "attach", "commit", "create", "diff", "export", "kill", "logs", "pause", "port", "rename", "restart", "rm", "start", "stats",
        "stop", "top", "trace", "unpause", "update", "wait")},
    **{name: _IMAGE[name] for name in ("history", "import", "load", "save", "tag")},
    "rmi": _IMAGE["rm"],
    "inspect": Entry("commands.inspect:inspect", "Return low-level information on Sampan objects"),
    "events": _SYSTEM["events"],
}  # fmt: skip


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from sampan import __version__

        print(f"Sampan version {__version__}")
        ctx.exit()


@click.group("sampan", cls=RootGroup, table=_ROOT, no_args_is_help=True)
@click.option("-H", "--host", metavar="ADDRESS", help="Daemon to talk to: unix://PATH or tcp://HOST:PORT.")
@click.option("--tls", is_flag=True, default=None, help="Use TLS; implied by --tlsverify.")
@click.option("--tlsverify", is_flag=True, default=None, help="Use TLS and verify the daemon.")
@click.option("--tlscacert", metavar="FILE", help="Trust certificates signed only by this CA.")
@click.option("--tlscert", metavar="FILE", help="Client certificate.")
@click.option("--tlskey", metavar="FILE", help="Key of the client certificate.")
@click.option("-v", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
              help="Print version information and quit.")  # fmt: skip
@click.pass_context
def root(
    ctx: click.Context,
    host: str | None,
    tls: bool | None,
    tlsverify: bool | None,
    tlscacert: str | None,
    tlscert: str | None,
    tlskey: str | None,
) -> None:
    """Run containers with an engine that you can take apart.

    The daemon's address is taken from -H, SAMPAN_HOST, DOCKER_HOST, or is unix:///run/sampan.sock.
    """
    ctx.obj = Access(host, TlsFlags(tls, tlsverify, tlscacert, tlscert, tlskey))


def run(args: list[str] | None = None) -> int:
    """Run one command line and give its exit status; every error becomes one line on standard error."""
    try:
        status = root.main(args, prog_name="sampan", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except CliError as error:
        return _fail(str(error), error.status)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "sampan"
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            print(error.format_message(), file=sys.stderr)
            return 0
        return _fail(f"{error.format_message().rstrip('.')}. See '{path} --help'", CANNOT_RUN)
    except click.ClickException as error:
        return _fail(error.format_message(), 1)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # whoever read our output has gone; Python must not fail again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        return _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)


def _fail(text: str, status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print(f"sampan: {text}", file=sys.stderr)
    return status
