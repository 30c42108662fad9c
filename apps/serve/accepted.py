"""Serving an app on a connection that somebody else accepted, such as the inside of a tunnel."""

from __future__ import annotations

import asyncio
from typing import Any

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from hawker.apps.serve.connection import Connection
from hawker.apps.serve.server import configuration


async def serve_accepted(
    app: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one client until it is gone, by the protocol that its TLS agreed on. The app sends its
    own Date, if any."""
    loop, context = asyncio.get_running_loop(), WorkerContext(None)
    wrapped, config = wrap_app(app, 0, "asgi"), configuration(None)
    config.include_date_header = False
    await Connection(wrapped, loop, config, context, {}, reader, writer)
