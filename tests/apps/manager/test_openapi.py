"""What the OpenAPI document says is so. `python -m tests.outside.schemathesis` asks for more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.apps.manager.running import Manager, add_user, created, problem

# They say how an answer comes, not what is in it.
UNDESCRIBED = {"date", "content-length", "content-type"}


@pytest.fixture(scope="module")
def document(manager: Manager) -> dict[str, Any]:
    with manager.client() as client:
        told: dict[str, Any] = client.get("/openapi.json").json()
    return told


@pytest.fixture(scope="module")
def tenant(root: httpx.Client) -> str:
    made: str = created(root.post("/tenants", json={"name": "described"}))["id"]
    return made


@pytest.fixture
def nobody(manager: Manager) -> Iterator[httpx.Client]:
    with manager.client() as client:
        yield client


def _described(document: dict[str, Any], path: str, answer: httpx.Response) -> None:
    """The answer's status, content type and headers are those of the document, and all of them."""
    operation = document["paths"][path][answer.request.method.lower()]
    told = operation["responses"][str(answer.status_code)]
    headers = document["components"]["headers"]
    given = {name.lower() for name in answer.headers} - UNDESCRIBED
    assert given <= {name.lower() for name in told["headers"]}
    assert {name.lower() for name in told["headers"] if headers[name]["required"]} <= given
    content = answer.headers.get("content-type")
    assert [content] == list(told["content"]) if "content" in told else content is None


def test_headers_are_described(
    document: dict[str, Any], root: httpx.Client, nobody: httpx.Client, tenant: str
) -> None:
    one = f"/tenants/{tenant}"
    for path, answer in [
        ("/tenants", root.post("/tenants", json={"name": "other"})),
        ("/tenants", root.get("/tenants")),
        ("/tenants/{id}", root.get(one)),
        ("/tenants/{id}", root.patch(one, json={}, headers={"if-match": "*"})),
        ("/tenants/{id}", root.patch(one, json={})),
        ("/tenants/{id}", root.get("/tenants/none")),
        ("/tokens", root.post("/tokens", json={"name": "t"})),
        ("/me", root.get("/me")),
        ("/me", nobody.get("/me")),
        ("/session", nobody.post("/session", json={"name": "x", "password": "y"})),
        ("/session", nobody.delete("/session")),
    ]:
        _described(document, path, answer)
    add_user(root, "signs-in")
    credentials = {"name": "signs-in", "password": "correct horse battery staple"}
    _described(document, "/session", nobody.post("/session", json=credentials))
    _described(document, "/session", nobody.delete("/session"))


def test_what_was_answered_again_has_the_same_headers(
    document: dict[str, Any], root: httpx.Client
) -> None:
    key = {"idempotency-key": "with-headers"}
    for path, body in [
        ("/tenants", {"name": "again"}),
        ("/bindings", {"user": root.get("/me").json()["user"]["id"], "role": "viewer"}),
    ]:
        headers = {"idempotency-key": f"{key}{path}".replace(" ", "")}
        first = root.post(path, json=body, headers=headers)
        again = root.post(path, json=body, headers=headers)
        assert created(first) == created(again)
        _described(document, path, again)
        for name in ("location", "etag", "cache-control"):
            assert first.headers.get(name) == again.headers.get(name)
        assert root.get(again.headers["location"].removeprefix("/manager/api/v1")).json() == (
            first.json()
        )


def test_ids_and_filters_that_are_too_long_name_nothing(root: httpx.Client, tenant: str) -> None:
    """And are no fault of the database's."""
    long = "0" * 300
    collections = ("clusters", "members", "tenants", "applications", "users", "tokens", "audit")
    for name in collections:
        problem(root.get(f"/{name}/{long}"), 404)
    problem(root.delete(f"/tenants/{long}"), 404)
    keepalive = {"kind": "peer", "url": "http://10.0.0.1:4000"}
    problem(root.put(f"/clusters/{long}/members/{'0' * 32}", json=keepalive), 404)
    for query in (f"name={long}", f"email={long}"):
        assert root.get(f"/users?{query}").json() == []
    assert root.get(f"/members?host={long}").json() == []
    assert root.get(f"/applications?tenant={long}&per_page=1").json() == []
    body = {"tenant": "0" * 33, "name": "x", "priority": 0}
    assert "$.tenant" in problem(root.post("/applications", json=body), 400)


@pytest.mark.parametrize(
    "url",
    [
        "http://[", "http://[:::]:1", "http://host:65536", "http://host:", "http://a b", "ftp://h",
        "http://h\x02", "http://h/path", "http://user@h", "http://",
    ],
)  # fmt: skip
def test_a_member_s_url_can_be_taken_apart(root: httpx.Client, url: str) -> None:
    body = {"kind": "peer", "url": url}
    assert "url" in problem(root.put(f"/clusters/0/members/{'0' * 32}", json=body), 400)


@pytest.mark.parametrize("url", ["http://h:1", "https://a-b.example.com", "http://[fe80::1]:4000"])
def test_these_can(root: httpx.Client, url: str) -> None:
    body = {"kind": "peer", "url": url}
    problem(root.put(f"/clusters/0/members/{'0' * 32}", json=body), 404)


def test_a_backslash_before_u0000_is_text(root: httpx.Client) -> None:
    made = created(root.post("/tenants", json={"name": "text", "description": r"not \u0000"}))
    assert made["description"] == r"not \u0000"
    for body in (rb'{"name": "nul", "description": "\u0000"}', rb'{"name": "nul\\\u0000"}'):
        assert "NUL" in problem(root.post("/tenants", content=body), 400)


def test_other_methods_are_told_once(root: httpx.Client) -> None:
    answer = root.put("/tenants")
    problem(answer, 405)
    assert answer.headers.get_list("allow") == ["GET, HEAD, POST"]


def test_what_filters_take_is_described_and_nothing_else_taken(
    document: dict[str, Any], root: httpx.Client
) -> None:
    parameters = document["paths"]["/members"]["get"]["parameters"]
    taken = {p["name"]: p["schema"].get("enum") for p in parameters}
    assert taken["state"] == ["active", "draining", "inactive"]
    assert taken["kind"] == ["scheduler", "seed", "peer"]
    for query in ("/members?kind=other", "/members?state=other", "/clusters?is_default=1"):
        assert "is not one of" in problem(root.get(query), 400)


def test_pages_of_roles_have_the_built_in_ones_too(root: httpx.Client) -> None:
    for name in ("b", "c"):
        created(root.post("/roles", json={"name": name, "permissions": []}))
    pages = [root.get(f"/roles?per_page=2&page={page}") for page in (1, 2, 3, 4)]
    names = [[row["name"] for row in page.json()] for page in pages]
    assert names == [["root", "operator"], ["viewer", "b"], ["c"], []]
    assert ["next" in page.links for page in pages] == [True, True, False, False]
    assert [row["name"] for row in root.get("/roles?name=viewer").json()] == ["viewer"]
