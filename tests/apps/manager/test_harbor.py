"""What Harbor, Kraken and Docker registries send, and how wrong and unknown things are answered."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.apps.manager.running import Manager, add_token, add_user, created, problem

IMAGE = "http://127.0.0.1:9/v2/library/busybox/manifests/latest"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with Manager(tmp_path_factory.mktemp("up") / "data", "up", HAWKER_PROXY__PORT="0") as running:
        yield running


@pytest.fixture(scope="module")
def root(up: Manager) -> Iterator[httpx.Client]:
    with up.set_up() as client:
        for name in ("one", "two", "three"):
            created(client.post("/clusters", json={"name": name}))
        yield client


@pytest.fixture(params=["", "/manager"])
def harbor(
    up: Manager, root: httpx.Client, request: pytest.FixtureRequest
) -> Iterator[httpx.Client]:
    """With a token, at both places."""
    token = add_token(root, "jobs:read", "jobs:create")
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(
        base_url=up.url + request.param, headers=headers, timeout=30, trust_env=False
    ) as client:
        yield client


def asked(**args: Any) -> dict[str, Any]:
    """As Harbor's driver writes it."""
    clusters = args.pop("clusters", None)
    known = {
        "type": "image", "url": IMAGE, "tag": "", "filtered_query_params": "", "headers": {},
        "scope": "", "concurrent_count": 0, "timeout": 0,
    }  # fmt: skip
    return {"type": "preheat", "args": known | args, "scheduler_cluster_ids": clusters}


@pytest.mark.parametrize("path", ["/healthy", "/_ping", "/health"])
def test_health_is_told_to_whoever_asks(harbor: httpx.Client, path: str) -> None:
    assert harbor.get(path).status_code == 200
    assert harbor.get(path, headers={"authorization": "Bearer nonsense"}).status_code == 200


def test_clusters_have_numbers_for_harbor(harbor: httpx.Client, root: httpx.Client) -> None:
    numbers = {c["number"]: c["id"] for c in root.get("/clusters").json()}
    assert set(numbers) == {1, 2, 3}
    answer = harbor.post("/oapi/v1/jobs", json=asked(clusters=[1, 2, 3], scope="all_peers"))
    assert answer.status_code == 200, answer.text
    job = root.get(f"/jobs/{answer.json()['id']}").json()
    assert job["args"]["scope"] == "all-peers" and set(job["clusters"]) == set(numbers.values())
    answer = harbor.post("/oapi/v1/jobs", json=asked(clusters=[2]))
    assert root.get(f"/jobs/{answer.json()['id']}").json()["clusters"] == [numbers[2]]
    problem(harbor.post("/oapi/v1/jobs", json=asked(clusters=[2, 9])), 404)
    answer = harbor.post("/oapi/v1/jobs", json=asked())
    assert set(root.get(f"/jobs/{answer.json()['id']}").json()["clusters"]) == set(numbers.values())


def test_a_job_that_fails_is_a_failure_with_its_reason(harbor: httpx.Client) -> None:
    answer = harbor.post("/oapi/v1/jobs", json=asked(clusters=[1]))
    path = f"/oapi/v1/jobs/{answer.json()['id']}"
    until = time.monotonic() + 30
    while (told := harbor.get(path).json())["state"] == "PENDING":
        assert time.monotonic() < until
        time.sleep(0.05)
    assert told["state"] == "FAILURE"
    [state] = told["result"]["job_states"]
    assert "the cluster one has no seed" in state["error"] and state["results"] == []
    legacy = harbor.get(f"/preheats/{answer.json()['id']}").json()
    assert legacy["status"] == "FAIL" and "no seed" in legacy["errorMsg"]


@pytest.mark.parametrize("scope", ["single_seed_peer", "single_peer", "all_seed_peers"])
def test_scopes_of_every_dragonfly(harbor: httpx.Client, root: httpx.Client, scope: str) -> None:
    answer = harbor.post("/oapi/v1/jobs", json=asked(scope=scope, timeout=60_000_000_000))
    args = root.get(f"/jobs/{answer.json()['id']}").json()["args"]
    assert args.get("scope", "single-seed") == (
        "all-seeds" if scope.startswith("all") else "single-seed"
    )
    assert args["timeout"] == 60


@pytest.mark.parametrize(
    "body",
    [
        {"type": "sync_peers", "args": {"url": IMAGE}},
        asked(scope="everywhere"),
        asked(type="model"),
        asked(url="not an image"),
        asked(headers={"a": 1}),
        asked(clusters=["one"]),
        {"type": "preheat"},
        [],
    ],
)
def test_what_makes_no_sense_is_refused(harbor: httpx.Client, body: Any) -> None:
    problem(harbor.post("/oapi/v1/jobs", json=body), 400)


@pytest.mark.parametrize("path", ["/oapi/v1/jobs", "/preheats"])
@pytest.mark.parametrize("id_", ["0", "999999", "x", "9" * 30])
def test_unknown_ids_are_not_there(harbor: httpx.Client, path: str, id_: str) -> None:
    problem(harbor.get(f"{path}/{id_}"), 404)


