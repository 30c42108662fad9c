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

from hawker.apps.web.metrics import Metric, families
from hawker.core.version import version

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric as Family

LAG_EVERY = 0.02
LAG_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1,
)  # fmt: skip


class Health:
    """The health routes of a process; `ready` and `metrics` ask its roles."""

    def __init__(self, ready: Callable[[], bool], metrics: Callable[[], Iterable[Metric]]) -> None:
        self._ready = ready
        self._metrics = metrics
        self._registry: CollectorRegistry | None = None

    def routes(self) -> Sequence[Route]:
        return [
            Route("/healthy", self._healthy),
            Route("/readyz", self._readyz),
            Route("/metrics", self._show),
        ]

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Measure how late the event loop is, while inside."""
        from prometheus_client import CollectorRegistry, Histogram

        self._registry = CollectorRegistry()
        lag = Histogram(
            "hawker_event_loop_lag_seconds",
            "How late the event loop wakes a sleeper.",
            registry=self._registry,
            buckets=LAG_BUCKETS,
        )
        self._registry.register(_Roles(self._metrics))
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(_measure(lag.observe))
            try:
                yield
            except Exception as exc:
                # The group would wrap it, and nobody would know it by its class any more.
                failure = exc
            finally:
                measuring.cancel()
        if failure is not None:
            raise failure

    async def _healthy(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        ready = self._ready()
        return JSONResponse({"ready": ready, "version": version()}, 200 if ready else 503)

    async def _show(self, request: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        assert self._registry is not None
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class _Roles:
    """The roles' own numbers, read when somebody asks."""

    def __init__(self, metrics: Callable[[], Iterable[Metric]]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Family]:
        return families([_build(), *self._metrics()])


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
