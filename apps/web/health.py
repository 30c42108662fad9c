"""What every listener answers: is it alive, is it ready, what does it count."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hawker.apps.web.beside import beside
from hawker.apps.web.metrics import Metric, Timings, families
from hawker.core.version import version

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

LAG_EVERY = 0.1
LAG_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1,
)  # fmt: skip


class Health:
    """The health routes of a process; `ready`, `notes` and `metrics` ask its roles."""

    def __init__(
        self,
        ready: Callable[[], bool],
        notes: Callable[[], Sequence[str]],
        metrics: Callable[[], Iterable[Metric]],
    ) -> None:
        self._ready = ready
        self._notes = notes
        self._metrics = metrics
        self._lag = Timings(LAG_BUCKETS)

    def routes(self) -> Sequence[Route]:
        return [
            Route("/healthy", self._healthy),
            Route("/readyz", self._readyz),
            Route("/metrics", self._show),
        ]

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Measure how late the event loop is, while inside."""
        async with beside(_measure(self._lag.observe)):
            yield

    async def _healthy(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        ready = self._ready()
        told: dict[str, object] = {"ready": ready, "version": version()}
        if notes := self._notes():
            told["notes"] = notes
        return JSONResponse(told, 200 if ready else 503)

    async def _show(self, request: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Response(generate_latest(self), media_type=CONTENT_TYPE_LATEST)

    def collect(self) -> Iterable[Family]:
        """The figures of this process and its roles, as Prometheus' own library takes them."""
        return families([_build(), self._lateness(), *self._metrics()])

    def _lateness(self) -> Metric:
        text = "Seconds that the event loop wakes a sleeper late."
        return Metric("histogram", "hawker_event_loop_lag_seconds", text, {(): self._lag})


def _build() -> Metric:
    versions = (version(), platform.python_version())
    text = "1, with the versions of this process."
    return Metric("gauge", "hawker_build_info", text, {versions: 1}, ("version", "python"))


async def _measure(observe: Callable[[float], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY
        await asyncio.sleep(LAG_EVERY)
        observe(max(0.0, loop.time() - due))
