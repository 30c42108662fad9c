"""What each route of each role gives to a second tenant. A route, or a role, of which nothing is
said here fails the first test."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from hawker.apps.compose import compose
from hawker.apps.peer.app import PeerRole
from hawker.apps.proxy.app import ProxyRole
from hawker.apps.registry.app import RegistryRole
from hawker.apps.scheduler.app import SchedulerRole
from hawker.core.contracts import CLIENT_VERBS, RoleContext
from hawker.core.registry import PluginHost
from hawker.core.settings import load
from tests.apps.running import SPEC, TASK, Running

HIDDEN = "of what is another tenant's is said what is said of nothing"
OWN = "a list of what is the caller's tenant's"
QUOTAS = "what the caller's tenant uses of its quotas"
NAMED = "a URL names content of the caller's tenant: tests/e2e/test_tenants.py"
ROLES = "for roles of the cluster, and no client"
FIGURES = "figures by tenant are for operators: tests/e2e/test_client_tokens.py"
SUMS = "sums of what is the caller's tenant's: tests/apps/scheduler/test_window.py"
OPERATORS = "tells of all tenants, and takes a verb that no tenant's token has"
NOTHING = "tells of no content"

STATEMENTS = {
    "GET /peer/v1/tasks/{task}/{generation}/pieces/{first}-{last}": ROLES,
    "GET /peer/v1/tasks/{task}/{generation}/availability": ROLES,
    "GET /peer/v1/host": NOTHING,
    "GET /peer/v1/tasks/{task}/{generation}/content": HIDDEN,
    "GET /peer/v1/content": NAMED,
    "POST /peer/v1/downloads": NAMED,
    "GET /peer/v1/tasks": OWN,
    "POST /peer/v1/tasks/import": NAMED,
    "GET /peer/v1/tasks/{task}": HIDDEN,
    "DELETE /peer/v1/tasks/{task}": HIDDEN,
    "GET /scheduler/v1/hosts": OPERATORS,
    "PUT /scheduler/v1/hosts/{host}": ROLES,
    "DELETE /scheduler/v1/hosts/{host}": ROLES,
    "GET /scheduler/v1/hosts/{host}/decisions": ROLES,
    "POST /scheduler/v1/hosts/{host}/reports": ROLES,
    "GET /scheduler/v1/leases": ROLES,
    "GET /scheduler/v1/tenants": QUOTAS,
    "GET /scheduler/v1/tasks": OWN,
    "GET /scheduler/v1/tasks/{task}": HIDDEN,
    "DELETE /scheduler/v1/tasks/{task}": HIDDEN,
    "GET /scheduler/v1/tasks/{task}/events": HIDDEN,
    "GET /scheduler/v1/overview": SUMS,
    "ANY /registry/{path:path}": NAMED,
    "GET /healthy": NOTHING,
    "GET /readyz": NOTHING,
    "GET /metrics": FIGURES,
}
# The manager's are tried in tests/apps/manager/test_client_tokens.py.
ELSEWHERE = {"manager"}


def of(*kinds: str) -> list[str]:
    return [route for route, kind in STATEMENTS.items() if kind in kinds]


def test_something_is_said_of_every_route(tmp_path: Path) -> None:
    settings = load({"storage.data": str(tmp_path)}, environ={}).settings
    plugins = PluginHost(settings)

    async def advertise() -> str:
        return "http://127.0.0.1:1"

    context = RoleContext(settings, plugins, advertise, open=True, beside=("peer",))
    roles = [PeerRole(context), SchedulerRole(context), RegistryRole(context), ProxyRole(context)]
    assert {role.name for role in roles} | ELSEWHERE == set(plugins.names("hawker.roles"))
    routes = [(f"/{role.name}{route.path}", route) for role in roles for route in _of(role)]
    routes += [(route.path, route) for route in compose({}).routes if isinstance(route, Route)]
    found = set()
    for path, route in routes:
        found |= {f"{method} {path}" for method in (route.methods or {"ANY"}) - {"HEAD"}}
    assert found == set(STATEMENTS)


def _of(role: Any) -> list[Route]:
    routes = list(role.routes())
    assert all(isinstance(route, Route) for route in routes)
    return routes


@pytest.fixture(scope="module")
def second(closed: Running) -> Iterator[httpx.Client]:
    """A client of a second tenant's, with all verbs that such a one may have. What is stored is the
    first one's."""
    token = closed.key.mint_for_client("ci", CLIENT_VERBS, tenant="second", lifetime=600)
    fields = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=closed.url, headers=fields, timeout=20, trust_env=False) as client:
        yield client


