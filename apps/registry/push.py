"""Write-through: what a client pushes or deletes goes to the upstream as it is."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import httpx
from starlette.requests import Request

from hawker.apps.registry.names import Target
from hawker.apps.registry.upstream import Upstream, challenge_of, through_here
from hawker.apps.web.content import Asker
from hawker.apps.web.disconnect import until_disconnected
from hawker.apps.web.parts import send_part
from hawker.core.errors import OriginFailed

# Fields of a push that its upstream needs, and of the answer that the client does.
ASKING = ("content-type", "content-length", "content-range", "accept", "range")
ANSWERING = (
    "content-type", "content-length", "docker-content-digest", "docker-upload-uuid", "range",
    "oci-subject", "oci-chunk-min-length", "oci-tag", "docker-distribution-api-version",
    "retry-after",
)  # fmt: skip

MAX_DELETED = 16_384


class Deleted:
    """What was deleted through this mirror: the swarm has it still, so the upstream is asked.

    Kept in memory, for the last 16384 deletions.
    """

    def __init__(self) -> None:
        self._urls: OrderedDict[str, None] = OrderedDict()

    def note(self, target: Target) -> None:
        self._urls[target.url] = None
        if len(self._urls) > MAX_DELETED:
            self._urls.popitem(last=False)

    async def check(self, upstream: Upstream, target: Target, asker: Asker) -> None:
        """Raise what the upstream says where this was deleted, and not pushed again since."""
        if target.url in self._urls:
            answer = await upstream.ask("HEAD", target, asker, {})
            await answer.aclose()
            self._urls.pop(target.url, None)


async def hand_on(
    upstream: Upstream,
    deleted: Deleted,
    target: Target,
    shown: str,
    request: Request,
    receive: Any,
    send: Any,
) -> None:
    """Answer a push with what the upstream says to it; `shown` is what the client shows there.

    Raises:
        OriginFailed: the upstream cannot be reached, or breaks off.
    """
    fields = {name: request.headers[name] for name in ASKING if name in request.headers}
    fields["accept-encoding"] = "identity"
    if shown:
        fields["authorization"] = shown
    bodiless = request.headers.get("content-length", "0") == "0" and (
        "transfer-encoding" not in request.headers
    )
    content = None if bodiless else request.stream()
    url = target.asked(request.url.query)
    answer = await upstream.hand_on(request.method, url, fields, content)
    if request.method == "DELETE" and (answer.is_success or answer.status_code == 404):
        deleted.note(target)
    head = {name: answer.headers[name] for name in ANSWERING if name in answer.headers}
    if "location" in answer.headers:
        head["location"] = through_here(answer.headers["location"], target)
    head |= challenge_of(answer, target)
    raw = [(name.encode(), value.encode()) for name, value in head.items()]

    async def body() -> None:
        await send({"type": "http.response.start", "status": answer.status_code, "headers": raw})
        try:
            async for chunk in answer.aiter_raw():
                await send_part(send, chunk)
        except httpx.HTTPError as exc:
            raise OriginFailed(f"{target.upstream} broke off its answer") from exc
        await send({"type": "http.response.body", "body": b""})

    try:
        await until_disconnected(receive, body())
    finally:
        await answer.aclose()
