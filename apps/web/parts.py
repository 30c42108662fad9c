"""Parts of a body, each sent before the next is looked for."""

from __future__ import annotations

import asyncio
from typing import Any

# Seconds that a client may take for a part; of a mebibyte that is 9 KB/s. Our own server cuts
# whoever takes nothing at all sooner.
SLOW_CLIENT = 120.0


async def send_part(send: Any, data: bytes, *, more: bool = True) -> None:
    """A part of a body; raises TimeoutError where the client did not take it within 120 s."""
    async with asyncio.timeout(SLOW_CLIENT):
        await send({"type": "http.response.body", "body": data, "more_body": more})
