"""The lifespan of a role: counted, honest about failures, free of tasks that enter or leave it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from hawker.apps.compose import compose
from hawker.apps.web.role import Role
from hawker.core.errors import Unavailable


async def _hello(request: Request) -> Response:
    return PlainTextResponse("hello")


class Recording(Role):
    """Writes down when it starts and stops, and in which task."""

    name = "recording"

    def __init__(self, log: list[str] | None = None, name: str = "recording") -> None:
        super().__init__()
        self.log: list[str] = [] if log is None else log
        self.name = name
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.start_error: Exception | None = None
        self.stop_error: Exception | None = None
        self.noted: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        return self.noted

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/hello", _hello)]

    @contextlib.asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        self.tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        if self.start_error is not None:
            raise self.start_error
        self.log.append(f"start {self.name}")
        try:
            yield
        finally:
            self.tasks.append(asyncio.current_task())
            self.log.append(f"stop {self.name}")
            if self.stop_error is not None:
                raise self.stop_error


async def _ask(app: Any, path: str = "/hello") -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get(path)


def test_role_entered_twice_starts_once_and_stops_with_the_last() -> None:
    role = Recording()

    async def main() -> None:
        async with role.lifespan():
            async with role.lifespan():
                assert role.log == ["start recording"]
            assert role.started
            assert role.log == ["start recording"]
            assert (await _ask(role)).text == "hello"
        assert not role.started
        assert role.log == ["start recording", "stop recording"]

    asyncio.run(main())


def test_role_can_be_started_again() -> None:
    role = Recording()

    async def main() -> None:
        for _ in range(2):
            async with role.lifespan():
                assert (await _ask(role)).status_code == 200

    asyncio.run(main())
    asyncio.run(main())
    assert role.log == ["start recording", "stop recording"] * 4


def test_many_that_enter_at_once_start_it_once() -> None:
    role = Recording()

    async def use() -> None:
        async with role.lifespan():
            await asyncio.sleep(0)

    async def main() -> None:
        async with role.lifespan():
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(use())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert role.log == ["start recording", "stop recording"]


def test_role_is_entered_and_left_by_different_tasks() -> None:
    role = Recording()
    stack = contextlib.AsyncExitStack()

    async def main() -> None:
        entering = asyncio.create_task(stack.enter_async_context(role.lifespan()))
        await entering
        leaving = asyncio.create_task(stack.aclose())
        await leaving
        # Cancel scopes of the resources belong to one task, whoever enters and leaves.
        assert role.tasks[0] is role.tasks[1]
        assert role.tasks[0] not in (entering, leaving)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert role.log == ["start recording", "stop recording"]


def test_error_of_the_start_comes_out_and_the_role_can_start_later() -> None:
    role = Recording()
    role.start_error = Unavailable("the disk is away")

    async def main() -> None:
        with pytest.raises(Unavailable, match="the disk is away"):
            async with role.lifespan():
                pytest.fail("the role did not start")
        assert not role.started
        assert asyncio.all_tasks() == {asyncio.current_task()}
        role.start_error = None
        async with role.lifespan():
            assert role.started

    asyncio.run(main())
    assert role.log == ["start recording", "stop recording"]


def test_error_of_the_stop_comes_out() -> None:
    role = Recording()
    role.stop_error = Unavailable("the disk went away")

    async def main() -> None:
        with pytest.raises(Unavailable, match="went away"):
            async with role.lifespan():
                pass
        assert not role.started

    asyncio.run(main())


def test_start_that_is_given_up_leaves_nothing() -> None:
    class Slow(Recording):
        @contextlib.asynccontextmanager
        async def resources(self) -> AsyncIterator[None]:
            self.log.append("begun")
            try:
                await asyncio.sleep(60)
                yield
            finally:
                self.log.append("ended")

    role = Slow()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), role.lifespan():
                pytest.fail("the role did not start")
        assert not role.started
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert role.log == ["begun", "ended"]


def test_role_that_was_never_started_answers_with_a_problem() -> None:
    answer = asyncio.run(_ask(Recording()))
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:hawker:problem:unavailable"
    assert "'recording' was never started" in problem["detail"]
    assert "lifespan" in problem["hint"]


def test_composed_roles_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    roles = {f"/{name}": Recording(log, name) for name in ("one", "two")}
    app = compose(roles)

    async def main() -> None:
        async with app.router.lifespan_context(app):
            assert (await _ask(app, "/two/hello")).text == "hello"
            ready = (await _ask(app, "/readyz")).json()
            assert ready["ready"] is True and "notes" not in ready
            roles["/two"].noted = ["something is away"]
            ready = (await _ask(app, "/readyz")).json()
            assert ready["ready"] is True and ready["notes"] == ["something is away"]
            assert (await _ask(app, "/healthy")).text == "ok\n"
            assert "hawker_event_loop_lag_seconds" in (await _ask(app, "/metrics")).text
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert log == ["start one", "start two", "stop two", "stop one"]


def test_roles_before_one_that_fails_to_start_are_stopped() -> None:
    log: list[str] = []
    one, two = Recording(log, "one"), Recording(log, "two")
    two.start_error = Unavailable("two cannot start")
    app = compose({"/one": one, "/two": two})

    async def main() -> None:
        with pytest.raises(Unavailable, match="two cannot start"):
            async with app.router.lifespan_context(app):
                pytest.fail("the app did not start")

    asyncio.run(main())
    assert log == ["start one", "stop one"]


class Server:
    """The server's side of the ASGI lifespan protocol."""

    def __init__(self) -> None:
        self.to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def run(self, app: Any) -> asyncio.Task[None]:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
        return asyncio.ensure_future(app(scope, self.to_app.get, self.from_app.put))

    async def say(self, kind: str) -> dict[str, Any]:
        await self.to_app.put({"type": f"lifespan.{kind}"})
        async with asyncio.timeout(5):
            return await self.from_app.get()


def test_server_that_runs_a_role_alone_starts_and_stops_it() -> None:
    role = Recording()

    async def main() -> None:
        server = Server()
        running = server.run(role)
        assert await server.say("startup") == {"type": "lifespan.startup.complete"}
        assert role.started
        assert await server.say("shutdown") == {"type": "lifespan.shutdown.complete"}
        await running

    asyncio.run(main())
    assert role.log == ["start recording", "stop recording"]


@pytest.mark.parametrize("kind", ["startup", "shutdown"])
def test_server_hears_which_part_failed(kind: str) -> None:
    role = Recording()
    error = Unavailable("no luck")
    if kind == "startup":
        role.start_error = error
    else:
        role.stop_error = error

    async def main() -> None:
        server = Server()
        running = server.run(role)
        answer = await server.say("startup")
        if kind == "shutdown":
            assert answer == {"type": "lifespan.startup.complete"}
            answer = await server.say("shutdown")
        assert answer == {"type": f"lifespan.{kind}.failed", "message": "no luck"}
        with pytest.raises(Unavailable):
            await running

    asyncio.run(main())
