"""What a caller may ask this peer to read (design: `file:` rules)."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starlette.requests import Request

from hawker.apps.web.access import is_local
from hawker.core.egress import is_loopback
from hawker.core.errors import BadRequest, Forbidden
from hawker.core.storage import Entry
from hawker.core.transfer.access import VARIANT

TICKET = "hawker-ticket"


def check_private(request: Request) -> None:
    """Raise Forbidden where header fields for an origin came to us in the clear (design:
    credentials travel over the unix socket, loopback or TLS)."""
    near = is_local(request.scope) or (
        request.client is not None and is_loopback(request.client.host)
    )
    if not near and request.url.scheme != "https":
        raise Forbidden(
            "header fields for the origin are not taken from other machines without TLS",
            hint="ask over the unix socket or loopback, or set tls.certificate on this daemon",
        )


class Tickets:
    """What proves that somebody has just been let in: a download's ticket, while it is pinned."""

    def __init__(self) -> None:
        self._held: dict[str, Entry] = {}

    @contextlib.contextmanager
    def issued(self, entry: Entry) -> Iterator[str]:
        """A ticket for private content, good while inside; empty for any other."""
        if entry.spec.variant != VARIANT:
            yield ""
            return
        ticket = secrets.token_hex(16)
        self._held[ticket] = entry
        try:
            yield ticket
        finally:
            del self._held[ticket]

    def check(self, entry: Entry, request: Request, *, token: bool) -> None:
        """Raise Forbidden for content that was read with somebody's own header fields, unless the
        caller has this user's rights (the unix socket), has shown a `token`, or has a ticket.

        Without them it is asked for by its URL and such fields, which the origin judges.
        """
        if entry.spec.variant != VARIANT or token or is_local(request.scope):
            return
        if self._held.get(request.headers.get(TICKET, "")) is entry:
            return
        raise Forbidden(
            "this content was read with its owner's credentials",
            hint="ask over the unix socket, or for the URL with credentials of your own",
        )


def check_origin(url: str, *, local: bool, roots: Sequence[str]) -> None:
    """Raise Forbidden for a `file:` URL that this caller may not have read.

    Callers on the unix socket (`local`) have this user's own rights; others reach only what lies
    below one of `roots`, symbolic links resolved. Raises BadRequest for what is no URL.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() != "file" or local:
            return
        path = Path(unquote(parts.path)).resolve()
    except ValueError as exc:
        raise BadRequest(f"{url!r} is not a URL: {exc}") from exc
    if any(path.is_relative_to(Path(root).resolve()) for root in roots):
        return
    raise Forbidden(
        f"{url} may not be read for this caller",
        hint="ask over the unix socket, or list its directory in sources.file.roots",
    )
