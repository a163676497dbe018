"""Our accept in Docker's chain for rules of the user, where the administrator asks for it (`docker_user` in the settings).

Two rules per bridge, written so that iptables can read them, and known by their comment. Docker leaves the chain alone. It is the one
place where anything is written that is not in our table.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sampan.linux.nftables import Nftables, NftError
from sampan_network_bridge.obstacles import DOCKER_USER

TABLES = ("ip filter", "ip6 filter")


def keep(engine_id: str, bridges: Collection[str]) -> None:
    """Have an accept for exactly these bridges, by difference; where there is no such chain, nothing. Raises `NftError`."""
    nft = Nftables()
    try:
        for table in TABLES:
            if commands := change(table, _ours(nft, table, engine_id), engine_id, bridges):
                nft.run(commands)
    finally:
        nft.close()


def _ours(nft: Nftables, table: str, engine_id: str) -> dict[tuple[str, str], int] | None:
    """Give our rules, (link's key, link) → handle; None where the chain is not there."""
    try:
        listed = nft.list(f"chain {table} {DOCKER_USER}")
    except NftError:
        return None
    rules = [item["rule"] for item in listed if "rule" in item]
    return {_asked(rule["expr"]): rule["handle"] for rule in rules if rule.get("comment") == comment(engine_id)}


def _asked(expressions: list[dict[str, Any]]) -> tuple[str, str]:
    match = expressions[0]["match"]
    return match["left"]["meta"]["key"], match["right"]


def comment(engine_id: str) -> str:
    """Give the comment that tells our rules."""
    return f"sampan {engine_id}"


def change(table: str, there: dict[tuple[str, str], int] | None, engine_id: str, bridges: Collection[str]) -> str:
    """Give the commands that make what is there what should be, "" for nothing to do."""
    if there is None:
        return ""
    wanted = {(key, bridge) for bridge in sorted(bridges) for key in ("iifname", "oifname")}
    return "".join(
        [
            f'insert rule {table} {DOCKER_USER} {key} "{bridge}" counter accept comment "{comment(engine_id)}"\n'
            for key, bridge in sorted(wanted - set(there))
        ]
        + [f"delete rule {table} {DOCKER_USER} handle {handle}\n" for asked, handle in there.items() if asked not in wanted]
    )
