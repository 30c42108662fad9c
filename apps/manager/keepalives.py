"""The way of keepalives by members that are known: past routes, layers and the database.

Ten thousand of them wait at a time, and each layer that one passes is a few objects that wait with
it: what is answered here takes a fifth less memory and processor time. Everything else goes the way
of all operations, `Members.keep` among it.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hawker.apps.manager.operation import MAX_BODY, PREFIX, decode
from hawker.apps.manager.roster import Roster
from hawker.apps.manager.standing import Seat
from hawker.apps.web.problems import problem_response
from hawker.apps.web.requests import read_body
from hawker.core.errors import BadRequest, Forbidden, HawkerError
from hawker.core.membership import MEMBER_PREFIX, Keepalive

PATH = "/clusters/{cluster}/members/{host}"
_PATH = re.compile(f"^{PREFIX}/clusters/([^/]+)/members/([^/]+)$")
_BEARER = f"Bearer {MEMBER_PREFIX}".encode()


class Keepalives:
    """Answers what it can."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    async def answer(self, scope: Any, receive: Any) -> Response | None:
        """None where the request is anything else, or of anybody else; nothing was read then."""
        if scope["method"] != "PUT" or scope["query_string"]:
            return None
        path = _PATH.match(scope["path"].removeprefix(scope.get("root_path", "")))
        seat = None if path is None else self._seat(scope["headers"])
        if path is None or seat is None:
            return None
        try:
            raw = await read_body(Request(scope, receive), MAX_BODY)
            said: Keepalive = decode(raw, Keepalive)
            check_own(seat, path[1], path[2], said)
            return await self._roster.keep(seat, said)
        except HawkerError as exc:
            return problem_response(exc)

    def _seat(self, headers: Any) -> Seat | None:
        shown = [value for name, value in headers if name == b"authorization"]
        if len(shown) != 1 or not shown[0].startswith(_BEARER):
            return None
        return self._roster.known(shown[0][len(b"Bearer ") :].decode("latin-1"))


def check_own(seat: Seat, cluster: str, host: str, said: Keepalive) -> None:
    """Raise Forbidden or BadRequest where a member speaks for somebody else."""
    if (seat.cluster, seat.host) != (cluster, host):
        raise Forbidden("a member keeps itself alive, and nobody else")
    if said.kind != seat.kind:
        raise BadRequest(f"kind: this member is a {seat.kind}, not a {said.kind}")