def test_other_paths_are_not_there(harbor: httpx.Client) -> None:
    for path in ("/oapi/v1/clusters", "/oapi", "/preheat", "/oapi/v1/jobs/1/x"):
        assert harbor.get(path).status_code == 404
    assert harbor.get("/oapi/v1/jobs").status_code == 405


def test_who_may_not_is_told(up: Manager, root: httpx.Client, harbor: httpx.Client) -> None:
    for shown in ("Bearer hwk_wrong", "Basic eDp5", ""):
        fields = {"authorization": shown} if shown else {}
        url = f"{str(harbor.base_url).rstrip('/')}/oapi/v1/jobs"
        answer = httpx.post(url, json=asked(), headers=fields, trust_env=False)
        problem(answer, 401)
    token = add_token(root, "jobs:read")
    reads = {"authorization": f"Bearer {token}"}
    problem(harbor.post("/oapi/v1/jobs", json=asked(), headers=reads), 403)
    # Harbor's mode BASIC: the token is the password of any user.
    pair = base64.b64encode(f"hawker:{add_token(root, 'jobs:create')}".encode()).decode()
    basic = {"authorization": f"Basic {pair}"}
    assert harbor.post("/oapi/v1/jobs", json=asked(), headers=basic).status_code == 200


def notification(upper: bool, action: str = "push", media_type: str = DOCKER) -> dict[str, Any]:
    """Harbor's, with capitals, or a Docker registry's own."""
    target = {
        "mediaType": media_type,
        "digest": "sha256:" + "a" * 64,
        "url": IMAGE,
        "tag": "latest",
    }
    event = {"id": "x", "timestamp": "2026-01-01T00:00:00Z", "action": action, "target": target}
    if not upper:
        return {"events": [event]}
    capitals = {"MediaType": media_type, "Digest": "x", "Repository": "library/busybox",
                "Url": IMAGE, "Tag": "latest"}  # fmt: skip
    return {"Events": [{"Id": "x", "TimeStamp": "2026-01-01T00:00:00Z", "Action": action,
                        "Target": capitals, "Request": None, "Actor": None}]}  # fmt: skip


@pytest.mark.parametrize("upper", [True, False])
def test_what_is_pushed_is_preheated(harbor: httpx.Client, root: httpx.Client, upper: bool) -> None:
    answer = harbor.post("/registry/notifications", json=notification(upper))
    assert answer.status_code == 200, answer.text
    [job] = answer.json()["jobs"]
    assert root.get(f"/jobs/{job}").json()["args"]["image"] == IMAGE
    index = harbor.post("/registry/notifications", json=notification(upper, media_type=OCI_INDEX))
    assert len(index.json()["jobs"]) == 1
    for other in (
        notification(upper, action="pull"),
        notification(upper, media_type="application/octet-stream"),
        {"events": [None, {"action": "push"}, {"action": "push", "target": {"mediaType": DOCKER}}]},
        {"events": None},
        {},
    ):
        answer = harbor.post("/registry/notifications", json=other)
        assert answer.status_code == 200 and answer.json() == {"jobs": []}


def test_whoever_is_bound_to_a_cluster_asks_for_that_one(
    up: Manager, root: httpx.Client, harbor: httpx.Client
) -> None:
    one, two = (c["id"] for c in root.get("/clusters").json()[:2])
    name = f"robot{'-m' if 'manager' in str(harbor.base_url) else ''}"
    add_user(root, name, "operator", cluster=one)
    theirs = harbor.post("/oapi/v1/jobs", json=asked(clusters=[2])).json()["id"]
    with up.sign_in(name) as robot:
        fields = {"authorization": f"Bearer {add_token(robot, 'jobs:read', 'jobs:create')}"}
    answer = harbor.post("/oapi/v1/jobs", json=asked(), headers=fields)
    assert [c["id"] for c in answer.json()["scheduler_clusters"]] == [1]
    problem(harbor.post("/oapi/v1/jobs", json=asked(clusters=[2]), headers=fields), 403)
    problem(harbor.get(f"/oapi/v1/jobs/{theirs}", headers=fields), 404)
    assert two != one


def test_numbers_are_given_to_clusters_of_before(tmp_path: Path) -> None:
    """An older version's clusters get theirs in the order in which they were made."""
    import sqlite3

    data = tmp_path / "data"
    manager = Manager(data, database="")
    try:
        with manager.set_up() as root:
            ids = [created(root.post("/clusters", json={"name": n}))["id"] for n in ("a", "b")]
        assert manager.close() == 0
        with sqlite3.connect(data / "manager.db") as connection:
            connection.execute("UPDATE cluster SET number = 0")
        connection.close()
        manager.start()
        with manager.sign_in("root") as root:
            found = {c["id"]: c["number"] for c in root.get("/clusters").json()}
            third = created(root.post("/clusters", json={"name": "c"}))["number"]
        assert 0 < found[ids[0]] < found[ids[1]] < third
    finally:
        manager.close()
