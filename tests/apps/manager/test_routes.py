"""Every route with every role, over a real socket, against the table that is checked in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.apps.manager.access import ROLES
from tests.apps.manager.hosts import Host, enrol
from tests.apps.manager.running import Manager, add_token, add_user, created, problem

TABLE: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("routes.toml").read_text())[
    "routes"
]
HOSTS = ("enrolment", "member")
CALLERS = ("nobody", "signed-in", "token", *HOSTS, *sorted(ROLES))

# Of the API, and not of it.
DESCRIPTION = ("/openapi.json", "/docs", "/docs.js", "/docs.css")


@pytest.fixture(scope="module")
def callers(manager: Manager, root: httpx.Client) -> Iterator[dict[str, httpx.Client]]:
    """A client for each of `CALLERS`; `token` is root's, without a scope."""
    made = {"nobody": manager.client()}
    add_user(root, "signed-in")
    made["signed-in"] = manager.sign_in("signed-in")
    made["token"] = manager.with_token(add_token(root))
    for role in ROLES:
        add_user(root, f"a-{role}", role)
        made[role] = manager.sign_in(f"a-{role}")
    cluster = created(root.post("/clusters", json={"name": "routes"}))["id"]
    made["enrolment"] = manager.with_token(enrol(root, "peer", cluster)["token"])
    with Host(manager, "peer") as host:
        made["member"] = manager.with_token(
            host.join(enrol(root, "peer", cluster)["token"])["token"]
        )
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def document(manager: Manager) -> dict[str, Any]:
    with manager.client() as client:
        told: dict[str, Any] = client.get("/openapi.json").json()
    return told


def _served(document: dict[str, Any]) -> set[str]:
    return {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
    } | {f"GET {path}" for path in DESCRIPTION}


def test_the_table_has_every_route_and_no_other(document: dict[str, Any]) -> None:
    assert set(TABLE) == _served(document)


def test_routes_take_no_other_method(manager: Manager, document: dict[str, Any]) -> None:
    with manager.client() as client:
        for path in document["paths"]:
            url = re.sub(r"{\w+}", "0", path)
            served = {m.upper() for m in document["paths"][path]}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - served:
                answer = client.request(method, url)
                problem(answer, 405)
                assert served <= {m.strip() for m in answer.headers["allow"].split(",")}


# Signing out is last: the callers are nobody after it.
ROUTES = sorted(TABLE, key=lambda route: (route == "DELETE /session", route))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("caller", CALLERS)
def test_route(route: str, caller: str, callers: dict[str, httpx.Client]) -> None:
    method, path = route.split()
    path = re.sub(r"{\w+}", "0" * 32, path)
    who = TABLE[route]
    by_hosts = who and set(who) <= set(HOSTS)
    body = {"old": "?", "password": "?" * 12} if path == "/me/password" else None
    answer = callers[caller].request(method, path, json=body)
    if caller in HOSTS and caller not in who and path not in DESCRIPTION:
        problem(answer, 403 if caller == "member" else 401)
        return
    if "anyone" in who:
        # 404: a provider that there is not.
        assert answer.status_code in (200, 400, 404), answer.text
        return
    if caller == "nobody":
        problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        return
    if by_hosts and caller not in HOSTS:
        problem(answer, 401)
        return
    if caller == "member":
        # Another host's path, and its own certificate without a request.
        assert answer.status_code in (400, 403), answer.text
        return
    known = "signed-in" in who or ("session" in who and caller != "token")
    if known or caller in who:
        # Past the check: the path names nothing, the body is empty, the old password wrong.
        good = (401,) if path == "/me/password" else (200, 204, 400, 404)
        assert answer.status_code in good, (route, caller, answer.text)
    else:
        problem(answer, 403)
