"""Tenants' tokens for clients: made once, listed without their value, revoked at all hosts; and
nothing of one tenant is seen, named or guessed by another, by any route of the manager."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.core.tokens import ClusterKey
from tests.apps.manager.hosts import Host, Waiting, enrol
from tests.apps.manager.running import API, Manager, add_token, add_user, created, problem

NOBODY_S = "0" * 16
DAY = 86_400
# Fields of an answer that differ from one to the next.
OF_EACH = ("date", "connection", "x-request-id")


@pytest.fixture(scope="module")
def tenants(root: httpx.Client) -> list[str]:
    return [created(root.post("/tenants", json={"name": f"tenant-{n}"}))["id"] for n in range(2)]


@pytest.fixture(scope="module")
def cluster(root: httpx.Client) -> str:
    made: str = created(root.post("/clusters", json={"name": "first"}))["id"]
    return made


@pytest.fixture(scope="module")
def host(manager: Manager, root: httpx.Client, cluster: str) -> Iterator[Host]:
    with Host(manager, "peer") as running:
        running.join(enrol(root, "peer", cluster)["token"])
        yield running


@pytest.fixture(scope="module")
def bound(manager: Manager, root: httpx.Client, tenants: list[str]) -> Iterator[list[httpx.Client]]:
    """For each tenant somebody who may do everything there."""
    made = []
    for number, tenant in enumerate(tenants):
        add_user(root, f"of-{number}", "root", tenant=tenant)
        made.append(manager.sign_in(f"of-{number}"))
    yield made
    for client in made:
        client.close()


def key_of(host: Host) -> ClusterKey:
    """The cluster's key, as a member was given it."""
    return ClusterKey(bytes.fromhex(host.member["cluster_key"]))


def make(client: httpx.Client, **body: Any) -> dict[str, Any]:
    return created(client.post("/client-tokens", json={"name": "ci", **body}))


def test_a_token_says_who_may_do_what_and_is_told_once(
    root: httpx.Client, bound: list[httpx.Client], tenants: list[str], cluster: str, host: Host
) -> None:
    told = make(bound[0], cluster=cluster, verbs=["tasks", "content", "tasks"], days=3)
    row = told["token"]
    caller = key_of(host).check(told["value"])
    assert (caller.subject, caller.tenant, caller.token) == ("client:ci", "tenant-0", row["id"])
    assert caller.verbs == {"content", "tasks"} and not caller.role and not caller.host
    assert row["verbs"] == ["content", "tasks"] and row["actor"] == "of-0"
    assert abs(row["expires"] - time.time() - 3 * DAY) < 60
    assert bound[0].get(f"/client-tokens/{row['id']}").json() == row
    # Neither the list, nor the audit, nor the database has it.
    assert row in bound[0].get("/client-tokens").json()
    audit = root.get(f"/audit?target={row['id']}").json()
    assert [change["action"] for change in audit] == ["create"]
    assert audit[0]["actor"] == "of-0"
    secret = told["value"].rpartition(".")[2]
    assert secret not in json.dumps([audit, bound[0].get("/client-tokens").json()])


def test_without_names_it_is_for_the_only_tenant_and_cluster_there_is(
    manager: Manager, root: httpx.Client, bound: list[httpx.Client], tenants: list[str],
    cluster: str,
) -> None:  # fmt: skip
    row = make(bound[1])["token"]
    assert (row["tenant"], row["cluster"], row["verbs"]) == (tenants[1], cluster, ["content"])
    assert "tenant" in problem(root.post("/client-tokens", json={"name": "x"}), 400)
    other = created(root.post("/clusters", json={"name": "second"}))["id"]
    try:
        assert "cluster" in problem(bound[1].post("/client-tokens", json={"name": "x"}), 400)
        add_user(root, "narrow", "operator", tenant=tenants[1], cluster=cluster)
        with manager.sign_in("narrow") as narrow:
            assert make(narrow)["token"]["cluster"] == cluster
            body = {"name": "x", "cluster": other}
            problem(narrow.post("/client-tokens", json=body), 403)
    finally:
        assert root.delete(f"/clusters/{other}").status_code == 204


@pytest.mark.parametrize(
    "wrong",
    [
        {"verbs": ["pieces"]},
        {"verbs": ["*"]},
        {"verbs": ["hosts"]},
        {"verbs": ["leases"]},
        {"verbs": []},
        {"name": ""},
        {"name": "a b"},
        {"name": "host:x"},
        {"days": 0},
        {"days": 366},
        {"host": "0" * 32},
        {"tenant": ""},
    ],
)
def test_what_no_client_may_have_is_refused(bound: list[httpx.Client], wrong: Any) -> None:
    problem(bound[0].post("/client-tokens", json={"name": "ci", **wrong}), 400)


