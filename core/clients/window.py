"""Looks through the window of a scheduler, or of a manager's cluster: both have the same paths."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

from hawker.core.clients.events import Splitter
from hawker.core.clients.http import raise_for_problem
from hawker.core.errors import Unavailable
from hawker.core.window import (
    ClusterOverview,
    TaskDetail,
    TaskLine,
    decode_detail,
    decode_lines,
    decode_overview,
)

CONNECT = 3.0
SILENCE = 30.0
MAX_ANSWER = 64 * 1024 * 1024


class WindowClient:
    """`base` is the URL that `/tasks` and `/overview` are below.

    Every method raises the HawkerError that the other side answers with, Unavailable where it
    cannot be reached or is silent.
    """

    def __init__(self, base: str, client: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
        self._base = base.rstrip("/")
        self._client = client
        self._headers = dict(headers)

    def by(self, client: httpx.AsyncClient) -> WindowClient:
        """The same with another client's connections."""
        return WindowClient(self._base, client, self._headers)

    async def overview(self, tenant: str = "") -> ClusterOverview:
        return decode_overview(await self._get("/overview", _named(tenant=tenant)))

    async def tasks(self, **query: Any) -> list[TaskLine]:
        """Tasks in a line; `query` as the other side takes it."""
        return decode_lines(await self._get("/tasks", query))

    async def task(self, task: str, *, members: bool = True) -> TaskDetail:
        query = {} if members else {"members": "false"}
        return decode_detail(await self._get(f"/tasks/{task}", query))

    async def events(self, task: str, *, replay: bool = False) -> AsyncGenerator[bytes, None]:
        """A task's frames, encoded, as they come; empty where none did for a while."""
        query = {"replay": "true"} if replay else {}
        timeout = httpx.Timeout(SILENCE, connect=CONNECT)
        try:
            async with self._client.stream(
                "GET",
                f"{self._base}/tasks/{task}/events",
                params=query,
                headers=self._headers,
                timeout=timeout,
            ) as response:
                await raise_for_problem(response)
                splitter = Splitter()
                async for chunk in response.aiter_raw():
                    events = splitter.feed(chunk)
                    for event in events:
                        yield event.data
                    if not events:
                        yield b""
        except httpx.HTTPError as exc:
            raise self._unreached(exc) from exc

    async def _get(self, path: str, query: Mapping[str, Any]) -> bytes:
        url = f"{self._base}{path}"
        body = bytearray()
        try:
            async with self._client.stream(
                "GET", url, params=dict(query), headers=self._headers
            ) as response:
                await raise_for_problem(response)
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise Unavailable(f"{url} answered with more than {MAX_ANSWER} bytes")
        except httpx.HTTPError as exc:
            raise self._unreached(exc) from exc
        return bytes(body)

    def _unreached(self, exc: httpx.HTTPError) -> Unavailable:
        return Unavailable(f"{self._base} cannot be reached: {exc or type(exc).__name__}")


def _named(**query: str) -> dict[str, str]:
    return {name: value for name, value in query.items() if value}
