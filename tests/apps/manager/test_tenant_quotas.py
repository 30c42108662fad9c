"""Quotas of tenants at a manager: set, checked, told to schedulers alone, and shown."""

from __future__ import annotations

import httpx

from tests.apps.manager.hosts import Host, Waiting, enrol
from tests.apps.manager.running import Manager, add_user, created, problem

QUOTAS = {"bandwidth": 5_000_000, "origin_bytes": 10**12, "origin_period": 3600}


def test_quotas_are_set_changed_and_taken_away(manager: Manager, root: httpx.Client) -> None:
    made = created(root.post("/tenants", json={"name": "plain"}))
    assert made["quotas"] == {}
    made = created(root.post("/tenants", json={"name": "limited", "quotas": QUOTAS}))
    assert made["quotas"] == QUOTAS
    path = f"/tenants/{made['id']}"
    fewer = {"concurrent_downloads": 4}
    answer = root.patch(path, json={"quotas": fewer}, headers={"if-match": "*"})
    assert answer.json()["quotas"] == fewer, "all of them are others"
    answer = root.patch(path, json={"description": "x"}, headers={"if-match": "*"})
    assert answer.json()["quotas"] == fewer
    answer = root.patch(path, json={"quotas": {}}, headers={"if-match": "*"})
    assert answer.json()["quotas"] == root.get(path).json()["quotas"] == {}
    audit = root.get("/audit", params={"resource": "tenants", "target": made["id"]}).json()
    assert [row["after"]["quotas"] for row in audit][-1] == QUOTAS


def test_quotas_that_make_no_sense_are_refused(root: httpx.Client) -> None:
    for quotas, where in (
        ({"bandwith": 1}, "bandwith"),
        ({"bandwidth": 0}, "$.quotas.bandwidth"),
        ({"bandwidth": -5}, "$.quotas.bandwidth"),
        ({"stored_bytes": 2**53 + 1}, "$.quotas.stored_bytes"),
        ({"concurrent_downloads": 1.5}, "$.quotas.concurrent_downloads"),
        ({"origin_bytes": "many"}, "$.quotas.origin_bytes"),
        ({"origin_period": 0}, "$.quotas.origin_period"),
        (5, "$.quotas"),
    ):
        told = problem(root.post("/tenants", json={"name": "odd", "quotas": quotas}), 400)
        assert where in told, told


def test_schedulers_hear_of_them_at_once_and_other_hosts_do_not(
    manager: Manager, root: httpx.Client
) -> None:
    cluster = created(root.post("/clusters", json={"name": "told"}))["id"]
    with Host(manager, "scheduler") as scheduler, Host(manager, "peer") as peer:
        for host in (scheduler, peer):
            host.join(enrol(root, host.kind, cluster)["token"])
            host.keep()
        before = peer.keep()["revision"]
        waiting = Waiting(scheduler)
        made = created(root.post("/tenants", json={"name": "acme", "quotas": QUOTAS}))
        told = waiting.end().json()
        assert waiting.seconds < 5
        assert told["configuration"]["tenants"]["acme"] == QUOTAS
        assert peer.keep()["revision"] == before, "it is none of a peer's business"
        scheduler.told = told
        waiting = Waiting(scheduler)
        assert root.delete(f"/tenants/{made['id']}").status_code == 204
        assert "acme" not in waiting.end().json()["configuration"].get("tenants", {})


def test_usage_says_where_nobody_can_be_asked_and_is_for_who_may_read_the_tenant(
    manager: Manager, root: httpx.Client
) -> None:
    cluster = created(root.post("/clusters", json={"name": "silent"}))["id"]
    mine = created(root.post("/tenants", json={"name": "mine", "quotas": QUOTAS}))
    theirs = created(root.post("/tenants", json={"name": "theirs"}))
    usage = root.get(f"/tenants/{mine['id']}/usage").json()
    assert usage["quotas"] == QUOTAS
    found = {row["cluster"]: row for row in usage["clusters"]}[cluster]
    assert found["problem"] and found["stored_bytes"] is None
    add_user(root, "bound", "viewer", tenant=mine["id"])
    with manager.sign_in("bound") as bound:
        assert bound.get(f"/tenants/{mine['id']}/usage").status_code == 200
        problem(bound.get(f"/tenants/{theirs['id']}/usage"), 404)
    problem(root.get("/tenants/none/usage"), 404)


def test_who_is_bound_to_a_tenant_does_not_lift_its_quotas(
    manager: Manager, root: httpx.Client
) -> None:
    """Nor by having it go: clients that a provider says are its own would have none."""
    tenant = created(root.post("/tenants", json={"name": "held", "quotas": QUOTAS}))
    path, anew = f"/tenants/{tenant['id']}", {"if-match": "*"}
    add_user(root, "of-held", "root", tenant=tenant["id"])
    with manager.sign_in("of-held") as bound:
        for quotas in ({}, {**QUOTAS, "bandwidth": 2**40}):
            problem(bound.patch(path, json={"quotas": quotas}, headers=anew), 403)
        problem(bound.delete(path), 403)
        answer = bound.patch(path, json={"description": "ours"}, headers=anew)
        assert answer.status_code == 200 and answer.json()["quotas"] == QUOTAS
    assert root.patch(path, json={"quotas": {}}, headers=anew).status_code == 200
    assert root.delete(path).status_code == 204
