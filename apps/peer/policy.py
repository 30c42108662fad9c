"""What a caller may have of this peer, and may hand to it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from starlette.requests import Request

from hawker.apps.web.access import is_local
from hawker.core.contracts import Caller
from hawker.core.egress import is_loopback
from hawker.core.errors import Forbidden
from hawker.core.storage import Entry
from hawker.core.transfer.access import restricted
from hawker.core.transfer.ground import Ground

TICKET = "hawker-ticket"


def check_private(request: Request) -> None:
    """Raise Forbidden where what an origin is to be shown came to us in the clear (design:
    credentials travel over the unix socket, loopback or TLS)."""
    near = is_local(request.scope) or (
        request.client is not None and is_loopback(request.client.host)
    )
    if not near and request.url.scheme != "https":
        raise Forbidden(
            "header fields and signatures for the origin are not taken from other machines without"
            " TLS",
            hint="ask over the unix socket or loopback, or set tls.certificate on this daemon",
        )


class Tickets:
    """What proves that somebody has just been let in: a download's ticket, while it is pinned."""

    def __init__(self) -> None:
        self._held: dict[str, Entry] = {}

    @contextlib.contextmanager
    def issued(self, entry: Entry) -> Iterator[str]:
        """A ticket for private content, good while inside; empty for any other."""
        if not restricted(entry.spec):
            yield ""
            return
        ticket = secrets.token_hex(16)
        self._held[ticket] = entry
        try:
            yield ticket
        finally:
            del self._held[ticket]

    def check(self, entry: Entry, request: Request, *, token: bool) -> None:
        """Raise Forbidden for content that was read with somebody's own header fields or signature,
        unless the caller has this user's rights (the unix socket), has shown a `token`, or has a
        ticket.

        Without them it is asked for by its URL and such credentials, which the origin judges.
        """
        if not restricted(entry.spec) or token or is_local(request.scope):
            return
        if self._held.get(request.headers.get(TICKET, "")) is entry:
            return
        raise Forbidden(
            "this content was read with its owner's credentials",
            hint="ask over the unix socket, or for the URL with credentials of your own",
        )


def offered(ground: Ground, entry: Entry, caller: Caller) -> bool:
    """Whether another host that calls may take pieces of this."""
    return entry.spec.tenant == caller.tenant and not ground.own(entry.spec)


def visible(ground: Ground, entry: Entry, caller: Caller, *, local: bool) -> bool:
    """Whether a client may know of this: it is its tenant's, and what is this machine's user's own
    is asked for over the unix socket."""
    return entry.spec.tenant == caller.tenant and (local or not ground.own(entry.spec))
