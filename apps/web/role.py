"""The base of a role: a plain ASGI app whose resources live as long as its lifespan is entered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.routing import BaseRoute

from hawker.apps.web.application import Application
from hawker.apps.web.edge import Edge
from hawker.apps.web.metrics import Metric
from hawker.apps.web.problems import problem_response
from hawker.core.contracts import Directions
from hawker.core.errors import Unavailable


class Role:
    """Subclasses give `name`, `routes()` and `resources()`; a process of our own mounts them at
    `path`, or at `/{name}` where they have none.

    The lifespan is counted: entered twice it starts once and stops with the last. Resources run in
    one task of their own, so that whoever enters and whoever leaves may be different tasks.
    """

    name = "role"

    def __init__(self) -> None:
        self._entered = 0
        self._changing: asyncio.Lock | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None
        self._app: Any = None
        self._edge = Edge(self.name)
        self.draining = False

    def routes(self) -> Sequence[BaseRoute]:
        """The role's routes, below wherever it is mounted."""
        raise NotImplementedError(f"{type(self).__name__} has no routes")

    def app(self) -> Any:
        """The ASGI app that answers the role's requests."""
        app = Application(routes=list(self.routes()))
        # What has a slash too many is another path; nobody is sent to where Host says.
        app.router.redirect_slashes = False
        return app

    def resources(self) -> AbstractAsyncContextManager[None]:
        """What the role holds while it is started."""
        return contextlib.nullcontext()

    @property
    def ready(self) -> bool:
        """Whether the role can do its work now."""
        return self._entered > 0

    async def oversees(self, scope: Mapping[str, Any]) -> bool:
        """Whether who asks may see figures of all tenants."""
        return False

    @property
    def notes(self) -> Sequence[str]:
        """What is not as it should be, though the role does its work; it is told to anybody."""
        return ()

    def metrics(self) -> Iterable[Metric]:
        """What the role counts, for `/metrics`."""
        return self._edge.metrics()

    def drain(self) -> None:
        """The process is about to stop: end what would go on for ever, such as event streams, and
        tell those who listen to go elsewhere. Answers under way may end."""
        self.draining = True

    async def follow(self, directions: Directions) -> None:
        """What the manager of the cluster told this process; only while the role is started."""

    @property
    def started(self) -> bool:
        return self._entered > 0

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start the role, and stop it when the last one leaves; errors of the start come out."""
        await self._enter_lifespan()
        try:
            yield
        finally:
            await self._leave_lifespan()

    async def _enter_lifespan(self) -> None:
        self._changing = self._changing or asyncio.Lock()
        async with self._changing:
            if self._entered == 0:
                self.draining = False
                started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._stop = asyncio.Event()
                # In no TaskGroup: the task outlives this call; `_leave_lifespan` waits for it.
                self._runner = asyncio.ensure_future(self._hold(started, self._stop))
                try:
                    await started
                except BaseException:
                    self._runner.cancel()
                    await asyncio.gather(self._runner, return_exceptions=True)
                    raise
            self._entered += 1

    async def _hold(self, started: asyncio.Future[None], stop: asyncio.Event) -> None:
        try:
            async with self.resources():
                if not started.done():
                    started.set_result(None)
                await stop.wait()
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    async def _leave_lifespan(self) -> None:
        assert self._changing is not None
        async with self._changing:
            self._entered -= 1
            if self._entered == 0 and self._runner is not None and self._stop is not None:
                self.drain()
                self._stop.set()
                runner, self._runner = self._runner, None
                await runner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(self.lifespan, receive, send)
            return
        if not self.started:
            await self._refuse(scope, receive, send)
            return
        if self._app is None:
            self._app = self.app()
        await self._edge(self._app, scope, receive, send)

    async def _refuse(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        never = Unavailable(
            f"the role {self.name!r} was never started",
            hint="enter its lifespan() in the lifespan of the app it is mounted in",
        )
        await problem_response(never)(scope, receive, send)


async def serve_lifespan(
    lifespan: Callable[[], AbstractAsyncContextManager[None]], receive: Any, send: Any
) -> None:
    """The ASGI lifespan protocol, for a role that a server runs by itself."""
    await receive()
    stage = "startup"
    try:
        async with lifespan():
            stage = "shutdown"
            await send({"type": "lifespan.startup.complete"})
            await receive()
    except Exception as exc:
        await send({"type": f"lifespan.{stage}.failed", "message": str(exc)})
        raise
    await send({"type": "lifespan.shutdown.complete"})