def ask(closed: Running, client: httpx.Client, route: str, **names: str) -> httpx.Response:
    method, path = route.split()
    given = {"task": TASK, "generation": closed.generation, "host": closed.host.host}
    path = path.format(**{**given, "first": "0", "last": "0", **names})
    return client.request(method, path)


@pytest.mark.parametrize("route", of(HIDDEN))
def test_of_another_tenant_s_is_said_what_is_said_of_nothing(
    route: str, closed: Running, second: httpx.Client
) -> None:
    answers = []
    for task, generation in ((TASK, closed.generation), ("e" * 64, "e" * 16)):
        answer = ask(closed, second, route, task=task, generation=generation)
        text = answer.text.replace(task, "TASK").replace(generation, "GENERATION")
        answers.append((answer.status_code, re.sub("request:[0-9a-f]+", "", text)))
    assert answers[0] == answers[1]
    closed.check()


@pytest.mark.parametrize("route", of(OWN))
def test_lists_have_the_caller_s_own_alone(
    route: str, closed: Running, second: httpx.Client
) -> None:
    answer = ask(closed, second, route)
    assert (answer.status_code, answer.json()) == (200, [])
    path = route.split()[1]
    assert TASK in closed.send("GET", path, token="tasks").text


@pytest.mark.parametrize("route", of(QUOTAS))
def test_quotas_are_shown_to_their_tenant_alone(
    route: str, closed: Running, second: httpx.Client
) -> None:
    answer = ask(closed, second, route)
    assert (answer.status_code, answer.json()) == (200, [])
    token = closed.key.mint_for_client("ci", ["tasks"], tenant="acme", lifetime=600)
    fields = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=closed.url, headers=fields, timeout=20, trust_env=False) as acme:
        assert [usage["tenant"] for usage in ask(closed, acme, route).json()] == ["acme"]


@pytest.mark.parametrize("route", of(ROLES, OPERATORS))
def test_no_client_is_let_in(route: str, closed: Running, second: httpx.Client) -> None:
    assert ask(closed, second, route).status_code == 403
    verb = {"pieces/{first}-{last}": "pieces", "availability": "pieces", "{host}": "announce"}
    wanted = verb.get(route.rpartition("/")[2]) or route.rpartition("/")[2].removesuffix("s")
    for verbs in (["*"], [wanted, f"{wanted}s"]):
        token = closed.key.mint_for_client("ci", verbs, tenant="default", lifetime=600)
        fields = {"authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=closed.url, headers=fields, timeout=20, trust_env=False
        ) as client:
            answer = ask(closed, client, route)
        # Whoever holds the cluster's key makes operators' tokens, too; a tenant's cannot have it.
        assert answer.status_code == (200 if STATEMENTS[route] == OPERATORS else 403)


@pytest.mark.parametrize("route", of(NOTHING))
def test_what_anybody_is_told_names_no_content(
    route: str, closed: Running, second: httpx.Client
) -> None:
    answer = ask(closed, second, route)
    assert answer.status_code == 200
    told = answer.text
    assert SPEC.url not in told and TASK not in told and closed.generation not in told
    assert "imported" not in told


def test_what_others_do_takes_no_place_in_a_tenant_s_list(closed: Running) -> None:
    """Else a short list without one's own would tell that somebody does something."""
    verbs = ("tasks", "tasks:import")
    for tenant in ("third", "fourth"):
        token = closed.key.mint_for_client("ci", verbs, tenant=tenant, lifetime=600)
        query = {"url": f"http://origin.test/{tenant}"}
        fields = {"authorization": f"Bearer {token}"}
        path = "/peer/v1/tasks/import"
        answer = closed.client.post(path, content=b"x", headers=fields, params=query)
        assert answer.status_code == 200, answer.text
        if tenant == "third":
            first = fields

    def listed(fields: dict[str, str]) -> list[str]:
        answer = closed.client.get("/scheduler/v1/tasks?limit=1", headers=fields)
        return [line["tenant"] for line in answer.json()]

    until = time.monotonic() + 20
    while listed(fields) != ["fourth"]:
        assert time.monotonic() < until, "the scheduler hears of what was imported last"
        time.sleep(0.05)
    assert listed(first) == ["third"]
