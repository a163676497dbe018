"""Images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from sampan.cli.client import current, filters_query, quote
from sampan.cli.failure import CliError
from sampan.cli.flags import Command, confirmed, each
from sampan.cli.listing import ellipsis, list_options, short_id
from sampan.cli.progress import show_progress
from sampan.cli.table import show, show_objects
from sampan.cli.transport import file_chunks
from sampan.cli.units import ago, human_size, local_time

_HEADERS = {
    "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID", "CreatedSince": "CREATED",
    "Size": "SIZE", "CreatedAt": "CREATED AT", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE", "VirtualSize": "VIRTUAL SIZE"
}  # fmt: skip


@click.command("images", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Show intermediate images too.")
@click.option("--digests", is_flag=True, help="Show digests.")
@list_options
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
def images(
    everything: bool,
    digests: bool,
    filters: tuple[str, ...],
    template: str | None,
    quiet: bool,
    no_trunc: bool,
    reference: str | None,
) -> None:
    """List images."""
    if reference:
        filters = (*filters, f"reference={reference}")
    found = current().get("/images/json", {"all": everything, "filters": filters_query(filters)})
    wants_digests = digests or bool(template and ".Digest" in template)
    rows = [row for item in found for row in _rows(item, no_trunc, wants_digests)]
    shown = ["Repository", "Tag", *(["Digest"] if digests else []), "ID", "CreatedSince", "Size"]
    show(rows, _HEADERS, shown, template=template, quiet="ID" if quiet else "")


def _rows(item: Mapping[str, Any], no_trunc: bool, digests: bool) -> Iterator[dict[str, Any]]:
    """Give a row for each tag of an image, and for each digest without a tag."""
    by_digest = dict(text.rpartition("@")[::2] for text in item.get("RepoDigests") or [])
    names = [text.rpartition(":")[::2] for text in item.get("RepoTags") or [] if text != "<none>:<none>"]
    names += [(name, "<none>") for name in sorted(set(by_digest) - {name for name, _ in names} - {"<none>"})]
    containers, shared = item.get("Containers", -1), item.get("SharedSize", -1)
    size = item.get("Size") or 0
    for name, tag in names or [("<none>", "<none>")]:
        yield {
            "Containers": "N/A" if containers in (-1, None) else str(containers),
            "CreatedAt": local_time(item["Created"]),
            "CreatedSince": ago(datetime.fromtimestamp(item["Created"], UTC)),
            "Digest": by_digest.get(name, "<none>") if digests else "<none>",
            "ID": short_id(item["Id"], no_trunc),
            "Repository": name,
            "SharedSize": "N/A" if shared in (-1, None) else human_size(shared),
            "Size": human_size(size),
            "Tag": tag,
            "UniqueSize": "N/A" if shared in (-1, None) else human_size(size - shared),
            "VirtualSize": human_size(size, 4),
        }


@click.command("inspect", cls=Command)
@click.option("-f", "--format", "template", metavar="FORMAT", help="json, or a Go template.")
@click.option("--platform", metavar="OS/ARCH", help="Platform of a multi-platform image.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def inspect(names: tuple[str, ...], template: str | None, platform: str | None) -> int:
    """Display detailed information on one or more images."""
    client = current()
    query = {"platform": _platform(platform)}
    found: list[Any] = []
    status = each(names, lambda name: found.append(client.get(f"/images/{quote(name)}/json", query)))
    show_objects(found, template)
    return status


def _platform(text: str | None) -> str | None:
    """Give `os/arch[/variant]` as the JSON that the API takes."""
    if text is None:
        return None
    import json

    keys = ("os", "architecture", "variant")
    return json.dumps(dict(zip(keys, text.split("/"), strict=False)))


@click.command("history", cls=Command)
@click.option("-H", "--human", is_flag=True, default=True, help="Sizes and ages for people.  [default: true]")
@click.option("--no-trunc", is_flag=True, help="Do not shorten the output.")
@click.option("-q", "--quiet", is_flag=True, help="Show only ids.")
@click.option("--format", "template", metavar="FORMAT", help="table, json, `table TEMPLATE` or a Go template.")
@click.option("--platform", metavar="OS/ARCH", help="Platform of a multi-platform image.")
@click.argument("image")
def history(image: str, human: bool, no_trunc: bool, quiet: bool, template: str | None, platform: str | None) -> None:
    """Show the history of an image."""
    rows = []
    for item in current().get(f"/images/{quote(image)}/history", {"platform": _platform(platform)}):
        text = item["CreatedBy"].replace("\t", " ")
        since = ago(datetime.fromtimestamp(item["Created"], UTC)) if item["Created"] > 0 else "N/A"
        created_at = datetime.fromtimestamp(item["Created"]).astimezone().isoformat(timespec="seconds")
        rows.append(
            {
                "Comment": item["Comment"],
                "CreatedAt": created_at.replace("+00:00", "Z"),
                "CreatedBy": text if no_trunc else ellipsis(text, 45),
                "CreatedSince": since if human else created_at.replace("+00:00", "Z"),
                "ID": "<missing>" if item["Id"] == "<missing>" else short_id(item["Id"], no_trunc),
                "Size": human_size(item["Size"]) if human else str(item["Size"]),
            }
        )
    headers = {
        "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
        "CreatedAt": "CREATED AT",
    }  # fmt: skip
    shown = ["ID", "CreatedSince", "CreatedBy", "Size", "Comment"]
    show(rows, headers, shown, template=template, quiet="ID" if quiet else "")


@click.command("rm", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Remove it though containers or tags refer to it.")
@click.option("--no-prune", is_flag=True, help="Do not delete untagged parents.")
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Remove only this platform.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def rmi(names: tuple[str, ...], force: bool, no_prune: bool, platforms: tuple[str, ...]) -> int:
    """Remove one or more images."""
    client = current()
    wanted = [text for text in map(_platform, platforms) if text]
    query: dict[str, Any] = {"force": force, "noprune": no_prune, "platforms": wanted}

    def remove(name: str) -> None:
        for item in client.delete(f"/images/{quote(name)}", query):
            for what, value in item.items():
                print(f"{what}: {value}")

    return each(names, remove)


@click.command("tag", cls=Command)
@click.argument("source", metavar="SOURCE_IMAGE[:TAG]")
@click.argument("target", metavar="TARGET_IMAGE[:TAG]")
def tag(source: str, target: str) -> None:
    """Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE."""
    repository, name = _split_tag(target)
    current().post(f"/images/{quote(source)}/tag", {"repo": repository, "tag": name})


def _split_tag(reference: str) -> tuple[str, str]:
    """Give (repository, tag), the tag "" if there is none; a colon before a slash belongs to a port."""
    folder, slash, last = reference.rpartition("/")
    name, _, tag_name = last.partition(":")
    return f"{folder}{slash}{name}", tag_name


@contextmanager
def _opened(path: str | None) -> Iterator[int]:
    """Give a descriptor of a file, or of standard input for None and `-`."""
    if path in (None, "-"):
        yield 0
        return
    assert path is not None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@click.command("import", cls=Command)
@click.option("-c", "--change", multiple=True, metavar="INSTRUCTION", help="Apply a Dockerfile instruction.")
@click.option("-m", "--message", metavar="TEXT", help="Commit message.")
@click.option("--platform", metavar="OS/ARCH", help="Platform of the image.")
@click.argument("file", metavar="FILE|URL|-")
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
def import_(
    file: str, reference: str | None, change: tuple[str, ...], message: str | None, platform: str | None
) -> None:
    """Import the contents from a tarball to create a filesystem image."""
    remote = file.startswith(("http://", "https://"))
    query = {
        "fromSrc": file if remote else "-",
        "repo": reference,
        "message": message,
        "changes": list(change),
        "platform": platform,
    }
    client = current()
    if remote:
        with client.stream("POST", "/images/create", query) as response:
            show_progress(response, sys.stdout)
        return
    with _opened(file) as fd, client.upload("/images/create", query, file_chunks(fd)) as response:
        show_progress(response, sys.stdout)


@click.command("load", cls=Command)
@click.option("-i", "--input", "path", metavar="FILE", help="Read from a file instead of STDIN.")
@click.option("--platform", metavar="OS/ARCH", help="Load only this platform.")
@click.option("-q", "--quiet", is_flag=True, help="Show only the names of images.")
def load(path: str | None, platform: str | None, quiet: bool) -> None:
    """Load an image from a tar archive or STDIN."""
    if path is None and os.isatty(0):
        raise CliError("requested load from stdin, but stdin is empty", remedy="Name the archive with -i FILE")
    query = {"quiet": "1" if quiet else "0", "platform": _platform(platform)}
    with _opened(path) as fd, current().upload("/images/load", query, file_chunks(fd)) as response:
        show_progress(response, sys.stdout)


@click.command("save", cls=Command)
@click.option("-o", "--output", "path", metavar="FILE", help="Write to a file instead of STDOUT.")
@click.option("--platform", metavar="OS/ARCH", help="Save only this platform.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def save(names: tuple[str, ...], path: str | None, platform: str | None) -> None:
    """Save one or more images to a tar archive (streamed to STDOUT by default)."""
    from sampan.cli.saving import refuse_terminal, save_body

    refuse_terminal(path)
    with current().stream("GET", "/images/get", {"names": list(names), "platform": _platform(platform)}) as response:
        save_body(response, path)


@click.command("prune", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Remove all unused images, not only untagged ones.")
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Remove only what matches.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(everything: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove unused images."""
    kind = "all images without at least one container associated to them" if everything else "all dangling images"
    if not confirmed(f"This will remove {kind}.", force):
        return
    query = {"filters": filters_query((*filters, f"dangling={'false' if everything else 'true'}"))}
    answer = current().post("/images/prune", query)
    if deleted := answer.get("ImagesDeleted"):
        print("Deleted Images:")
        for item in deleted:
            for what, value in item.items():
                print(f"{what.lower()}: {value}")
        print()
    print(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed') or 0)}")


@click.command("pull", cls=Command)
@click.option("-a", "--all-tags", is_flag=True, help="Download all tags of the repository.")
@click.option("--platform", metavar="OS/ARCH", help="Platform of the image.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show the progress.")
@click.argument("reference", metavar="NAME[:TAG|@DIGEST]")
def pull(reference: str, all_tags: bool, platform: str | None, quiet: bool) -> None:
    """Download an image from a registry."""
    repository, name = _split_tag(reference)
    if all_tags and (name or "@" in reference):
        raise CliError("tag can't be used with --all-tags/-a")
    whole = reference if all_tags or name or "@" in reference else f"{repository}:latest"
    with current().stream("POST", "/images/create", {"fromImage": whole, "platform": platform}) as response:
        show_progress(response, sys.stdout, quiet=quiet)
    print(whole)


@click.command("bootstrap", cls=Command)
@click.option("-q", "--quiet", is_flag=True, help="Do not show the progress.")
def bootstrap(quiet: bool) -> None:
    """Make the embedded busybox image, without a network."""
    with current().stream("POST", "/sampan/images/bootstrap") as response:
        show_progress(response, sys.stdout, quiet=quiet)


@click.command("unpack", cls=Command)
@click.option("-q", "--quiet", is_flag=True, help="Do not show the progress.")
@click.option("--storage-driver", metavar="DRIVER", help="Storage driver; the daemon's default if not given.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def unpack(names: tuple[str, ...], quiet: bool, storage_driver: str | None) -> int:
    """Unpack images into a storage driver. What is there already is left as it is."""
    client = current()

    def one(name: str) -> None:
        path = f"/sampan/images/{quote(name)}/unpack"
        with client.stream("POST", path, {"driver": storage_driver}) as response:
            show_progress(response, sys.stdout, quiet=quiet)

    return each(names, one)
