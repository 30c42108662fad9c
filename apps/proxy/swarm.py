"""Answers out of the swarm: the proxy as a client of its host's peer."""

from __future__ import annotations

import contextlib

import h11
import httpx

from hawker.apps.proxy.messages import as_mapping, with_via
from hawker.apps.proxy.wire import Wire
from hawker.apps.web.content import Asker, SwarmContent
from hawker.core.errors import HawkerError

# Conditions and ranges are about the content as the peer has it, which has the same validators
# wherever it is asked for.
ASKED = ("range", "if-range", "if-none-match", "if-modified-since", "if-match", "prefer")
TOLD = (
    "accept-ranges", "content-length", "content-range", "content-type", "etag", "last-modified",
    "repr-digest",
)  # fmt: skip


def can_be_asked(request: h11.Request) -> bool:
    """Nothing but the URL and an authorization decides about the answer."""
    fields = {name for name, _ in request.headers}
    return not fields & {b"cookie", b"transfer-encoding", b"content-length", b"upgrade"}


async def answer(
    client: Wire, request: h11.Request, url: str, content: SwarmContent, tenant: str, name: str
) -> bool:
    """Answer a GET with content of the swarm; False where it has none to give, and the origin is
    to be asked itself. The connection is cut where the rest of a body does not come."""
    given = as_mapping(request.headers)
    fields = {field: given[field] for field in ASKED if field in given}
    asker = Asker(tenant, given.get("authorization", ""))
    began = False
    try:
        async with content.open("GET", url, asker, fields) as found:
            head = [(n.encode(), found.headers[n].encode()) for n in TOLD if n in found.headers]
            began = True
            await client.send(
                h11.Response(
                    status_code=found.status_code,
                    headers=with_via(head, b"1.1", name),
                    reason=found.reason_phrase.encode(),
                )
            )
            async for chunk in found.aiter_raw():
                await client.send(h11.Data(data=chunk))
            await client.send(h11.EndOfMessage())
        return True
    except (HawkerError, httpx.HTTPError):
        if not began:
            return False
    # What came is not the whole.
    with contextlib.suppress(OSError):
        client.abort()
    return True
