"""Client of one daemon's peer role: its downloads, tasks and content, over a unix socket or a URL.

Every failure comes out as an error of core.errors: the daemon's own problem, or Unavailable where
there is no daemon, a broken connection, or an answer that is not a daemon's.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TypeVar

import httpx
import msgspec

from hawker.core.clients.http import CONNECT_TIMEOUT, endpoint_client, raise_for_problem
from hawker.core.errors import BadRequest, Unavailable, from_problem
from hawker.core.messages import (
    Decoder,
    DownloadRequest,
    Progress,
    TaskStat,
    decode_progress,
    decode_stat,
    decode_stats,
    encode,
)

T = TypeVar("T")

ANSWER_TIMEOUT = 30.0
# After an import's last byte the daemon still brings the content to disk.
IMPORT_TIMEOUT = 600.0


class Content(msgspec.Struct, frozen=True):
    """A body on its way: `length` in bytes (None while unknown) and its chunks in order.

    The chunks end normally only where the body is whole; otherwise they raise Unavailable.
    """

    length: int | None
    chunks: AsyncIterator[bytes]


class DaemonClient:
    """Talks to the daemon at `endpoint`: the path of a unix socket, or a base URL."""

    def __init__(
        self, endpoint: str, *, token: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self.endpoint = endpoint
        self._headers = {"accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._base, self._http = endpoint_client(endpoint, tls)

    async def __aenter__(self) -> DaemonClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def download(self, request: DownloadRequest) -> AsyncIterator[AsyncIterator[Progress]]:
        """Start a download; its steps, of which the last is `done`.

        While the context is open a pinned download's content stays where it is. The steps have no
        deadline of their own: `request.timeout` binds the daemon, and the caller sets one.

        Raises:
            HawkerError: the problem that ended the download, here or from the steps.
        """
        async with self._exchange(
            "POST", "/peer/v1/downloads", content=encode(request), answer_timeout=None
        ) as response:
            # Kept here: dropped after the last step it would close the stream, and end the pin.
            chunks = response.aiter_raw()
            yield self._steps(chunks)

    async def _steps(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Progress]:
        rest = b""
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if not line.strip():
                    continue
                step = self._decoded(decode_progress, line)
                if step.problem is not None:
                    raise from_problem(step.problem)
                yield step
                if step.done:
                    return
        raise Unavailable(
            f"the daemon at {self.endpoint} went away in mid-download",
            hint="run the same command again: it continues",
        )

    @asynccontextmanager
    async def content(self, step: Progress) -> AsyncIterator[Content]:
        """The bytes of what a download, which is still open, has stored."""
        path = f"/peer/v1/tasks/{step.task}/{step.generation}/content"
        headers = _given(**{"hawker-ticket": step.ticket})
        async with self._exchange("GET", path, headers=headers, answer_timeout=None) as response:
            yield self._content(response)

    @asynccontextmanager
    async def content_of(self, request: DownloadRequest) -> AsyncIterator[Content]:
        """The bytes of a URL, in order, as they become valid; downloads what is not there.

        Of the request only its names (URL, tag, application, revision) and timeout go along.
        """
        async with self._exchange(
            "GET",
            "/peer/v1/content",
            params=_given(
                url=request.url,
                tag=request.tag,
                application=request.application,
                revision=request.revision,
            ),
            # The first byte may take as long as the whole (RFC 7240).
            headers={"prefer": f"wait={math.ceil(request.timeout)}"},
            answer_timeout=None,
        ) as response:
            yield self._content(response)

    def _content(self, response: httpx.Response) -> Content:
        length = response.headers.get("content-length")
        coding = response.headers.get("content-encoding", "identity")
        chunked = "chunked" in response.headers.get("transfer-encoding", "").lower()
        if coding != "identity" or (length is None and not chunked):
            raise Unavailable(
                f"the daemon at {self.endpoint} sent a body whose end cannot be told",
                hint="is something else between this host and the daemon?",
            )
        return Content(None if length is None else int(length), response.aiter_raw())

    async def host(self) -> str:
        """Its host's id."""
        async with self._exchange("GET", "/peer/v1/host") as response:
            return self._decoded(_decode_host, await response.aread()).host

    async def tasks(self) -> list[TaskStat]:
        """Every task the daemon stores."""
        async with self._exchange("GET", "/peer/v1/tasks") as response:
            return self._decoded(decode_stats, await response.aread())

    async def stat(self, task: str) -> TaskStat:
        """The newest generation of a task; raises NotFound."""
        async with self._exchange("GET", f"/peer/v1/tasks/{task}") as response:
            return self._decoded(decode_stat, await response.aread())

    async def remove(self, task: str) -> None:
        """Drop a task and its bytes; raises NotFound."""
        async with self._exchange("DELETE", f"/peer/v1/tasks/{task}"):
            pass

    async def import_content(
        self,
        blocks: AsyncIterable[bytes],
        size: int,
        *,
        url: str,
        tag: str = "",
        application: str = "",
    ) -> TaskStat:
        """Store `size` bytes under a URL."""
        async with self._exchange(
            "POST",
            "/peer/v1/tasks/import",
            params=_given(url=url, tag=tag, application=application),
            headers={"content-length": str(size), "content-type": "application/octet-stream"},
            content=blocks,
            answer_timeout=IMPORT_TIMEOUT,
        ) as response:
            return self._decoded(decode_stat, await response.aread())

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterable[bytes] | None = None,
        answer_timeout: float | None = ANSWER_TIMEOUT,
    ) -> AsyncIterator[httpx.Response]:
        """A request and its successful answer; what httpx raises here or within is mapped."""
        try:
            async with self._http.stream(
                method,
                self._base + path,
                params=params,
                headers={**self._headers, **(headers or {})},
                content=content,
                timeout=_timeout(answer_timeout),
            ) as response:
                await raise_for_problem(response)
                yield response
        except httpx.ConnectError as exc:
            raise Unavailable(
                f"no daemon answers at {self.endpoint}", hint="start one with `hawker up`"
            ) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            what = str(exc) or type(exc).__name__
            raise Unavailable(f"the daemon at {self.endpoint} failed: {what}") from exc

    def _decoded(self, decode: Decoder[T], raw: bytes) -> T:
        try:
            return decode(raw)
        except BadRequest as exc:
            # Their fault, not the user's.
            raise Unavailable(
                f"what {self.endpoint} sent cannot be understood: {exc.detail}",
                hint="is it a Hawker daemon with a peer?",
            ) from exc


class _Host(msgspec.Struct, frozen=True):
    host: str


_decode_host: Decoder[_Host] = Decoder(_Host)


def _timeout(answer: float | None) -> httpx.Timeout:
    return httpx.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT, read=answer)


def _given(**parameters: str) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}
