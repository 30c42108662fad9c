"""Content larger than the quota passes through proxy and mirror whole, in bounded room."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.conftest import Cluster, wait_for
from tests.e2e.test_proxy import client_of
from tests.e2e.test_proxy_caching import Pages
from tests.e2e.test_registry import get, registry  # noqa: F401
from tests.e2e.test_small_store import QUOTA, SIZE, Watch, stored_bytes
from tests.e2e.upstream import Registry, digest_of

MIB = 2**20
# Beside content there are its signed digests, and pieces on their way.
MOST = QUOTA + 16 * MIB


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAWKER_STORAGE__QUOTA", str(QUOTA))
    rules = [
        {"url": "/fixed", "action": "swarm", "immutable": True},
        {"url": "/page", "action": "swarm"},
    ]
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(rules))


def sha256_of(answer: httpx.Response) -> str:
    hasher = hashlib.sha256()
    for chunk in answer.iter_raw(MIB):
        hasher.update(chunk)
    return hasher.hexdigest()


@pytest.mark.parametrize("path", ["/fixed", "/page"])
def test_it_passes_through_the_proxy(cluster: Cluster, pages: Pages, path: str) -> None:
    data = os.urandom(SIZE)
    right = hashlib.sha256(data).hexdigest()
    url = pages.put(path, data, "1", cache_control="max-age=60")
    node = cluster.start("node", "up")
    node.wait_ready()

    def whole() -> str:
        with client_of(node) as client, client.stream("GET", url) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-length"] == str(SIZE)
            return sha256_of(answer)

    with Watch(node) as watch:
        # One alone, and some at once: who finds the window taken is given the origin's own.
        assert whole() == right
        assert pages.sent[path] == SIZE
        with ThreadPoolExecutor() as pool:
            assert list(pool.map(lambda _: whole(), range(3))) == [right] * 3
        assert pages.sent[path] <= 4 * SIZE
    assert 0 < watch.most <= MOST
    wait_for(lambda: stored_bytes(str(node.data)) == 0, "nothing of it is kept", 20)


def test_a_reader_that_leaves_lets_the_next_one_have_it(cluster: Cluster, pages: Pages) -> None:
    data = os.urandom(SIZE)
    url = pages.put("/fixed", data, "1")
    node = cluster.start("node", "up")
    node.wait_ready()
    with client_of(node) as client, client.stream("GET", url) as answer:
        next(answer.iter_raw(MIB))
    with client_of(node) as client, client.stream("GET", url) as answer:
        assert sha256_of(answer) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("path", ["/fixed", "/page"])
def test_a_far_range_passes_through_the_proxy(cluster: Cluster, pages: Pages, path: str) -> None:
    data = os.urandom(SIZE)
    url = pages.put(path, data, "1", cache_control="max-age=60")
    node = cluster.start("node", "up")
    node.wait_ready()
    first, last = SIZE - 10 * MIB + 5, SIZE - 9 * MIB
    with client_of(node) as client, Watch(node) as watch:
        for number in (1, 2):
            # Its origin would give all of it.
            answer = client.get(url, headers={"range": f"bytes={first}-{last}"})
            assert (answer.status_code, answer.content) == (206, data[first : last + 1])
            assert pages.asked["GET", path] == number
            wait_for(lambda: stored_bytes(str(node.data)) == 0, "nothing of it is kept", 10)
    assert watch.most <= 16 * MIB


def test_it_passes_through_the_mirror(
    cluster: Cluster,
    registry: Registry,  # noqa: F811
) -> None:
    _, layer = registry.put_image("lib/img", "1", SIZE)
    node = cluster.start("node", "up")
    node.wait_ready()

    def whole() -> tuple[int, str]:
        answer = get(node, f"lib/img/blobs/{layer}")
        return answer.status_code, digest_of(answer.content)

    with Watch(node) as watch:
        assert whole() == (200, layer)
        assert registry.sent[layer] == SIZE
        with ThreadPoolExecutor() as pool:
            assert list(pool.map(lambda _: whole(), range(3))) == [(200, layer)] * 3
        # One reader of the window at a time.
        wait_for(lambda: stored_bytes(str(node.data)) <= MIB, "the last has left", 20)
        part = get(node, f"lib/img/blobs/{layer}", range=f"bytes={SIZE - 10}-{SIZE - 1}")
        assert (part.status_code, part.content) == (206, registry.blobs[layer][-10:])
    assert 0 < watch.most <= MOST
    wait_for(lambda: stored_bytes(str(node.data)) <= MIB, "nothing of it is kept", 20)


def test_past_the_swarm_a_wrong_blob_has_no_end(
    cluster: Cluster,
    registry: Registry,  # noqa: F811
) -> None:
    _, layer = registry.put_image("lib/img", "1", SIZE)
    node = cluster.start("node", "up")
    node.wait_ready()
    url = f"{node.url}/v2/lib/img/blobs/{layer}"
    with httpx.stream("GET", url, trust_env=False, timeout=60) as first:
        next(first.iter_raw(MIB))
        registry.lies[layer] = os.urandom(SIZE)
        with pytest.raises(httpx.RemoteProtocolError):
            get(node, f"lib/img/blobs/{layer}")
