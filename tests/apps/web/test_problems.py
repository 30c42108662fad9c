"""Errors as problem documents, over a whole app and back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hawker.apps.serve import Listen, serving
from hawker.apps.web.application import Application
from hawker.apps.web.problems import problem_response
from hawker.apps.web.requests import read_body
from hawker.core.clients.http import raise_for_problem
from hawker.core.errors import BY_CODE, Busy, HawkerError, NotFound, Unauthenticated, Unavailable


def _answer(
    make: Callable[[], Exception], *, method: str = "GET", path: str = "/"
) -> httpx.Response:
    """What a client gets from a route that raises."""

    async def fail(request: Request) -> Response:
        raise make()

    app = Application(routes=[Route("/", fail)])

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path)

    return asyncio.run(main())


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=BY_CODE)
def test_each_error_comes_out_as_itself_at_the_client(kind: type[HawkerError]) -> None:
    answer = _answer(lambda: kind("what and where", hint="what to do", retry_after=0.25))
    assert answer.status_code == kind.status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"] == f"urn:hawker:problem:{kind.code}"
    assert document["title"] == kind.title
    assert document["status"] == kind.status
    with pytest.raises(kind) as caught:
        asyncio.run(raise_for_problem(answer))
    assert type(caught.value) is kind
    assert (caught.value.detail, caught.value.hint) == ("what and where", "what to do")
    assert caught.value.retry_after == 0.25


@pytest.mark.parametrize(("seconds", "field"), [(0.02, "1"), (1.0, "1"), (1.5, "2")])
def test_retry_after_is_whole_seconds_and_exact_in_the_document(seconds: float, field: str) -> None:
    response = problem_response(Busy("full", retry_after=seconds))
    assert response.headers["retry-after"] == field
    assert b'"retry_after":%s' % str(seconds).encode() in bytes(response.body)


def test_fields_without_a_value_are_left_out() -> None:
    answer = _answer(lambda: NotFound("no such task"))
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert "retry-after" not in answer.headers


def test_missing_credentials_name_the_scheme() -> None:
    answer = _answer(lambda: Unauthenticated("a token is needed"))
    assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not-found"), ("POST", "/", 405, "bad-request")],
)
def test_what_no_route_takes_is_a_problem_too(
    method: str, path: str, status: int, code: str
) -> None:
    answer = _answer(lambda: Unavailable("not reached"), method=method, path=path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:hawker:problem:{code}"
    if status == 405:
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_headers_of_an_http_error_are_kept() -> None:
    answer = _answer(lambda: HTTPException(403, "no", headers={"x-why": "because"}))
    assert (answer.status_code, answer.headers["x-why"]) == (403, "because")
    assert answer.json()["title"] == "no"


def test_fault_of_ours_tells_the_log_and_not_the_client(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = _answer(lambda: ZeroDivisionError("secret"))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "secret" in caplog.text and "GET / failed" in caplog.text


@pytest.mark.parametrize(
    ("failure", "says"),
    [(Unavailable("the origin is gone"), "GET / was cut: the origin is gone"),
     (ZeroDivisionError("secret"), "GET / failed")],
    ids=["known", "unexpected"],
)  # fmt: skip
@pytest.mark.parametrize("plain", [True, False], ids=["ASGI", "function"])
def test_answer_that_has_begun_is_cut_and_the_server_told(
    failure: Exception, says: str, plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Begun:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise failure

    async def answer(request: Request) -> Any:
        return Begun()

    app = Application(routes=[Route("/", Begun() if plain else answer)])
    sent: list[str] = []

    async def main() -> None:
        async def send(message: Any) -> None:
            sent.append(message["type"])

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        await app(scope, None, send)  # type: ignore[arg-type] # it is not read from

    with caplog.at_level(logging.INFO):
        with pytest.raises((RuntimeError, ZeroDivisionError)) as caught:
            asyncio.run(main())
    assert failure in (caught.value, caught.value.__cause__)
    assert sent == ["http.response.start", "http.response.body"]
    assert says in caplog.text


def test_answer_that_is_no_problem_is_unavailable() -> None:
    request = httpx.Request("GET", "http://x/y")
    for body in (b"<html>", b'{"type":"about:blank","title":"t","status":502}', b""):
        response = httpx.Response(502, content=body, request=request)
        with pytest.raises(Unavailable, match="answered 502"):
            asyncio.run(raise_for_problem(response))


def test_a_client_that_leaves_in_its_request_is_no_fault_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def take(request: Request) -> Response:
        try:
            return Response(await read_body(request, 1000))
        finally:
            ended.append("taken")

    app = Application(routes=[Route("/take", take, methods=["POST"])])

    async def main() -> None:
        async with serving(app, Listen("127.0.0.1", 0, tmp_path / "s.sock")) as bound:
            _, writer = await asyncio.open_connection("127.0.0.1", bound.port)
            writer.write(b"POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this")
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
            async with asyncio.timeout(5):
                while not ended:  # noqa: ASYNC110 (a list fires no event)
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)

    asyncio.run(main())
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
