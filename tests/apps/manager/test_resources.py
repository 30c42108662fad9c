"""Clusters, tenants, applications and members: what is taken, how lists are paged, and that two
changes do not undo each other."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.apps.manager.running import Manager, add_token, add_user, created, problem


def test_a_cluster_is_created_read_changed_and_deleted(root: httpx.Client) -> None:
    wanted = {
        "name": "frankfurt",
        "scopes": {
            "idcs": ["fra1", "fra2"],
            "locations": ["eu|de"],
            "cidrs": ["10.0.0.0/8"],
            "hostnames": ["*.fra.example.com", "one"],
        },
        "schedulers": {"origin_reads": 8},
        "peers": {"upload_slots": 4},
    }
    answer = root.post("/clusters", json=wanted)
    made = created(answer)
    assert answer.headers["location"] == f"/manager/api/v1/clusters/{made['id']}"
    assert made.items() >= wanted.items()
    url = f"/clusters/{made['id']}"
    read = root.get(url)
    assert read.json() == made and read.headers["etag"] == '"1"'
    change = {"schedulers": {"readers": 2}, "description": "by the river"}
    answer = root.patch(url, json=change, headers={"if-match": '"1"'})
    assert answer.status_code == 200 and answer.headers["etag"] == '"2"'
    assert answer.json() == {**made, **change, "revision": 2}
    assert root.get(url).json() == answer.json()
    assert root.delete(url, headers={"if-match": '"1"'}).status_code == 412
    assert root.delete(url).status_code == 204
    problem(root.get(url), 404)
    audit = root.get("/audit", params={"target": made["id"]}).json()
    assert [entry["action"] for entry in audit] == ["delete", "update", "create"]
    assert audit[1]["before"] == made and audit[1]["after"] == answer.json()
    assert audit[0]["actor"] == "root" and audit[0]["via"] == "session"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ('{"name":"x","schedulers":{"origin_reads":0}}', "$.schedulers.origin_reads"),
        ('{"name":"x","schedulers":{"origin_reads":"8"}}', "$.schedulers.origin_reads"),
        ('{"name":"x","scopes":{"cidrs":["10.0.0.1/8"]}}', "$.scopes"),
        ('{"name":"x","scopes":{"hostnames":["^fra-"]}}', "$.scopes.hostnames"),
        ('{"name":"x","scopes":null}', "$.scopes"),
        ('{"name":"x","typo":1}', "typo"),
        ('{"name":""}', "$.name"),
        ('{"name":"a b"}', "$.name"),
        ('{"name":["x"]}', "$.name"),
        ('{"description":"no name"}', "name"),
        ('{"name":"x","description":"\\u0000"}', "NUL"),
        ("", "body"),
        ("[]", "object"),
        ("{", "body"),
        ("[" * 100_000, "body"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(root: httpx.Client, body: str, place: str) -> None:
    detail = problem(root.post("/clusters", content=body), 400)
    assert place in detail


def test_a_large_body_is_refused(root: httpx.Client) -> None:
    problem(root.post("/clusters", content=b" " * 2**20), 413)


def test_names_are_taken_once(root: httpx.Client) -> None:
    created(root.post("/tenants", json={"name": "twice"}))
    problem(root.post("/tenants", json={"name": "twice"}), 409)


def test_a_change_says_which_version_it_is_of(root: httpx.Client) -> None:
    tenant = created(root.post("/tenants", json={"name": "versions"}))
    url = f"/tenants/{tenant['id']}"
    problem(root.patch(url, json={"description": "x"}), 428)
    problem(root.patch(url, json={"description": "x"}, headers={"if-match": '"7"'}), 412)
    problem(root.patch(url, json={"description": "x"}, headers={"if-match": "1"}), 412)
    assert root.get(url).json() == tenant
    answer = root.patch(url, json={"description": "x"}, headers={"if-match": '"7", "1"'})
    assert answer.status_code == 200
    assert root.patch(url, json={}, headers={"if-match": "*"}).json()["revision"] == 3


def test_of_changes_at_once_one_is_made(manager: Manager, root: httpx.Client) -> None:
    tenant = created(root.post("/tenants", json={"name": "contended"}))
    statuses: list[int] = []

    def change(text: str) -> None:
        with manager.client(cookies=root.cookies) as client:
            answer = client.patch(
                f"/tenants/{tenant['id']}", json={"description": text}, headers={"if-match": '"1"'}
            )
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=change, args=(str(n),)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [412] * 11
    audit = root.get("/audit", params={"target": tenant["id"], "action": "update"}).json()
    assert len(audit) == 1


def test_lists_come_in_pages(root: httpx.Client) -> None:
    tenant = created(root.post("/tenants", json={"name": "pages"}))["id"]
    for number in range(25):
        body = {"tenant": tenant, "name": f"app-{number}", "priority": number % 7}
        created(root.post("/applications", json=body))
    url: str | None = f"/applications?tenant={tenant}&per_page=10"
    names: list[str] = []
    pages = 0
    while url is not None:
        answer = root.get(url)
        names += [row["name"] for row in answer.json()]
        pages += 1
        relative = answer.links.get("next", {}).get("url")
        url = None if relative is None else f"/applications{relative}"
    assert pages == 3 and names == [f"app-{n}" for n in range(25)]
    last = root.get("/applications", params={"tenant": tenant, "per_page": 10, "page": 3})
    assert set(last.links) == {"first", "prev"}
    assert root.get("/applications", params={"tenant": tenant, "page": 4}).json() == []
    assert len(root.get("/applications", params={"tenant": tenant}).json()) == 20


@pytest.mark.parametrize(
    "query",
    [
        "page=0", "page=-1", "page=1000001", "page=x", "page=", "page=%D9%A1", "per_page=0",
        "per_page=101", "per_page=10000000", "page=1&page=2", "sort=name", "name=%00",
        "is_default=1", "password__startswith=a",
    ],
)  # fmt: skip
def test_lists_are_bounded_and_their_parameters_known(root: httpx.Client, query: str) -> None:
    problem(root.get(f"/clusters?{query}"), 400)


def test_filters_compare(root: httpx.Client) -> None:
    created(root.post("/clusters", json={"name": "plain"}))
    first = created(root.post("/clusters", json={"name": "first", "is_default": True}))
    found = root.get("/clusters", params={"is_default": "true"}).json()
    assert [c["name"] for c in found] == ["first"]
    second = created(root.post("/clusters", json={"name": "second", "is_default": True}))
    found = root.get("/clusters", params={"is_default": "true"}).json()
    assert [c["id"] for c in found] == [second["id"]]
    # The one before lost its mark, which is written down, too.
    [taken] = root.get("/audit", params={"target": first["id"], "action": "update"}).json()
    assert taken["before"]["is_default"] and not taken["after"]["is_default"]
    assert root.get("/clusters", params={"name": "plain' OR 1=1"}).json() == []


def test_a_post_that_is_sent_again_is_done_once(root: httpx.Client) -> None:
    body = {"name": "once"}
    key = {"idempotency-key": "7f0c"}
    first = root.post("/tenants", json=body, headers=key)
    again = root.post("/tenants", json=body, headers=key)
    assert created(first) == created(again)
    problem(root.post("/tenants", json={"name": "other"}, headers=key), 409)
    problem(root.post("/clusters", json=body, headers=key), 409)
    problem(root.post("/tenants", json=body, headers={"idempotency-key": ""}), 400)
    problem(root.post("/tenants", json=body, headers={"idempotency-key": "a b"}), 400)
    assert len(root.get("/audit", params={"target": first.json()["id"]}).json()) == 1
    # What failed may be tried again under the same key.
    key = {"idempotency-key": "8a"}
    problem(root.post("/tenants", json=body, headers=key), 409)
    problem(root.post("/tenants", json=body, headers=key), 409)


def test_a_post_sent_by_many_at_once_is_done_once(manager: Manager, root: httpx.Client) -> None:
    answers: list[httpx.Response] = []

    def post() -> None:
        with manager.client(cookies=root.cookies) as client:
            key = {"idempotency-key": "at-once"}
            answers.append(client.post("/tenants", json={"name": "at-once"}, headers=key))

    threads = [threading.Thread(target=post) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.text for answer in answers} == {answers[0].text}, answers
    created(answers[0])


def test_keys_are_each_user_s_own(manager: Manager, root: httpx.Client) -> None:
    add_user(root, "other-root", "root")
    key = {"idempotency-key": "shared"}
    mine = created(root.post("/tenants", json={"name": "mine"}, headers=key))
    with manager.sign_in("other-root") as other:
        theirs = created(other.post("/tenants", json={"name": "theirs"}, headers=key))
    assert mine["id"] != theirs["id"]


def test_what_is_in_use_stays(root: httpx.Client) -> None:
    tenant = created(root.post("/tenants", json={"name": "used"}))
    body = {"tenant": tenant["id"], "name": "uses", "priority": 6}
    application = created(root.post("/applications", json=body))
    problem(root.delete(f"/tenants/{tenant['id']}"), 409)
    assert root.delete(f"/applications/{application['id']}").status_code == 204
    assert root.delete(f"/tenants/{tenant['id']}").status_code == 204
    problem(root.post("/applications", json=body), 409)
    problem(root.post("/applications", json={**body, "priority": 7}), 400)


# ---------------------------------------------------------------------------- bounds


@pytest.fixture(scope="module")
def two(root: httpx.Client) -> list[str]:
    """The ids of two clusters."""
    return [created(root.post("/clusters", json={"name": f"bound-{n}"}))["id"] for n in range(2)]


@pytest.fixture(scope="module")
def bound(manager: Manager, root: httpx.Client, two: list[str]) -> Iterator[httpx.Client]:
    """An operator of the first of them."""
    add_user(root, "bound", "operator", cluster=two[0])
    with manager.sign_in("bound") as client:
        yield client


def test_who_is_bound_to_a_cluster_sees_and_changes_that_one(
    bound: httpx.Client, root: httpx.Client, two: list[str]
) -> None:
    mine, other = two
    assert [row["id"] for row in bound.get("/clusters").json()] == [mine]
    assert bound.get(f"/clusters/{mine}").status_code == 200
    answer = bound.patch(
        f"/clusters/{mine}", json={"description": "ours"}, headers={"if-match": "*"}
    )
    assert answer.status_code == 200
    for method in ("GET", "DELETE"):
        problem(bound.request(method, f"/clusters/{other}"), 404)
    change = {"json": {"description": "theirs"}, "headers": {"if-match": "*"}}
    problem(bound.patch(f"/clusters/{other}", **change), 404)  # type: ignore[arg-type]
    problem(bound.post("/clusters", json={"name": "bound-new"}), 403)
    assert bound.get("/tenants").json() == []
    assert bound.get("/users").json() == []
    assert bound.get("/audit").json() == []
    assert root.get(f"/clusters/{other}").json()["description"] == ""


def test_who_is_bound_to_a_cluster_takes_no_mark_from_another(
    bound: httpx.Client, root: httpx.Client, two: list[str]
) -> None:
    change = {"json": {"is_default": True}, "headers": {"if-match": "*"}}
    answer = bound.patch(f"/clusters/{two[0]}", **change)  # type: ignore[arg-type]
    assert answer.status_code in (403, 404)
    assert not root.get(f"/clusters/{two[0]}").json()["is_default"]


def test_who_is_bound_to_a_tenant_has_its_applications(
    manager: Manager, root: httpx.Client
) -> None:
    ids = [created(root.post("/tenants", json={"name": f"t-{n}"}))["id"] for n in range(2)]
    for tenant in ids:
        body = {"tenant": tenant, "name": "app", "priority": 0}
        created(root.post("/applications", json=body))
    add_user(root, "of-a-tenant", "operator", tenant=ids[0])
    with manager.sign_in("of-a-tenant") as client:
        assert [row["tenant"] for row in client.get("/applications").json()] == [ids[0]]
        assert [row["id"] for row in client.get("/tenants").json()] == [ids[0]]
        body = {"tenant": ids[0], "name": "another", "priority": 3}
        created(client.post("/applications", json=body))
        problem(client.post("/applications", json={**body, "tenant": ids[1]}), 403)
        assert client.get("/clusters").json() == []


def test_a_binding_goes_with_its_cluster(manager: Manager, root: httpx.Client) -> None:
    cluster = created(root.post("/clusters", json={"name": "short-lived"}))["id"]
    user = add_user(root, "short", "operator", cluster=cluster)
    assert root.delete(f"/clusters/{cluster}").status_code == 204
    assert root.get("/bindings", params={"user": user["id"]}).json() == []
    with manager.sign_in("short") as client:
        problem(client.get("/clusters"), 403)


# ---------------------------------------------------------------------------- members

HOST = "0123456789abcdef" * 2


def test_a_host_keeps_itself_alive_is_drained_and_removed(
    manager: Manager, root: httpx.Client, two: list[str]
) -> None:
    announce = add_token(root, "members:announce")
    body = {
        "kind": "peer", "url": "http://10.0.0.7:4000", "addresses": ["10.0.0.7", "fe80::1"],
        "hostname": "peer-7", "idc": "fra1", "version": "0.1.0",
    }  # fmt: skip
    url = f"/clusters/{two[0]}/members/{HOST}"
    with manager.with_token(announce) as host:
        told = host.put(url, json=body).json()
        assert told["after"] == 20.0 and told["drain"] is False
        problem(host.get("/members"), 403)
        [member] = root.get("/members", params={"cluster": two[0]}).json()
        assert member.items() >= body.items() and member["state"] == "active"
        assert time.time() - member["kept_alive"] < 10
        one = f"/members/{member['id']}"
        drained = root.put(f"{one}/draining", json={"draining": True}).json()
        assert drained["state"] == "draining"
        assert root.get("/members", params={"state": "active"}).json() == []
        assert root.get("/members", params={"state": "draining"}).json() == [drained]
        assert host.put(url, json={**body, "hostname": ""}).json()["drain"] is True
        assert root.get(one).json()["hostname"] == ""
        # The same host is a member as a scheduler, too.
        assert host.put(url, json={**body, "kind": "scheduler"}).status_code == 200
        assert len(root.get("/members", params={"host": HOST}).json()) == 2
        problem(root.delete(f"/clusters/{two[0]}"), 409)
        assert root.delete(one).status_code == 204
        problem(root.get(one), 404)
        problem(root.get("/members", params={"state": "gone"}), 400)
        problem(host.put(f"/clusters/0/members/{HOST}", json=body), 404)
        problem(host.put(f"/clusters/{two[0]}/members/UPPER", json=body), 400)
        problem(host.put(url, json={**body, "addresses": ["localhost"]}), 400)
        problem(host.put(url, json={**body, "url": "http://u:p@10.0.0.7"}), 400)
    actions = [entry["action"] for entry in root.get("/audit?resource=members").json()]
    assert sorted(actions) == ["create", "create", "delete", "update"]


def test_a_host_bound_to_a_cluster_joins_no_other(
    manager: Manager, root: httpx.Client, two: list[str]
) -> None:
    add_user(root, "joins", "operator", cluster=two[0])
    with manager.sign_in("joins") as owner:
        token = add_token(owner, "members:announce")
    body = {"kind": "seed", "url": "http://10.0.0.8:4000"}
    with manager.with_token(token) as host:
        assert host.put(f"/clusters/{two[0]}/members/{HOST}", json=body).status_code == 200
        problem(host.put(f"/clusters/{two[1]}/members/{HOST}", json=body), 404)


def test_clients_that_leave_hold_nobody_up(manager: Manager, root: httpx.Client) -> None:
    """In mid-request, when a transaction may be open."""
    host, port = manager.url.removeprefix("http://").split(":")
    cookie = root.cookies["hawker_session"]
    for number in range(60):
        body = json.dumps({"name": f"left-{number}"}).encode()
        head = (
            f"POST /manager/api/v1/tenants HTTP/1.1\r\nhost: {host}:{port}\r\n"
            f"cookie: hawker_session={cookie}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.003 * (number % 12))
    made = created(root.post("/tenants", json={"name": "stayed"}))
    assert root.get(f"/tenants/{made['id']}").json() == made
    # What was done is written down, and what was not, is not.
    left = [t for t in root.get("/tenants?per_page=100").json() if t["name"].startswith("left-")]
    audit = root.get("/audit?resource=tenants&per_page=100").json()
    written = {entry["target"] for entry in audit}
    assert left and {t["id"] for t in left} <= written
