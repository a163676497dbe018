"""Flags as docker's parser takes them, and the option types that commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import click

from sampan.cli.failure import CANNOT_RUN, CliError
from sampan.cli.units import parse_duration, parse_size

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class Command(click.Command):
    """A command that also takes `--flag=true|false` and `-x=value`, as Go's pflag does, and counts its arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; raises `click.UsageError` for a bad flag and `CliError` for too few or too many arguments."""
        asked_help = bool({"--help", "-h"} & set(ctx.help_option_names) & set(args))
        plain, chosen = self._split_switches(args, ctx.allow_interspersed_args)
        try:
            rest = super().parse_args(ctx, plain)
        except click.MissingParameter as error:
            if isinstance(error.param, click.Option):
                raise
            raise self._argument_error(ctx, "requires more arguments", error) from error
        except click.UsageError as error:
            if "unexpected extra argument" in str(error) and not asked_help:
                raise self._argument_error(ctx, "got more arguments than it takes", error) from error
            raise
        ctx.params.update(chosen)
        return rest

    def _argument_error(self, ctx: click.Context, what: str, error: click.UsageError) -> CliError:
        usage = self.get_usage(ctx).removeprefix("Usage: ")
        return CliError(
            f"'{ctx.command_path}' {what}",
            remedy=f"Usage: {usage}. See '{ctx.command_path} --help'",
            status=1,
        )

    def _split_switches(self, args: list[str], interspersed: bool) -> tuple[list[str], dict[str, bool]]:
        """Take `--switch=BOOL` out of the options; what comes after the first argument may not be ours."""
        options = {name: param for param in self.params if isinstance(param, click.Option) for name in param.opts}
        plain: list[str] = []
        chosen: dict[str, bool] = {}
        rest = iter(args)
        for arg in rest:
            if arg == "--" or (not arg.startswith("-") or arg == "-") and not interspersed:
                return [*plain, arg, *rest], chosen
            name, has_value, value = arg.partition("=")
            option = options.get(name)
            if option and option.is_flag and has_value:
                assert option.name
                chosen[option.name] = _parse_bool(name, value)
                continue
            if option and has_value and not name.startswith("--"):
                plain += [name, value]
                continue
            plain.append(arg)
            if not has_value and _takes_next(arg, options):
                plain += _one(rest)
        return plain, chosen


def _parse_bool(name: str, text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise CliError(f'invalid argument "{text}" for "{name}" flag: it is a switch, true or false', status=CANNOT_RUN)


def _takes_next(arg: str, options: dict[str, click.Option]) -> bool:
    """Tell whether the value of the option `arg`, maybe a bundle like `-itv`, is the next argument."""
    if arg in options:
        return not options[arg].is_flag
    if arg.startswith("--"):
        return False
    for at, letter in enumerate(arg[1:], start=2):
        option = options.get(f"-{letter}")
        if option is None:
            return False
        if not option.is_flag:
            return at == len(arg)
    return False


def _one(rest: Iterator[str]) -> list[str]:
    return [value for value in [next(rest, None)] if value is not None]


def size(value: str | int) -> int:
    """Option type: bytes, from `64m` and the like; `-1` stays -1."""
    if isinstance(value, int):
        return value
    if value == "-1":
        return -1
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def duration(value: str | int) -> int:
    """Option type: nanoseconds, from a Go duration such as `1m30s`."""
    if isinstance(value, int):
        return value
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def nano_cpus(value: str | int) -> int:
    """Option type: billionths of a CPU, from a decimal number of CPUs."""
    if isinstance(value, int):
        return value
    whole, _, fraction = value.partition(".")
    digits = whole + fraction.ljust(9, "0")
    if not (digits.isascii() and digits.isdigit()):
        raise click.BadParameter(f"{value!r} is not a number of CPUs")
    if len(fraction) > 9:
        raise click.BadParameter(f"{value!r} is too precise: at most nine digits")
    return int(digits)


def confirmed(question: str, force: bool) -> bool:
    """Ask before something is deleted for good; no is the default."""
    if force:
        return True
    print(f"WARNING! {question}")
    try:
        return input("Are you sure you want to continue? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def each(names: tuple[str, ...], action: Callable[[str], object]) -> int:
    """Do `action(name)` for each name; print each error and go on. Gives the exit status."""
    status = 0
    for name in names:
        try:
            action(name)
        except CliError as error:
            sys.stdout.flush()
            print(f"sampan: {error}", file=sys.stderr)
            status = 1
    return status