def test_nobody_makes_one_for_another_tenant(
    manager: Manager, root: httpx.Client, bound: list[httpx.Client], tenants: list[str],
    cluster: str,
) -> None:  # fmt: skip
    before = root.get("/client-tokens?per_page=100").json()
    answers = [
        bound[1].post("/client-tokens", json={"name": "x", "cluster": cluster, "tenant": one})
        for one in (tenants[0], NOBODY_S)
    ]
    # Whether there is such a tenant is not told.
    assert [problem(answer, 403) for answer in answers] == [answers[0].json()["detail"]] * 2
    with manager.with_token(add_token(bound[1], "client-tokens:read")) as reads:
        assert reads.get("/client-tokens").status_code == 200
        problem(reads.post("/client-tokens", json={"name": "x"}), 403)
    add_user(root, "looks-on", "viewer", tenant=tenants[1])
    with manager.sign_in("looks-on") as viewer:
        problem(viewer.post("/client-tokens", json={"name": "x"}), 403)
    assert root.get("/client-tokens?per_page=100").json() == before


def test_a_revoked_token_is_told_to_hosts_at_once_and_until_it_ends(
    root: httpx.Client, bound: list[httpx.Client], host: Host
) -> None:
    row = make(bound[0])["token"]
    assert row["id"] not in host.keep()["revoked"]
    waiting = Waiting(host)
    assert waiting.waits, "a new token is nothing that hosts hear of"
    assert bound[0].delete(f"/client-tokens/{row['id']}").status_code == 204
    told = waiting.end().json()
    assert row["id"] in told["revoked"] and waiting.seconds < 10
    problem(bound[0].get(f"/client-tokens/{row['id']}"), 404)
    problem(bound[0].delete(f"/client-tokens/{row['id']}"), 404)
    actions = [change["action"] for change in root.get(f"/audit?target={row['id']}").json()]
    assert actions == ["delete", "create"]


def test_what_is_revoked_stays_so_when_its_manager_is_killed(tmp_path: Path) -> None:
    with Manager(tmp_path / "data") as manager, manager.set_up() as root:
        tenant = created(root.post("/tenants", json={"name": "acme"}))["id"]
        cluster = created(root.post("/clusters", json={"name": "only"}))["id"]
        with Host(manager, "peer") as host:
            host.join(enrol(root, "peer", cluster)["token"])
            row = make(root, tenant=tenant)["token"]
            assert root.delete(f"/client-tokens/{row['id']}").status_code == 204
            manager.kill()
            manager.start()
            host.client.base_url = manager.url + API
            assert host.keep()["revoked"] == [row["id"]]


def test_a_tenant_goes_once_its_tokens_are_revoked_and_its_name_comes_back_to_nobody(
    root: httpx.Client, cluster: str
) -> None:
    """Hosts know tenants by their names, and may have their content for a month."""
    tenant = created(root.post("/tenants", json={"name": "short-lived"}))["id"]
    row = make(root, tenant=tenant, cluster=cluster)["token"]
    problem(root.delete(f"/tenants/{tenant}"), 409)
    assert root.delete(f"/client-tokens/{row['id']}").status_code == 204
    assert root.delete(f"/tenants/{tenant}").status_code == 204
    assert "deleted" in problem(root.post("/tenants", json={"name": "short-lived"}), 409)
    assert root.get("/tenants?name=short-lived").json() == []
    # Names are told apart by case, as the ids of tasks are.
    created(root.post("/tenants", json={"name": "Short-lived"}))


# ---------------------------------------------------------------------------- the other tenant


@pytest.fixture(scope="module")
def theirs(
    manager: Manager, root: httpx.Client, bound: list[httpx.Client], tenants: list[str],
    cluster: str, host: Host,
) -> dict[str, str]:  # fmt: skip
    """One of everything that there is of the first tenant, or of nobody's, by its collection."""
    job = {"kind": "find", "urls": ["http://secret.test/first"], "scope": "all-peers"}
    user = root.get("/users?name=of-0").json()[0]["id"]
    provider = {"name": "somewhere", "plugin": "cluster", "rules": []}
    role = {"name": "theirs", "permissions": ["jobs:read"]}
    made = {
        "tenants": tenants[0],
        "client-tokens": make(bound[0])["token"]["id"],
        "jobs": str(created(bound[0].post("/jobs", json=job))["id"]),
        "applications": created(
            bound[0].post("/applications", json={"tenant": tenants[0], "name": "a", "priority": 1})
        )["id"],
        "bindings": bound[0].get("/bindings").json()[0]["id"],
        "users": user,
        "clusters": cluster,
        "members": root.get("/members").json()[0]["id"],
        "enrolments": root.get("/enrolments").json()[0]["id"],
        "providers": created(root.post("/providers", json=provider))["id"],
        "tokens": created(bound[0].post("/tokens", json={"name": "t", "scopes": []}))["token"][
            "id"
        ],
        "roles": created(root.post("/roles", json=role))["id"],
        "audit": root.get("/audit?per_page=1").json()[0]["id"],
    }
    return made


