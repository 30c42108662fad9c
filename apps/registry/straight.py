"""A blob past the swarm, where the store of our peer has no room for it."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx

from hawker.apps.registry.names import Target
from hawker.apps.registry.upstream import Upstream
from hawker.apps.web.content import Asker
from hawker.apps.web.parts import send_part
from hawker.core.digests import Digest
from hawker.core.errors import DigestMismatch, OriginFailed


async def send_straight(
    upstream: Upstream, target: Target, asker: Asker, fields: dict[str, str], send: Any
) -> None:
    """Answer a GET with the whole of a blob as the upstream sends it; `asker` is
    whom it is for, `fields` are those of every answer about this blob.

    The last of it is held back until the digest is known to be right: nobody takes another for it.

    Raises:
        HawkerError: why there is none, before the answer began; DigestMismatch and OriginFailed
            in the midst of it, so that the server cuts it.
    """
    digest = Digest.parse(target.reference)
    answer = await upstream.ask("GET", target, asker, {})
    kept = {n: answer.headers[n] for n in ("content-length",) if n in answer.headers}
    head = {**fields, **kept, "content-type": "application/octet-stream"}
    raw = [(name.encode(), value.encode()) for name, value in head.items()]
    hasher, last = hashlib.new(digest.algorithm), b""
    try:
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for chunk in answer.aiter_raw():
            hasher.update(chunk)
            if last:
                await send_part(send, last)
            last = chunk
    except httpx.HTTPError as exc:
        raise OriginFailed(f"{target.upstream} broke off its answer") from exc
    finally:
        await answer.aclose()
    if hasher.hexdigest() != digest.hex:
        raise DigestMismatch(f"{target.upstream} sent something else than {target.reference}")
    await send_part(send, last, more=False)
