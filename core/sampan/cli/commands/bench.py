"""`sampan bench`: drivers measured side by side, in this process and without a daemon."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sampan.cli.failure import CliError
from sampan.cli.flags import Command

if TYPE_CHECKING:
    from sampan.bench.report import Report


@click.command("storage", cls=Command)
@click.option("--drivers", default="overlayfs,btrfs,vfs", metavar="NAMES", help="Drivers, separated by commas.")
@click.option("--root", "roots", multiple=True, metavar="[DRIVER=]DIR",
              help="Directory on the file system to measure, for all drivers or for one.")  # fmt: skip
@click.option("--rounds", default=3, type=click.IntRange(1), help="How often everything is measured.")
@click.option("--files", default=20_000, type=click.IntRange(1), help="Small files in the layer.")
@click.option("--bulk", default=8, type=click.IntRange(0), help="Files of 32 MB in the layer.")
@click.option("--large", default=1024, type=click.IntRange(1), help="Megabytes of the large file that is written to.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all values there.")
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), help="Write a plot there.")
def storage(
    drivers: str,
    roots: tuple[str, ...],
    rounds: int,
    files: int,
    bulk: int,
    large: int,
    json_file: Path | None,
    svg_file: Path | None,
) -> int:
    """Measure storage drivers side by side."""
    from sampan.bench.layer import LayerSize
    from sampan.bench.storage import Plan, find, measure

    places = {name: Path(root) for name, _, root in (text.rpartition("=") for text in roots)}
    with tempfile.TemporaryDirectory(prefix="sampan-bench-", dir=places.get("")) as work:
        chosen = [find(name, places.get(name, Path(work))) for name in drivers.split(",")]
        plan = Plan(rounds=rounds, size=LayerSize(files, bulk), large=large << 20)
        done = measure(chosen, plan, Path(work), lambda text: click.echo(text, err=True))
    return _tell(done, json_file, svg_file)


@click.command("network", cls=Command)
@click.option("--drivers", default="bridge", metavar="NAMES", help="Drivers, separated by commas.")
@click.option("--opt", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the networks, as `network create -o`.")
@click.option("--rounds", default=20, type=click.IntRange(1), help="How often everything is measured.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all values there.")
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), help="Write a plot there.")
def network(
    drivers: str, options: tuple[str, ...], rounds: int, json_file: Path | None, svg_file: Path | None
) -> int:
    """Measure network drivers side by side, each on a host of its own: a network namespace."""
    from sampan.bench.network import Plan, find, measure

    given = {key: value for key, _, value in (text.partition("=") for text in options)}
    done = measure([find(name, given) for name in drivers.split(",")], Plan(rounds), lambda text: click.echo(text, err=True))
    return _tell(done, json_file, svg_file)


def _tell(done: Report, json_file: Path | None, svg_file: Path | None) -> int:
    """Print the table and write the files."""
    from sampan.bench import report

    if not any(found.seconds for found in done.measurements):
        raise CliError("none of these drivers works here: " + "; ".join(found.note for found in done.measurements))
    click.echo(report.table(done), nl=False)
    if json_file:
        json_file.write_text(report.as_json(done))
    if svg_file:
        svg_file.write_text(report.as_svg(done))
    return 0
