"""What every listener answers: is it alive, is it ready, what does it count."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hawker.apps.web.beside import beside
from hawker.apps.web.metrics import Metric, Timings, families
from hawker.core.version import version

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

LAG_EVERY = 0.1
# The label of figures that are one tenant's each.
TENANT = "tenant"
LAG_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1,
)  # fmt: skip


class Health:
    """The health routes of a process; `ready`, `notes`, `metrics` and `oversees` ask its roles: who
    may not see what all tenants do is shown no figures by tenant."""

    def __init__(
        self,
        ready: Callable[[], bool],
        notes: Callable[[], Sequence[str]],
        metrics: Callable[[], Iterable[Metric]],
        oversees: Callable[[Mapping[str, Any]], Awaitable[bool]],
    ) -> None:
        self._ready = ready
        self._notes = notes
        self._metrics = metrics
        self._oversees = oversees
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

        shown = self._figures()
        if not await self._oversees(request.scope):
            shown = [metric for metric in shown if TENANT not in metric.labels]
        text = generate_latest(_Collected(shown))
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def _figures(self) -> list[Metric]:
        """The figures of this process and its roles."""
        return [_build(), self._lateness(), *self._metrics()]

    def _lateness(self) -> Metric:
        text = "Seconds that the event loop wakes a sleeper late."
        return Metric("histogram", "hawker_event_loop_lag_seconds", text, {(): self._lag})


class _Collected:
    """Figures as Prometheus' own library takes them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Family]:
        return families(self._metrics)


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
