"""Jobs on real hosts: content is placed where it is wanted, watched live, by managers that die."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Cluster, Origin, wait_for
from tests.e2e.managed import Host, Managed, made
from tests.e2e.served import Quiet, Served
from tests.e2e.upstream import IMAGE, Registry

MIB = 2**20


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """What the hosts mirror, each at its own address."""
    running = Registry()
    monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps({running.name: running.url}))
    monkeypatch.setenv("HAWKER_REGISTRY__DEFAULT", running.name)
    yield running
    running.close()


@pytest.fixture
def managed(cluster: Cluster) -> Iterator[Managed]:
    running = Managed(cluster)
    yield running
    running.api.close()


def begin(managed: Managed, **wanted: Any) -> int:
    """A new job; its id."""
    job: int = made(managed.api.post("/jobs", json={"kind": "preheat", **wanted}))["id"]
    return job


def there(managed: Managed, *hosts: Host) -> None:
    """Wait until these are at work, and the manager knows where."""
    for host in hosts:
        host.daemon.wait_ready()

    def known() -> bool:
        return all(managed.member(host)["url"] for host in hosts)

    wait_for(known, "they said where they are")


def swarm(managed: Managed, peers: int) -> tuple[Host, list[Host]]:
    """A seed, and peers."""
    _, seed, made_ = managed.swarm(peers)
    there(managed, seed, *made_)
    return seed, made_


def news(managed: Managed, job: int) -> Iterator[dict[str, Any]]:
    """The events of a job's stream."""
    with managed.api.stream("GET", f"/jobs/{job}/events", timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def ended(managed: Managed, job: int, seconds: float = 90) -> dict[str, Any]:
    """A job once it has ended."""
    found: dict[str, Any] = {}

    def over() -> bool:
        found.update(made(managed.api.get(f"/jobs/{job}")))
        return found["state"] not in ("pending", "running")

    wait_for(over, f"job {job} ends: {found}", seconds)
    return found


def parts(managed: Managed, job: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made(managed.api.get(f"/jobs/{job}/parts?per_page=100"))
    return found


def has(host: Host, data: bytes, url: str, origin: Origin) -> bool:
    """Whether a host gives content that its origin is not asked for."""
    before = origin.requests
    return (host.get(url), origin.requests) == (data, before)


def test_files_are_placed_on_all_peers_watched_live_and_read_once(
    managed: Managed, origin: Origin
) -> None:
    _, peers = swarm(managed, 3)
    # Each 64 KiB takes so long that the way there is seen.
    origin.delay = 0.1
    files = {f"/file-{n}": os.urandom(6 * MIB + n) for n in range(3)}
    urls = [origin.put(path, data) for path, data in files.items()]
    job = begin(managed, urls=urls, scope="all-peers")
    seen = list(news(managed, job))
    last = seen[-1]["job"]
    assert last["state"] == "succeeded" and last["parts"]["succeeded"] == 9
    assert last["bytes"] == last["total"] == 3 * sum(map(len, files.values()))
    on_the_way = {part["bytes"] for event in seen for part in event["parts"]}
    assert len(on_the_way) > 5, "progress was told, not only the ends"
    assert {event["job"]["state"] for event in seen} >= {"running", "succeeded"}
    assert origin.sent_bytes == sum(map(len, files.values()))
    origin.delay = 0.0
    for url, data in zip(urls, files.values(), strict=True):
        assert all(has(peer, data, url, origin) for peer in peers)


def test_a_manager_that_is_killed_goes_on_once_it_is_back(managed: Managed, origin: Origin) -> None:
    _, peers = swarm(managed, 3)
    origin.delay = 0.01
    files = {f"/file-{n}": os.urandom(4 * MIB + n) for n in range(6)}
    urls = [origin.put(path, data) for path, data in files.items()]
    job = begin(managed, urls=urls, scope="all-peers", at_once=6)
    wait_for(
        lambda: made(managed.api.get(f"/jobs/{job}"))["parts"]["succeeded"] > 0, "some are there"
    )
    between = made(managed.api.get(f"/jobs/{job}"))
    assert between["state"] == "running"
    managed.daemon.kill()
    managed.start()
    over = ended(managed, job)
    assert over["state"] == "succeeded" and over["parts"]["succeeded"] == 18, over
    # What the hosts had is not asked for again: at most what was on its way is.
    assert origin.sent_bytes < sum(map(len, files.values())) + 2 * MIB
    origin.delay = 0.0
    for url, data in zip(urls, files.values(), strict=True):
        assert all(has(peer, data, url, origin) for peer in peers)


def test_what_is_cancelled_stops_and_is_tried_again(managed: Managed, origin: Origin) -> None:
    _, (one,) = swarm(managed, 1)
    origin.delay = 0.05
    data = os.urandom(16 * MIB)
    url = origin.put("/file", data)
    job = begin(managed, urls=[url], scope="hosts", hosts=[one.id])
    wait_for(lambda: made(managed.api.get(f"/jobs/{job}"))["bytes"] > 0, "it is under way")
    assert made(managed.api.post(f"/jobs/{job}/cancel"))["state"] == "cancelled"
    assert managed.api.post(f"/jobs/{job}/cancel").status_code == 409

    def standing() -> bool:
        before = origin.sent_bytes
        time.sleep(1.0)
        return origin.sent_bytes == before

    wait_for(standing, "nothing is read any more")
    assert origin.sent_bytes < len(data)
    [part] = parts(managed, job)
    assert part["state"] == "cancelled"
    origin.delay = 0.0
    assert made(managed.api.post(f"/jobs/{job}/retry"))["state"] == "running"
    assert ended(managed, job)["state"] == "succeeded"
    assert has(one, data, url, origin)
    assert managed.api.post(f"/jobs/{job}/retry").status_code == 409


def test_only_what_failed_is_done_again(managed: Managed, origin: Origin) -> None:
    seed, _ = swarm(managed, 0)
    good = os.urandom(MIB)
    urls = [origin.put("/good", good), origin.put("/bad", b"x")]
    origin.files.pop("/bad")
    job = begin(managed, urls=urls)
    over = ended(managed, job)
    assert over["state"] == "failed" and over["parts"] == {
        "pending": 0, "running": 0, "succeeded": 1, "failed": 1, "cancelled": 0
    }  # fmt: skip
    [bad] = [part for part in parts(managed, job) if part["state"] == "failed"]
    assert bad["url"] == urls[1] and bad["host"] == seed.id and "404" in bad["problem"]
    asked = origin.requests
    origin.put("/bad", b"better now")
    made(managed.api.post(f"/jobs/{job}/retry"))
    assert ended(managed, job)["state"] == "succeeded"
    assert origin.requests == asked + 1
    assert has(seed, b"better now", urls[1], origin)


def test_hosts_that_ask_for_certificates_of_clients_are_reached(
    managed: Managed, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_TLS__MUTUAL", "true")
    seed, (one,) = swarm(managed, 1)
    with one.client() as client, pytest.raises(httpx.HTTPError):
        client.get("/healthy")
    data = os.urandom(2 * MIB)
    url = origin.put("/file", data)
    job = begin(managed, urls=[url], scope="all-peers")
    assert ended(managed, job)["state"] == "succeeded", parts(managed, job)
    assert done(managed, "find", urls=[url]) == {seed.id: len(data), one.id: len(data)}
    assert origin.sent_bytes == len(data)


class _Strict(Quiet):
    """Gives content to whoever shows a header field, or a signature; counts bytes."""

    data = b""
    sent = 0

    def do_GET(self) -> None:
        kind = type(self)
        signed = "X-Amz-Signature=opensesame" in self.path
        if not signed and self.headers.get("authorization") != "Bearer opensesame":
            self.send_response(401)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        span = self.headers.get("range", "")
        stop = len(kind.data)
        start = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
        if span and (last := span.partition("-")[2]):
            stop = min(stop, int(last) + 1)
        self.send_response(206 if span else 200)
        if span:
            self.send_header("content-range", f"bytes {start}-{stop - 1}/{len(kind.data)}")
        self.send_header("etag", '"1"')
        self.send_header("content-length", str(stop - start))
        self.end_headers()
        self.wfile.write(kind.data[start:stop])


def test_a_secret_is_shown_to_the_origin_and_to_nobody_else(managed: Managed) -> None:
    """A header field, and a URL's signature: neither is in an answer, the database, or the log; and
    content that was had with them is not for who shows none."""
    _, (one,) = swarm(managed, 1)
    _Strict.data = os.urandom(MIB)
    strict = Served(_Strict)
    try:
        plain = f"{strict.url}/file"
        shown = {"authorization": "Bearer opensesame"}
        headed = begin(managed, urls=[plain], scope="all-peers", headers=shown)
        signature = "X-Amz-Signature=opensesame&X-Amz-Date=1"
        signed = begin(managed, urls=[f"{strict.url}/signed?{signature}"], scope="all-peers")
        for job in (headed, signed):
            assert ended(managed, job)["state"] == "succeeded", parts(managed, job)
            for path in (f"/jobs/{job}", f"/jobs/{job}/parts", "/jobs"):
                assert "opensesame" not in managed.api.get(path).text
            assert "opensesame" not in str(list(news(managed, job)))
        files = [managed.log, *managed.daemon.data.glob("manager.db*")]
        assert len(files) > 1
        assert not any(b"opensesame" in file.read_bytes() for file in files)
        with one.client() as client:
            answer = client.get("/peer/v1/content", params={"url": plain})
            assert answer.status_code == 403, answer.text
            headers = {"hawker-origin-authorization": "Bearer opensesame"}
            answer = client.get("/peer/v1/content", params={"url": plain}, headers=headers)
            assert answer.content == _Strict.data
    finally:
        strict.close()


def test_hosts_that_are_not_there_are_named(managed: Managed, origin: Origin) -> None:
    managed.host("scheduler", "scheduler")
    job = begin(managed, urls=[origin.put("/x", b"x")])
    over = ended(managed, job)
    assert over["state"] == "failed" and "the cluster eu has no seed" in over["problem"]
    job = begin(managed, urls=[origin.put("/x", b"x")], scope="hosts", hosts=["ab" * 16])
    over = ended(managed, job)
    assert over["state"] == "failed" and "ab" * 16 in over["problem"]


def pulled(host: Host, reference: str, **shown: str) -> dict[str, bytes]:
    """All of an image from a host's mirror, by digest."""
    with host.client() as client:
        headers = {"accept": IMAGE, **shown}
        answer = client.get(f"/v2/lib/img/manifests/{reference}", headers=headers)
        assert answer.status_code == 200, answer.text
        got = {answer.headers["docker-content-digest"]: answer.content}
        document = answer.json()
        for blob in (document["config"], *document["layers"]):
            part = client.get(f"/v2/lib/img/blobs/{blob['digest']}", headers=shown)
            assert part.status_code == 200, part.text
            got[blob["digest"]] = part.content
    return got


def test_an_image_is_placed_though_its_manager_is_killed_and_mirrors_give_it(
    registry: Registry, managed: Managed
) -> None:
    """Twenty layers to three peers; each layer is sent once."""
    managed.host("scheduler", "scheduler")
    hosts = [managed.host("seed", "seed")]
    hosts += [managed.host("peer", f"peer-{n}", roles=("peer", "registry")) for n in range(3)]
    there(managed, *hosts)
    layers = [MIB + n for n in range(20)]
    digests = registry.put_image("lib/img", "1", *layers)
    job = begin(managed, image=f"{registry.name}/lib/img:1", scope="all-peers", at_once=8)
    seen: list[dict[str, Any]] = []
    for event in news(managed, job):
        seen.append(event)
        if event["job"]["parts"]["succeeded"] >= 5:
            break
    managed.daemon.kill()
    assert seen[-1]["job"]["state"] == "running"
    managed.start()
    seen += news(managed, job)
    last = seen[-1]["job"]
    # The manifest and the configuration, too.
    assert last["state"] == "succeeded" and last["parts"]["succeeded"] == 3 * 22, last
    names = {part["name"] for part in parts(managed, job)}
    assert {"manifest", "config", "layer 1 of 20", "layer 20 of 20"} <= names
    sent = {digest: registry.sent[digest] for digest in digests[1:]}
    assert sent == dict(zip(digests[1:], layers, strict=True)), "each layer is sent once"
    before = registry.sent.total()
    for peer in hosts[1:]:
        assert set(digests) < set(pulled(peer, "1"))
    assert registry.sent.total() == before


def test_a_private_image_is_placed_for_those_who_may_have_it(
    registry: Registry, managed: Managed
) -> None:
    managed.host("scheduler", "scheduler")
    seed = managed.host("seed", "seed")
    peer = managed.host("peer", "peer", roles=("peer", "registry"))
    there(managed, seed, peer)
    registry.open = set()
    registry.put_image("lib/img", "1", MIB)
    image = f"{registry.url}/v2/lib/img/manifests/1"
    refused = ended(managed, begin(managed, image=image, scope="all-peers"))
    assert refused["state"] == "failed" and "not given" in refused["problem"]
    shown = {"Authorization": "Bearer user-lib/img"}
    done = ended(managed, begin(managed, image=image, scope="all-peers", headers=shown))
    assert done["state"] == "succeeded", parts(managed, done["id"])
    before = registry.sent.total()
    with peer.client() as client:
        answer = client.get("/v2/lib/img/manifests/1", headers={"accept": IMAGE})
        assert answer.status_code == 401
    got = pulled(peer, "1", authorization=shown["Authorization"])
    # Whoever shows something is asked about; what it gets is there.
    assert registry.sent.total() - before < 100
    assert sum(map(len, got.values())) > MIB


def test_harbor_has_a_pushed_image_preheated(registry: Registry, managed: Managed) -> None:
    """Its driver's requests, byte for byte, at the root of the process and below the manager; it
    polls over a restart."""
    managed.host("scheduler", "scheduler")
    seed = managed.host("seed", "seed")
    there(managed, seed)
    registry.put_image("library/busybox", "latest", MIB, 10)
    registry.open = set()
    token = managed.api.headers["authorization"]
    body = (
        '{"type":"preheat","args":{"type":"image","url":"%s/v2/library/busybox/manifests/latest",'
        '"tag":"","filtered_query_params":"","headers":{"Authorization":"Bearer'
        ' user-library/busybox"},"scope":"","concurrent_count":0,"timeout":0},'
        '"scheduler_cluster_ids":%s}'
    )
    fields = {
        "accept": "application/json", "content-type": "application/json",
        "user-agent": "Go-http-client/1.1", "accept-encoding": "gzip", "authorization": token,
    }  # fmt: skip

    def at(endpoint: str, path: str, content: str = "") -> dict[str, Any]:
        with httpx.Client(headers=fields, timeout=30, trust_env=False) as client:
            url = endpoint.removesuffix("/") + path
            answer = client.post(url, content=content) if content else client.get(url)
        assert answer.status_code == 200, answer.text
        # What is said of health is for nobody.
        healthy = path in ("/healthy", "/_ping")
        told: dict[str, Any] = {} if healthy else answer.json()
        return told

    number = made(managed.api.get(f"/clusters/{managed.cluster}"))["number"]
    for endpoint, clusters in (
        (managed.url, "null"),
        (f"{managed.url}/", f"[{number}]"),
        (f"{managed.url}/manager", "null"),
    ):
        at(endpoint, "/healthy")
        job = at(endpoint, "/oapi/v1/jobs", body % (registry.url, clusters))
        assert type(job["id"]) is int and job["state"] == "PENDING" and job["result"] is None
        assert "user-library" not in str(job)
        if endpoint == managed.url:
            managed.daemon.kill()
            managed.start()

        polled = functools.partial(at, endpoint, f"/oapi/v1/jobs/{job['id']}")
        until = time.monotonic() + 60
        while polled()["state"] == "PENDING":
            assert time.monotonic() < until
            time.sleep(0.2)
        over = polled()
        assert over["state"] == "SUCCESS", over
        for name in ("created_at", "updated_at"):
            assert datetime.fromisoformat(over[name]).utcoffset() is not None
        [state] = over["result"]["job_states"]
        [results] = state["results"]
        assert results["scheduler_cluster_id"] == number and state["error"] == ""
        assert results["failure_tasks"] == []
        urls = [task["url"] for task in results["success_tasks"]]
        assert len(urls) == 4 and urls[0].startswith(f"{registry.url}/v2/library/busybox/")
        assert all(
            task["hostname"] and task["ip"] == "127.0.0.1" for task in results["success_tasks"]
        )
    # The driver of before, and one whose image is not there.
    old = '{"type":"image","url":"%s/v2/library/busybox/manifests/%s","headers":{},"digest":"x"}'
    at(managed.url, "/_ping")
    id_ = at(managed.url, "/preheats", old % (registry.url, "latest"))["id"]
    assert type(id_) is str

    def ended_at(path: str) -> dict[str, Any]:
        wait_for(lambda: at(managed.url, path)["status"] in ("SUCCESS", "FAIL"), "it ends")
        return at(managed.url, path)

    told = ended_at(f"/preheats/{id_}")
    assert told["status"] == "FAIL" and "not given" in told["errorMsg"]
    registry.open = None
    id_ = at(managed.url, "/preheats", old % (registry.url, "latest"))["id"]
    told = ended_at(f"/preheats/{id_}")
    assert told["status"] == "SUCCESS" and told["errorMsg"] == ""
    assert told["startTime"] <= told["finishTime"]


def done(managed: Managed, kind: str, **wanted: Any) -> dict[str, int]:
    """A job's bytes by host, once it has succeeded."""
    job = made(managed.api.post("/jobs", json={"kind": kind, **wanted}))["id"]
    over = ended(managed, job)
    assert over["state"] == "succeeded", (over, parts(managed, job))
    return {part["host"]: part["bytes"] for part in parts(managed, job)}


def test_content_is_found_pushed_deleted_and_collected(managed: Managed, origin: Origin) -> None:
    seed, (one, two) = swarm(managed, 2)
    everywhere = {seed.id, one.id, two.id}
    first, second = os.urandom(2 * MIB), os.urandom(MIB)
    urls = [origin.put("/first", first), origin.put("/second", second)]
    done(managed, "preheat", urls=urls[:1])
    found = done(managed, "find", urls=urls[:1])
    assert found == {seed.id: len(first), one.id: 0, two.id: 0}
    # Of those who have it; the origin is not asked.
    asked = origin.requests
    assert done(managed, "push", urls=urls[:1], scope="hosts", hosts=[one.id]) == {
        one.id: len(first)
    }
    assert origin.requests == asked and has(one, first, urls[0], origin)
    # What nobody has is not to be had that way.
    pushed = {"kind": "push", "urls": urls[1:], "scope": "hosts", "hosts": [one.id], "timeout": 3}
    job = made(managed.api.post("/jobs", json=pushed))["id"]
    assert ended(managed, job)["state"] == "failed" and origin.requests == asked
    done(managed, "preheat", urls=urls, scope="all-peers")
    # The one that was used longest ago goes first, and what was used lately stays.
    assert has(two, second, urls[1], origin)
    gone = done(managed, "collect", keep=MIB + MIB // 2, scope="hosts", hosts=[two.id])
    assert gone == {two.id: len(first)}
    assert done(managed, "find", urls=urls[:1])[two.id] == 0
    assert done(managed, "find", urls=urls[1:])[two.id] == len(second)
    assert done(managed, "collect", unused=3600.0) == dict.fromkeys(everywhere, 0)
    assert done(managed, "delete", urls=urls[1:])[two.id] == len(second)
    assert done(managed, "find", urls=urls[1:]) == dict.fromkeys(everywhere, 0)
    assert set(done(managed, "refresh")) == everywhere
    two.daemon.kill()
    over = ended(managed, made(managed.api.post("/jobs", json={"kind": "refresh"}))["id"])
    assert over["state"] == "failed" and over["parts"]["succeeded"] == 2
    [away] = [part for part in parts(managed, over["id"]) if part["state"] == "failed"]
    assert away["host"] == two.id and away["attempts"] == 4
