"""Jobs at the API: what is taken, who may have what done where, how many are taken at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.apps.manager.running import Manager, add_token, add_user, created, problem

URL = "http://127.0.0.1:9/file"


@pytest.fixture(scope="module")
def clusters(root: httpx.Client) -> list[str]:
    return [created(root.post("/clusters", json={"name": n}))["id"] for n in ("one", "two")]


def wanted(**more: Any) -> dict[str, Any]:
    return {"kind": "preheat", "urls": [URL], **more}


def over(client: httpx.Client, job: int) -> dict[str, Any]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found: dict[str, Any] = client.get(f"/jobs/{job}").json()
        if found["state"] not in ("pending", "running"):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_job_without_hosts_fails_and_says_so(root: httpx.Client, clusters: list[str]) -> None:
    made = created(root.post("/jobs", json=wanted(clusters=clusters[:1])))
    assert made["state"] == "pending" and made["actor"] == "root"
    assert made["clusters"] == clusters[:1]
    ended = over(root, made["id"])
    assert ended["state"] == "failed" and "the cluster one has no seed" in ended["problem"]
    assert ended["ended"] >= ended["created"]
    assert root.get(f"/jobs/{made['id']}/parts").json() == []
    with root.stream("GET", f"/jobs/{made['id']}/events") as events:
        told = events.read().decode()
    assert told.count("data: ") == 1 and '"state":"failed"' in told
    # There is nothing to be cancelled; once more it is planned anew.
    problem(root.post(f"/jobs/{made['id']}/cancel"), 409)
    again = root.post(f"/jobs/{made['id']}/retry").json()
    assert again["state"] == "pending" and again["problem"] == ""
    assert over(root, made["id"])["state"] == "failed"
    audit = root.get("/audit", params={"resource": "jobs", "target": str(made["id"])}).json()
    assert [entry["action"] for entry in audit] == ["retry", "create"]


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"kind": "dance"}, "$.kind"),
        ({"urls": []}, "urls, image"),
        ({"urls": ["no URL"]}, "URL"),
        ({"urls": ["http://user:secret@host/file"]}, "user name"),
        ({"image": "nginx"}, "urls, image"),
        ({"urls": [], "image": "Not An Image"}, "image"),
        ({"urls": [], "image": "http://host/v2/a/manifests/1?x=y"}, "image"),
        ({"urls": [], "image": "nginx", "platforms": ["linux"]}, "$.platforms"),
        ({"platforms": ["linux/amd64"]}, "platforms"),
        ({"scope": "everywhere"}, "$.scope"),
        ({"scope": "hosts"}, "hosts"),
        ({"hosts": ["ab" * 16]}, "hosts"),
        ({"scope": "all-peers", "count": 1, "percent": 5}, "count and percent"),
        ({"count": 1}, "count and percent"),
        ({"scope": "all-peers", "percent": 101}, "$.percent"),
        ({"headers": {"a b": "c"}}, "$.headers"),
        ({"headers": {"a": "c\r\nd: e"}}, "$.headers"),
        ({"priority": 7}, "$.priority"),
        ({"typo": 1}, "typo"),
        ({"kind": "push"}, "scope"),
        ({"kind": "refresh"}, "urls, image"),
        ({"kind": "find", "urls": []}, "urls, image"),
        ({"kind": "collect", "urls": []}, "keep, unused"),
        ({"keep": 1}, "keep, unused"),
        ({"kind": "collect", "urls": [], "keep": -1}, "$.keep"),
    ],
)
def test_what_is_wrong_is_named(root: httpx.Client, more: dict[str, Any], place: str) -> None:
    before = len(root.get("/jobs?per_page=100").json())
    assert place in problem(root.post("/jobs", json=wanted(**more)), 400)
    assert len(root.get("/jobs?per_page=100").json()) == before


@pytest.mark.parametrize("id_", ["0", "999999999", "x", "-1", "1e3", "9" * 30, "%D9%A1"])
def test_unknown_jobs_are_not_there(root: httpx.Client, id_: str) -> None:
    problem(root.get(f"/jobs/{id_}"), 404)
    problem(root.get(f"/jobs/{id_}/parts"), 404)
    problem(root.get(f"/jobs/{id_}/events"), 404)
    problem(root.post(f"/jobs/{id_}/cancel"), 404)


def test_whoever_is_bound_to_a_cluster_uses_that_one(
    manager: Manager, root: httpx.Client, clusters: list[str]
) -> None:
    one, two = clusters
    add_user(root, "bound", "operator", cluster=one)
    theirs = created(root.post("/jobs", json=wanted(clusters=[two])))["id"]
    both = created(root.post("/jobs", json=wanted(clusters=[one, two])))["id"]
    with manager.sign_in("bound") as bound:
        problem(bound.post("/jobs", json=wanted(clusters=[two])), 403)
        problem(bound.post("/jobs", json=wanted(clusters=[one, two])), 403)
        problem(bound.post("/jobs", json=wanted(clusters=["0" * 16])), 403)
        # Named or not: it is the one they may use.
        for job in (wanted(clusters=[one]), wanted()):
            assert created(bound.post("/jobs", json=job))["clusters"] == [one]
        for job in (theirs, both):
            problem(bound.get(f"/jobs/{job}"), 404)
            problem(bound.get(f"/jobs/{job}/events"), 404)
            problem(bound.post(f"/jobs/{job}/retry"), 404)
        assert {job["clusters"][0] for job in bound.get("/jobs").json()} == {one}
    assert root.get(f"/jobs/{both}").json()["clusters"] == sorted(clusters)
    problem(root.post("/jobs", json=wanted(clusters=["0" * 16])), 404)
    problem(root.post("/jobs", json=wanted(tenant="0" * 16)), 404)


def test_whoever_has_no_cluster_is_told_how_to_get_one(
    manager: Manager, root: httpx.Client, clusters: list[str]
) -> None:
    assert clusters
    one, two = (created(root.post("/tenants", json={"name": f"t-{n}"}))["id"] for n in range(2))
    add_user(root, "nowhere", "operator", tenant=one)
    with manager.sign_in("nowhere") as nowhere:
        answer = nowhere.post("/jobs", json=wanted(tenant=two))
        assert "no cluster" in problem(answer, 403)
        assert "POST /bindings" in answer.json()["hint"]


def test_a_token_needs_the_scope(manager: Manager, root: httpx.Client, clusters: list[str]) -> None:
    with manager.with_token(add_token(root, "jobs:read")) as reads:
        assert reads.get("/jobs").status_code == 200
        problem(reads.post("/jobs", json=wanted(clusters=clusters[:1])), 403)
    with manager.with_token(add_token(root, "jobs:create")) as makes:
        created(makes.post("/jobs", json=wanted(clusters=clusters[:1])))
        problem(makes.get("/jobs"), 403)


def test_a_job_that_is_sent_again_is_made_once(root: httpx.Client, clusters: list[str]) -> None:
    key, body = {"idempotency-key": "job-1"}, wanted(clusters=clusters[:1])
    first, again = (root.post("/jobs", json=body, headers=key) for _ in range(2))
    assert created(first) == created(again)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "data", HAWKER_MANAGER__JOBS_PER_MINUTE="3") as running:
        yield running


def test_of_a_cluster_s_jobs_so_many_are_taken_in_a_minute(slow: Manager) -> None:
    with slow.set_up() as root:
        one, two = (
            created(root.post("/clusters", json={"name": name}))["id"] for name in ("a", "b")
        )
        for _ in range(3):
            created(root.post("/jobs", json=wanted(clusters=[one])))
        answer = root.post("/jobs", json=wanted(clusters=[one]))
        assert "within a minute" in problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        # One for both is one for this; the other cluster has a limit of its own.
        problem(root.post("/jobs", json=wanted(clusters=[one, two])), 429)
        created(root.post("/jobs", json=wanted(clusters=[two])))
        assert len(root.get("/jobs").json()) == 4