def routes(manager: Manager) -> list[tuple[str, str, bool]]:
    """Method and path of every route of the manager's API, and of Harbor's; whether it takes a
    body."""
    with manager.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    found = [
        (method.upper(), path, "requestBody" in operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]
    return [*found, ("GET", "/oapi/v1/jobs/{id}", False), ("GET", "/preheats/{id}", False)]


def test_of_what_is_another_tenant_s_is_said_what_is_said_of_nothing(
    manager: Manager, root: httpx.Client, bound: list[httpx.Client], theirs: dict[str, str]
) -> None:
    """Every route that names one thing, with one that there is and one that there is not."""
    tried = set()
    for method, path, takes in routes(manager):
        if "{id}" not in path:
            continue
        segments = path.split("/")
        collection = "jobs" if "{id}" in path and "jobs" in path else segments[1]
        collection = {"preheats": "jobs"}.get(collection, collection)
        assert collection in theirs, f"say in `theirs` what another tenant has of {path}"
        body: dict[str, Any] = {"password": "correct horse"} if path.endswith("password") else {}
        if path.endswith("draining"):
            body = {"draining": True}
        there, nowhere = theirs[collection], "999999999" if collection == "jobs" else NOBODY_S
        url = str(bound[1].base_url).rstrip("/")
        if path.startswith(("/oapi", "/preheats")):
            url = f"{manager.url}/manager"
        answers = []
        for id_ in (there, nowhere):
            answer = bound[1].request(
                method,
                url + re.sub(r"{\w+}", id_, path),
                json=body if takes else None,
                headers={"if-match": "*"},
            )
            told = re.sub('"instance":"[^"]*"', "", answer.text.replace(id_, "ID"))
            kept = {n: v for n, v in answer.headers.items() if n not in OF_EACH}
            answers.append((answer.status_code, told, kept))
        assert answers[0] == answers[1], (method, path)
        # A host's own certificate is for hosts.
        good = (401,) if path.endswith("certificate") else (403, 404)
        assert answers[0][0] in good, (method, path, answers[0])
        tried.add(collection)
    assert tried == set(theirs)
    for name in ("jobs", "client-tokens", "applications", "tenants"):
        assert root.get(f"/{name}/{theirs[name]}").status_code == 200


def test_no_list_has_anything_of_another_tenant(
    manager: Manager, bound: list[httpx.Client], theirs: dict[str, str], tenants: list[str]
) -> None:
    listed = 0
    for method, path, _ in routes(manager):
        if method != "GET" or "{" in path or path.startswith(("/docs", "/openapi")):
            continue
        for query in ("?per_page=100", f"?per_page=100&tenant={tenants[0]}", ""):
            answer = bound[1].get(path + query)
            if answer.status_code >= 400:
                continue
            listed += 1
            for name, id_ in theirs.items():
                # All tenants use clusters, and say which.
                if name == "clusters" and path != "/clusters":
                    continue
                assert f'"{id_}"' not in answer.text, (path, name)
            assert "secret.test" not in answer.text and "tenant-0" not in answer.text, path
    assert listed > 10


def test_a_job_is_of_its_maker_s_tenant_and_of_no_other(
    manager: Manager, root: httpx.Client, bound: list[httpx.Client], tenants: list[str],
    cluster: str,
) -> None:  # fmt: skip
    find = {"kind": "find", "urls": ["http://origin.test/a"], "scope": "all-peers"}
    mine = created(bound[1].post("/jobs", json=find))
    assert mine["tenant"] == tenants[1]
    answers = [
        problem(bound[1].post("/jobs", json={**find, "tenant": one}), 403)
        for one in (tenants[0], NOBODY_S)
    ]
    assert len(set(answers)) == 1
    # Harbor names no tenant.
    token = add_token(bound[1], "jobs:create", "jobs:read")
    preheat = {"type": "preheat", "args": {"type": "file", "url": "http://origin.test/a"}}
    answer = httpx.post(
        f"{manager.url}/manager/oapi/v1/jobs",
        json=preheat,
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code in (200, 201), answer.text
    made = root.get(f"/jobs/{answer.json()['id']}").json()
    assert made["tenant"] == tenants[1]
    assert created(root.post("/jobs", json=find))["tenant"] is None


def test_one_tenant_s_jobs_keep_no_other_from_making_some(
    bound: list[httpx.Client], cluster: str
) -> None:
    find = {"kind": "find", "urls": ["http://origin.test/a"], "scope": "all-peers"}
    statuses = [bound[0].post("/jobs", json=find).status_code for _ in range(70)]
    assert statuses[-1] == 429
    assert bound[1].post("/jobs", json=find).status_code == 201
