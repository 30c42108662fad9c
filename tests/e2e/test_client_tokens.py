"""A token of `hawker cluster token` lets a client of a mirror or proxy in that can make none."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, Origin, hawker, wait_for
from tests.e2e.upstream import IMAGE, Registry

DAY = 86_400


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()


@pytest.fixture
def node(
    cluster: Cluster, registry: Registry, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> Daemon:
    """A mirror and a proxy that ask for tokens."""
    monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
    monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps({registry.name: registry.url}))
    monkeypatch.setenv("HAWKER_REGISTRY__DEFAULT", registry.name)
    rules = [{"url": "^http://127.0.0.1:", "action": "swarm"}]
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(rules))
    monkeypatch.setenv("HAWKER_PROXY__PORT", "0")
    node = cluster.start("node", "up")
    node.wait_ready()
    return node


def minted(node: Daemon, *flags: str) -> str:
    key = ("--cluster-key", str(node.data / "cluster.key"))
    done = hawker("cluster", "token", *key, "--name", "ci", *flags)
    assert done.returncode == 0, done.stderr.decode()
    assert b"good until 20" in done.stderr
    return done.stdout.decode().strip()


def expired(node: Daemon) -> str:
    """A month old, good for a day less than that."""
    past = ClusterKey(read_key_file(node.data / "cluster.key"), lambda: time.time() - 30 * DAY)
    return past.mint_for_client("ci", ["content"], tenant="default", lifetime=29 * DAY)


def of_another_cluster(node: Daemon) -> str:
    return ClusterKey(b"x" * 32).mint_for_client("ci", ["content"], tenant="default", lifetime=DAY)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def test_a_registry_s_client_logs_in_and_pulls(node: Daemon, registry: Registry) -> None:
    registry.put_image("lib/img", "1", 100)

    def asked(path: str, shown: str) -> httpx.Response:
        fields = {"accept": IMAGE, "authorization": shown}
        return httpx.get(f"{node.url}/v2/{path}", headers=fields, trust_env=False, timeout=60)

    token = minted(node)
    for shown in (basic(token), f"Bearer {token}"):
        # What `login` asks for, and the first request of a pull.
        assert asked("", shown).status_code == 200
        assert asked("lib/img/manifests/1", shown).status_code == 200
    for wrong in ("wrong", token[:-2], expired(node), of_another_cluster(node)):
        for path in ("", "lib/img/manifests/1"):
            answer = asked(path, basic(wrong))
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (401, "UNAUTHORIZED")
            assert answer.headers["www-authenticate"] == 'Basic realm="hawker"'
    assert asked("", basic(minted(node, "--verb", "tasks"))).status_code == 403
    assert not any(token in shown for _, _, shown in registry.seen)


def test_a_proxy_s_client_shows_it_as_its_password(node: Daemon, origin: Origin) -> None:
    url = origin.put("/file", b"content" * 100)

    def asked(password: str) -> httpx.Response:
        proxy = httpx.Proxy(node.ready["proxy"], auth=("anyone", password))
        with httpx.Client(proxy=proxy, trust_env=False, timeout=60) as client:
            return client.get(url)

    for wrong in ("wrong", expired(node), of_another_cluster(node)):
        assert asked(wrong).status_code == 407
    assert origin.requests == 0
    assert asked(minted(node)).content == b"content" * 100


def test_a_token_is_for_its_tenant_and_its_verbs(node: Daemon, origin: Origin) -> None:
    url = origin.put("/file", b"content")

    def asked(path: str, token: str, **query: str) -> httpx.Response:
        fields = {"authorization": f"Bearer {token}"}
        place = f"{node.url}/peer/v1/{path}"
        return httpx.get(place, params=query, headers=fields, trust_env=False, timeout=60)

    ours, theirs = minted(node), minted(node, "--tenant", "theirs", "--verb", "tasks")
    assert asked("content", ours, url=url).content == b"content"
    assert asked("tasks", ours).status_code == 403
    assert asked("tasks", theirs).json() == []
    assert asked("content", theirs, url=url).status_code == 403
    every = minted(node, "--verb", "tasks", "--verb", "content")
    assert len(asked("tasks", every).json()) == 1


def test_another_key_ends_every_token_and_keeps_the_content(
    cluster: Cluster, node: Daemon, origin: Origin
) -> None:
    url = origin.put("/file", b"content")

    def asked(at: Daemon, token: str) -> httpx.Response:
        fields = {"authorization": f"Bearer {token}"}
        place = f"{at.url}/peer/v1/content"
        return httpx.get(place, params={"url": url}, headers=fields, trust_env=False, timeout=60)

    token = minted(node)
    assert asked(node, token).content == b"content"
    node.stop()
    (node.data / "cluster.key").unlink()
    assert hawker("cluster", "key", str(node.data / "cluster.key")).returncode == 0
    again = cluster.start("node", "up")
    again.wait_ready()
    assert asked(again, token).status_code == 401
    assert asked(again, minted(again)).content == b"content"
    assert origin.requests == 1


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--name", "a b"),
        ("--name", "ci", "--days", "0"),
        ("--name", "ci", "--days", "366"),
        ("--name", "ci", "--verb", "pieces"),
        ("--name", "ci", "--tenant", ""),
    ],
)
def test_what_a_client_may_not_have_is_refused(cluster: Cluster, flags: tuple[str, ...]) -> None:
    cluster.make_key()
    done = hawker("cluster", "token", "--cluster-key", str(cluster.key), *flags)
    assert (done.returncode, done.stdout) == (2, b"")


def test_without_the_cluster_s_key_there_is_none(cluster: Cluster) -> None:
    done = hawker("cluster", "token", "--name", "ci", "--cluster-key", str(cluster.root / "none"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"hawker cluster key" in done.stderr


def test_figures_by_tenant_are_the_operator_s(
    cluster: Cluster, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
    config = tmp_path / "tenants.toml"
    config.write_text("[tenants.acme]\nconcurrent_downloads = 3\n")
    node = cluster.start("node", "up", "--config", str(config))
    node.wait_ready()
    # Of tenants that have something here.
    url, acme = origin.put("/theirs", b"1"), minted(node, "--tenant", "acme")
    headers, wanted = {"authorization": f"Bearer {acme}"}, {"url": url}
    content = f"{node.url}/peer/v1/content"
    assert httpx.get(content, headers=headers, params=wanted, trust_env=False).content == b"1"

    def shown(token: str) -> list[str]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = httpx.get(f"{node.url}/metrics", headers=headers, trust_env=False)
        assert answer.status_code == 200 and "hawker_build_info" in answer.text
        return [line for line in answer.text.splitlines() if "acme" in line]

    others = [acme, minted(node, "--tenant", "other"), minted(node, "--verb", "tasks")]
    for other in ("", "nonsense", *others):
        assert shown(other) == []
    operator = minted(node, "--verb", "hosts")
    wait_for(
        lambda: any("concurrent_downloads" in line for line in shown(operator)), "they are shown"
    )
