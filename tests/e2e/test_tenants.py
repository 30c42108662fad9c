"""Two tenants and one private URL: the second is given no byte of it, and is answered as if it were
nowhere, by every way there is to a cluster."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from hawker.core.ids import PRIVATE, TaskSpec
from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, wait_for
from tests.e2e.managed import API, Host, Managed, made
from tests.e2e.upstream import IMAGE, Registry, digest_of

SIZE = 3 * 2**20 + 7
BLOCK = 32
PASSWORD = "correct horse battery"
VERBS = ["content", "downloads", "tasks", "tasks:delete", "tasks:import"]
# Fields of an answer that differ from one to the next.
OF_EACH = ("date", "connection", "x-request-id", "server-timing", "via")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """An upstream that gives nothing to those who show nothing; one tenant's account is configured
    wherever it is read."""
    running = Registry()
    running.open = set()
    running.users = {"first": (PASSWORD, {"lib/img"})}
    account = {"username": "first", "password": PASSWORD}
    options = {"static": {"tenants": {"first": {"origins": {running.url: account}}}}}
    rules = [{"url": "/v2/.*/blobs/", "action": "swarm", "immutable": True}]
    rules.append({"url": ".", "action": "swarm"})
    for name, value in {
        "AUTH__MODE": "required",
        "SOURCES__CREDENTIALS": "static",
        "PLUGINS__OPTIONS": json.dumps(options),
        "REGISTRY__UPSTREAMS": json.dumps({running.name: running.url}),
        "REGISTRY__DEFAULT": running.name,
        "PROXY__RULES": json.dumps(rules),
        "PROXY__PORT": "0",
    }.items():
        monkeypatch.setenv(f"HAWKER_{name}", value)
    yield running
    running.close()


class Tenant:
    """One of the manager's, with a person who may do everything in it, and a token for clients."""

    def __init__(self, managed: Managed, root: httpx.Client, name: str) -> None:
        self.name = name
        self.id = made(root.post("/tenants", json={"name": name}))["id"]
        user = {"name": f"of-{name}", "password": PASSWORD}
        binding = {"user": made(root.post("/users", json=user))["id"], "role": "root"}
        made(root.post("/bindings", json={**binding, "tenant": self.id}))
        self.api = httpx.Client(base_url=f"{managed.url}{API}", timeout=30, trust_env=False)
        made(self.api.post("/session", json=user))
        body = {"name": name, "cluster": managed.cluster, "verbs": VERBS}
        told = made(self.api.post("/client-tokens", json=body))
        self.token, self.token_id = told["value"], told["token"]["id"]

    def client(self, host: Host, token: str = "", **fields: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {token or self.token}", **fields}
        base = host.daemon.url
        return httpx.Client(base_url=base, headers=headers, timeout=60, trust_env=False)

    def through(self, host: Host, token: str = "", **fields: str) -> httpx.Client:
        """A client of the host's proxy, which knows the token as its password."""
        proxy = httpx.Proxy(host.daemon.ready["proxy"], auth=("any", token or self.token))
        return httpx.Client(proxy=proxy, headers=fields, timeout=60, trust_env=False)


@dataclass
class World:
    managed: Managed
    scheduler: Host
    seed: Host
    node: Host
    first: Tenant
    second: Tenant


@pytest.fixture
def world(cluster: Cluster, registry: Registry) -> Iterator[World]:
    managed = Managed(cluster)
    scheduler = managed.host("scheduler", "scheduler", "--plain")
    seed = managed.host("seed", "seed", "--plain")
    node = managed.host("peer", "node", "--plain", roles=("peer", "registry", "proxy"))
    for host in (seed, node):
        host.daemon.wait_ready()
    wait_for(lambda: managed.member(node)["url"] and managed.member(seed)["url"], "they are known")
    with httpx.Client(base_url=f"{managed.url}{API}", timeout=30, trust_env=False) as root:
        made(root.post("/session", json={"name": "ada", "password": PASSWORD}))
        tenants = [Tenant(managed, root, name) for name in ("first", "second")]
    yield World(managed, scheduler, seed, node, *tenants)
    for client in (managed.api, *(tenant.api for tenant in tenants)):
        client.close()


class Watch:
    """What the second tenant's clients were answered; `bytes` are those of the private content."""

    def __init__(self, private: list[bytes]) -> None:
        self.blocks = {
            data[at : at + BLOCK] for data in private for at in range(0, len(data) - BLOCK, BLOCK)
        }
        self.answers = 0
        self.bytes = 0

    def saw(self, body: bytes) -> None:
        self.answers += 1
        # An answer may begin anywhere in a block: each is found in one of so many shifts.
        for shift in range(BLOCK):
            for at in range(shift, len(body) - BLOCK, BLOCK):
                self.bytes += BLOCK * (body[at : at + BLOCK] in self.blocks)


def normal(answer: httpx.Response, names: dict[str, str]) -> tuple[Any, ...]:
    """An answer without what names the thing that was asked for, or this one request."""
    text = answer.text
    fields = {n: v for n, v in answer.headers.items() if n not in OF_EACH}
    for name, stands_for in names.items():
        text = text.replace(name, stands_for)
        fields = {n: v.replace(name, stands_for) for n, v in fields.items()}
    text = re.sub(r'urn:hawker:request:[0-9a-f]+|"seconds":[0-9.e-]+', "", text)
    return answer.status_code, text, fields


Ask = Callable[[str, str, str], httpx.Response]


def asks(world: World, registry: Registry, clients: ExitStack) -> dict[str, Ask]:
    """Every way of the second tenant's to a content, by its digest, the id of the first tenant's
    task and the generation; the same for what there is and what there is not."""
    second, node = world.second, world.node
    base, name = registry.url, "/v2/lib/img/blobs/"
    key = ClusterKey(read_key_file(node.folder / "cluster.key"))
    use = clients.enter_context
    own = use(second.client(node))
    scheduler = use(second.client(world.scheduler))
    proxied = use(second.through(node))
    cached = use(second.through(node, **{"cache-control": "only-if-cached"}))
    shown = use(second.client(node, **{"hawker-origin-authorization": "Bearer user-lib/im"}))
    accept = {"accept": IMAGE}
    found: dict[str, Ask] = {}

    def content(client: httpx.Client, method: str, **fields: str) -> Ask:
        def ask(digest: str, task: str, generation: str) -> httpx.Response:
            query = {"url": base + name + digest}
            return client.request(method, "/peer/v1/content", params=query, headers=fields)

        return ask

    found["content"] = content(own, "GET")
    found["content: head"] = content(own, "HEAD")
    found["content: range"] = content(own, "GET", range="bytes=0-99")
    found["content: wrong credential"] = content(shown, "GET")

    def download(**more: Any) -> Ask:
        def ask(digest: str, task: str, generation: str) -> httpx.Response:
            body = {"url": base + name + digest, **more}
            return own.post("/peer/v1/downloads", json=body)

        return ask

    found["downloads"] = download()
    found["downloads: their tenant"] = download(tenant="first")
    found["downloads: its case"] = download(tenant="First")
    found["downloads: no origin"] = download(disable_back_to_source=True, timeout=2.0)
    found["downloads: wrong credential"] = download(headers={"authorization": "Basic eDp5"})

    def of_task(client: httpx.Client, method: str, path: str) -> Ask:
        def ask(digest: str, task: str, generation: str) -> httpx.Response:
            return client.request(method, path.format(task=task, generation=generation))

        return ask

    stored = "/peer/v1/tasks/{task}/{generation}"
    found["guessed id: stat"] = of_task(own, "GET", "/peer/v1/tasks/{task}")
    found["guessed id: content"] = of_task(own, "GET", stored + "/content")
    found["guessed id: head"] = of_task(own, "HEAD", stored + "/content")
    found["guessed id: delete"] = of_task(own, "DELETE", "/peer/v1/tasks/{task}")
    found["scheduler: inspect"] = of_task(scheduler, "GET", "/scheduler/v1/tasks/{task}")
    found["scheduler: delete"] = of_task(scheduler, "DELETE", "/scheduler/v1/tasks/{task}")
    for host in (node, world.seed):
        at = host.daemon.data.name
        peers = {
            "client's token": second.token,
            "their tenant's token": key.mint("", ["pieces"], tenant="second"),
            "another task's token": key.mint("", ["pieces"], tenant="first", task="0" * 64),
        }
        for whose, token in peers.items():
            port = use(second.client(host, token))
            found[f"{at}: pieces, {whose}"] = of_task(port, "GET", stored + "/pieces/0-0")
            found[f"{at}: availability, {whose}"] = of_task(port, "GET", stored + "/availability")

    cluster = f"/clusters/{world.managed.cluster}"
    found["window: task"] = of_task(second.api, "GET", cluster + "/tasks/{task}")
    found["window: events"] = of_task(second.api, "GET", cluster + "/tasks/{task}/events")
    found["window: replay"] = of_task(
        scheduler, "GET", "/scheduler/v1/tasks/{task}/events?replay=1"
    )

    def at_proxy(client: httpx.Client) -> Ask:
        return lambda digest, task, generation: client.get(base + name + digest)

    found["proxy"] = at_proxy(proxied)
    found["proxy: cached"] = at_proxy(cached)

    def at_mirror(method: str, path: str) -> Ask:
        def ask(digest: str, task: str, generation: str) -> httpx.Response:
            return own.request(method, path.format(digest=digest), headers=accept)

        return ask

    for method in ("GET", "HEAD"):
        found[f"mirror: blob, {method}"] = at_mirror(method, name + "{digest}")
        found[f"mirror: manifest, {method}"] = at_mirror(method, "/v2/lib/img/manifests/{digest}")
    found["mirror: referrers"] = at_mirror("GET", "/v2/lib/img/referrers/{digest}")
    return found


def job(tenant: Tenant, **wanted: Any) -> dict[str, Any]:
    """A job once it has ended, with its parts, less what differs from one to the next."""
    body = {"scope": "all", "timeout": 20, **wanted}
    id_ = made(tenant.api.post("/jobs", json=body))["id"]
    row: dict[str, Any] = {}

    def over() -> bool:
        row.update(made(tenant.api.get(f"/jobs/{id_}")))
        return row["state"] not in ("pending", "running")

    wait_for(over, f"the job ends: {row}", 90)
    parts = made(tenant.api.get(f"/jobs/{id_}/parts?per_page=100"))
    kept = ("state", "bytes", "total", "problem", "host", "url")
    told = [{name: part[name] for name in kept} for part in parts]
    of_job = ("state", "problem", "bytes", "total", "parts")
    return {name: row[name] for name in of_job} | {"each": sorted(told, key=str)}


def as_if_nowhere(told: Any, names: dict[str, str]) -> Any:
    text = json.dumps(told)
    for name, stands_for in names.items():
        text = text.replace(name, stands_for)
    return json.loads(text)


def test_the_second_tenant_is_given_no_byte_and_not_told_that_there_is_any(
    world: World, registry: Registry
) -> None:
    manifest, layer = registry.put_image("lib/img", "1", SIZE)
    data = registry.blobs[layer]
    url = f"{registry.url}/v2/lib/img/blobs/{layer}"
    first, second, node = world.first, world.second, world.node

    # The first tenant has it by each of these ways, and it is read once.
    with first.client(node) as client:
        answer = client.get("/peer/v1/content", params={"url": url})
        assert answer.content == data, answer.text[:500]
        stats = client.get("/peer/v1/tasks").json()
        [stat] = [found for found in stats if found["spec"]["url"] == url]
        assert client.get(f"/v2/lib/img/blobs/{layer}").content == data
        pulled = client.get("/v2/lib/img/manifests/1", headers={"accept": IMAGE})
        assert digest_of(pulled.content) == manifest
        stored = f"/peer/v1/tasks/{stat['task']}/{stat['generation']}/content"
        assert client.get(stored).content == data
    with first.through(node) as client:
        assert client.get(url).content == data
    preheated = job(first, kind="preheat", image=f"{registry.name}/lib/img:1")
    assert preheated["state"] == "succeeded", preheated
    assert registry.sent[layer] == len(data)
    assert stat["task"] == TaskSpec(url, tenant="first").task_id
    before = len(registry.seen)

    # The second tenant knows the URL, and from it the task's id.
    nothing = f"sha256:{secrets.token_hex(32)}"
    names = {
        layer: "DIGEST", stat["task"]: "TASK", stat["generation"]: "GENERATION",
        TaskSpec(url, tenant="second").task_id: "OWN",
        TaskSpec(url, tenant="second", variant=PRIVATE).task_id: "OWN",
    }  # fmt: skip
    nowhere = f"{registry.url}/v2/lib/img/blobs/{nothing}"
    unknown = {
        nothing: "DIGEST", "f" * 64: "TASK", "f" * 16: "GENERATION",
        TaskSpec(nowhere, tenant="second").task_id: "OWN",
        TaskSpec(nowhere, tenant="second", variant=PRIVATE).task_id: "OWN",
    }  # fmt: skip
    watch = Watch([data])
    config = pulled.json()["config"]["digest"]
    with ExitStack() as clients:
        for way, ask in asks(world, registry, clients).items():
            answer = ask(layer, stat["task"], stat["generation"])
            watch.saw(answer.content)
            assert config not in answer.text, way
            same = ask(nothing, "f" * 64, "f" * 16)
            assert normal(answer, names) == normal(same, unknown), way
            good = (200, 204) if "availability" in way or "delete" in way else ()
            refused = answer.status_code >= 400 or b'"problem"' in answer.content
            assert refused or answer.status_code in good, (way, answer.status_code)
    with second.client(node) as client, second.client(world.scheduler) as scheduler:
        answer = client.get("/v2/lib/img/manifests/1", headers={"accept": IMAGE})
        watch.saw(answer.content)
        assert answer.status_code == 401 and layer not in answer.text
        assert stat["task"] not in client.get("/peer/v1/tasks").text
        assert "first" not in client.get("/peer/v1/tasks").text
        assert all(t["tenant"] == "second" for t in scheduler.get("/scheduler/v1/tasks").json())
        for path in ("hosts", "leases", f"hosts/{node.id}/decisions"):
            assert scheduler.get(f"/scheduler/v1/{path}").status_code == 403
        report = scheduler.post(f"/scheduler/v1/hosts/{node.id}/reports", json={})
        announce = scheduler.put(f"/scheduler/v1/hosts/{node.id}", json={})
        assert report.status_code == announce.status_code == 403
        shown = [
            scheduler.get(f"/scheduler/v1/{p}") for p in ("overview", "tenants", "tasks?limit=5")
        ]
        cluster = f"/clusters/{world.managed.cluster}"
        shown += [second.api.get(f"{cluster}/{p}") for p in ("overview", "tasks", "series")]
        shown += [second.api.get("/tenants"), second.api.get(f"/tenants/{first.id}/usage")]
        for seen in shown:
            assert stat["task"] not in seen.text and '"first"' not in seen.text, seen.url

    # Jobs of the second tenant: none has it, deletes it, or says where it is.
    for kind in ("find", "delete", "push", "preheat"):
        wanted = {"kind": kind, "scope": "all"}
        there = job(second, **wanted, urls=[url])
        absent = job(second, **wanted, urls=[nowhere])
        assert as_if_nowhere(there, names) == as_if_nowhere(absent, unknown), kind
        assert there["bytes"] == 0, there
    image = job(second, kind="preheat", image=f"{registry.name}/lib/img:1")
    assert image["state"] == "failed" and not image["each"]
    collected = job(second, kind="collect", keep=0)
    assert collected["bytes"] == 0

    assert watch.bytes == 0 and watch.answers > 30
    # Nobody read it for the second tenant, and the first still has it.
    assert registry.sent[layer] == len(data)
    assert not any(
        shown == "Bearer user-lib/img" and layer in path
        for _, path, shown in registry.seen[before:]
    )
    with first.client(node) as client:
        assert client.get(stored).content == data
    found = job(first, kind="find", urls=[url])
    assert {part["bytes"] for part in found["each"]} == {len(data)}


def test_what_one_tenant_imports_under_a_url_the_other_is_not_given(
    world: World, registry: Registry
) -> None:
    """Nor can it be replaced by who knows the URL."""
    url, mine, theirs = "http://nowhere.test/a", os.urandom(1000), os.urandom(1000)
    with world.first.client(world.node) as first, world.second.client(world.node) as second:
        for client, data in ((first, mine), (second, theirs)):
            made(client.post("/peer/v1/tasks/import", params={"url": url}, content=data))
        for client, data in ((first, mine), (second, theirs)):
            assert client.get("/peer/v1/content", params={"url": url}).content == data


def test_a_revoked_token_opens_nothing_also_when_the_manager_is_gone(
    world: World, registry: Registry
) -> None:
    layer = registry.put_image("lib/img", "1", 1000)[1]
    first, node = world.first, world.node
    url = f"{registry.url}/v2/lib/img/blobs/{layer}"

    def statuses() -> list[int]:
        with first.client(node) as client, first.client(world.scheduler) as scheduler:
            with first.through(node) as proxied:
                return [
                    client.get("/peer/v1/content", params={"url": url}).status_code,
                    client.get(f"/v2/lib/img/blobs/{layer}").status_code,
                    scheduler.get("/scheduler/v1/tasks").status_code,
                    proxied.get(url).status_code,
                ]

    assert statuses() == [200] * 4
    made(first.api.delete(f"/client-tokens/{first.token_id}"))
    wait_for(lambda: statuses() == [401, 401, 401, 407], "all roles refuse it", 20)
    world.managed.daemon.kill()
    for host in (node, world.scheduler):
        host.daemon.kill()
    for host in (world.scheduler, node):
        host.start()
    assert statuses() == [401, 401, 401, 407]
