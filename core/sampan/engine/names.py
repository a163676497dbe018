"""Ids and names."""

from __future__ import annotations

import re
import secrets

from sampan.api.errors import InvalidArgument

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

_ADJECTIVES = (
    "agile amber ample azure bold brave breezy bright brisk calm candid clear clever crisp daring deft eager "
    "early easy fair fleet fond frank fresh gallant gentle glad golden grand happy hardy humble jolly keen "
    "kind lively loyal lucid lunar merry mild modest neat nimble noble patient placid plucky polite proud "
    "quick quiet ready sharp silver sleek smooth snug solid sound spry stable steady still stout sunny swift "
    "tidal tidy trim true trusty vivid warm witty"
).split()

_VESSELS = (
    "bark barge brig canoe caravel carrack catboat clipper cog coracle corvette cutter dhow dinghy dory "
    "felucca ferry frigate galleon galley gig gondola hoy hulk jolly junk kayak keel ketch knarr launch liner "
    "lugger packet pinnace pirogue pram proa punt quay raft rudder schooner scow shallop skiff sloop smack "
    "tender thole trawler trireme tug umiak wherry xebec yacht yawl"
).split()


def new_id() -> str:
    """Give a new object id: 64 hex digits."""
    return secrets.token_hex(32)


def random_name() -> str:
    """Give a readable name for a container that was given none."""
    return f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_VESSELS)}"


def check_name(kind: str, name: str) -> None:
    """Refuse a name that Docker refuses. Raises `InvalidArgument`."""
    if len(name) > 255 or not _VALID.match(name):
        shown = name if len(name) <= 64 else name[:64] + "…"
        raise InvalidArgument(f"Invalid {kind} name ({shown}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
