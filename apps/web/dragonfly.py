"""The header fields by which Dragonfly's clients say what they want of a proxy or mirror.

They are between the client and us: no origin is shown them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hawker.core.errors import (
    BadRequest,
    Forbidden,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
    Unauthenticated,
)
from hawker.core.ids import MAX_FIELD_LENGTH
from hawker.core.priorities import LAST, LEVELS

PREFIX = "x-dragonfly-"
# Of answers out of the swarm, and of our own refusals.
TASK = "x-dragonfly-task-id"
FINISHED = "x-dragonfly-task-download-finished"
ERROR_TYPE = "x-dragonfly-error-type"

# They name paths of this machine, which no proxy writes to for its clients.
_PATHS = ("output-path", "force-hard-link")


class Wishes(msgspec.Struct, frozen=True):
    """What a request wants. `swarm` is None where the rules decide; `priority` is 0 to 6 (see
    `hawker.core.priorities`), None where none is named; `registry` the upstream of a mirror, as a
    name or URL."""

    tag: str = ""
    application: str = ""
    priority: int | None = None
    filtered: tuple[str, ...] = ()
    swarm: bool | None = None
    prefetch: bool = False
    registry: str = ""


NOTHING = Wishes()


def wishes_of(fields: Mapping[str, str]) -> Wishes:
    """The wishes in a request's fields, by lower-case name. Fields for which there is no such
    notion here (pieces' lengths, other ways to make ids) are ignored.

    Raises:
        BadRequest: a value makes no sense, or names a path of this machine.
    """
    given = {n.removeprefix(PREFIX): v.strip() for n, v in fields.items() if n.startswith(PREFIX)}
    if not given:
        return NOTHING
    for name in _PATHS:
        if given.get(name, "").lower() not in ("", "false"):
            raise _wrong(name, "files are not written for clients of a proxy")
    filtered = given.get("filtered-query-params", "")
    return Wishes(
        tag=_text(given, "tag"),
        application=_text(given, "application"),
        priority=_priority(given),
        filtered=tuple(name.strip() for name in filtered.split(",") if name.strip()),
        swarm=_choice(given, "use-p2p"),
        prefetch=_choice(given, "prefetch") or False,
        registry=given.get("registry", ""),
    )


def error_type(error: HawkerError) -> str:
    """Whose failure it is: `backend` is the origin, `proxy` what was asked of us, `dfdaemon` all
    else of ours."""
    if isinstance(error, OriginFailed | OriginRefused | OriginChanged | NotFound):
        return "backend"
    if isinstance(error, BadRequest | Forbidden | Unauthenticated):
        return "proxy"
    return "dfdaemon"


def swarm_fields(found: Mapping[str, str]) -> dict[str, str]:
    """What an answer of the peer says of the task, as these clients know it."""
    told = {TASK: found.get("hawker-task", ""), FINISHED: found.get("hawker-complete", "")}
    return {name: value for name, value in told.items() if value}


def _text(given: Mapping[str, str], name: str) -> str:
    value = given.get(name, "")
    if len(value) > MAX_FIELD_LENGTH:
        raise _wrong(name, f"it has more than {MAX_FIELD_LENGTH} characters")
    return value


def _priority(given: Mapping[str, str]) -> int | None:
    value = given.get("priority")
    if value is None:
        return None
    if value not in {str(level) for level in LEVELS}:
        raise _wrong("priority", f"{value[:40]!r} is not 0 to {LAST}")
    return int(value)


def _choice(given: Mapping[str, str], name: str) -> bool | None:
    if name not in given:
        return None
    value = given[name].lower()
    if value not in ("true", "false"):
        raise _wrong(name, f"{value[:40]!r} is not true or false")
    return value == "true"


def _wrong(name: str, why: str) -> BadRequest:
    return BadRequest(f"X-Dragonfly-{name.title()}: {why}")
