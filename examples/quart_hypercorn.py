"""A peer beside a Quart app, under hypercorn as it comes.

pip install quart
HAWKER_STORAGE__DATA=./data hypercorn --bind 127.0.0.1:8000 examples.quart_hypercorn:app
curl -o file 'http://127.0.0.1:8000/hawker/peer/v1/content?url=https://example.com/file'
"""

import os
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart

from hawker.apps.mount import mount

PORT = os.environ.get("PORT", "8000")
PREFIX = "/hawker/peer"
quart = Quart(__name__)
peer = mount("peer", auth="open", advertise=f"http://127.0.0.1:{PORT}/hawker")


@quart.while_serving
async def serve_peer() -> AsyncIterator[None]:
    async with peer.lifespan():
        yield


@quart.get("/")
async def index() -> dict[str, str]:
    return {"app": "of ours"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Quart mounts no other ASGI apps: requests are told apart here."""
    if scope["type"] == "http" and scope["path"].startswith(f"{PREFIX}/"):
        below = {**scope, "root_path": scope.get("root_path", "") + PREFIX}
        await peer(below, receive, send)
    else:
        await quart(scope, receive, send)
