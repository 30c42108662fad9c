"""A mirror of registries gives what the upstream has, once, to who may have it, or says why not."""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, hawker
from tests.e2e.upstream import IMAGE, INDEX, Registry, digest_of

MIB = 2**20
ACCEPT = {"accept": f"{IMAGE}, {INDEX}"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    made = Registry()
    # What every process of the test mirrors.
    monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps({made.name: made.url}))
    monkeypatch.setenv("HAWKER_REGISTRY__DEFAULT", made.name)
    yield made
    made.close()


def get(node: Daemon, path: str, method: str = "GET", **fields: str) -> httpx.Response:
    headers = {**ACCEPT, **{name.replace("_", "-"): value for name, value in fields.items()}}
    url = f"{node.url}/v2/{path}"
    return httpx.request(method, url, headers=headers, timeout=60, trust_env=False)


def codes(answer: httpx.Response) -> list[str]:
    return [error["code"] for error in answer.json()["errors"]]


def pull(node: Daemon, reference: str = "1") -> dict[str, bytes]:
    """All of an image, by digest, each checked."""
    manifest = get(node, f"lib/img/manifests/{reference}")
    assert manifest.status_code == 200, manifest.text
    got = {manifest.headers["docker-content-digest"]: manifest.content}
    document = manifest.json()
    for blob in (document["config"], *document["layers"]):
        answer = get(node, f"lib/img/blobs/{blob['digest']}")
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == blob["size"]
        got[blob["digest"]] = answer.content
    assert all(digest_of(data) == digest for digest, data in got.items())
    return got


def test_three_nodes_pull_at_once_and_the_upstream_sends_each_byte_once(
    cluster: Cluster, registry: Registry
) -> None:
    cluster.make_key()
    registry.put_image("lib/img", "1", 5 * MIB + 3, 2 * MIB, 10)
    scheduler = cluster.scheduler()
    key = ("--cluster-key", str(cluster.key), "--scheduler", scheduler.url)
    seed = cluster.peer("seed", scheduler, "--seed")
    nodes = [cluster.start(f"node-{n}", "serve", "peer", "registry", *key) for n in range(3)]
    for daemon in (seed, *nodes):
        daemon.wait_ready()
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(pull, nodes))
    assert images[0] == images[1] == images[2]
    assert dict(registry.sent) == {digest: len(data) for digest, data in images[0].items()}
    # A tag is asked about by each, its bytes are not.
    assert registry.asked["HEAD manifests"] == 3
    before = registry.sent.total()
    assert pull(nodes[0]) == images[0]
    assert registry.sent.total() == before


class TestOneNode:
    @pytest.fixture
    def node(self, cluster: Cluster, registry: Registry) -> Daemon:
        node = cluster.start("node", "up")
        node.wait_ready()
        return node

    def test_a_tag_that_moved_is_seen_at_the_next_request(
        self, node: Daemon, registry: Registry
    ) -> None:
        first = registry.put_image("lib/img", "1", 100)[0]
        assert get(node, "lib/img/manifests/1").headers["docker-content-digest"] == first
        second = registry.put_image("lib/img", "1", 100)[0]
        answer = get(node, "lib/img/manifests/1")
        assert answer.headers["docker-content-digest"] == second == digest_of(answer.content)
        assert answer.headers["content-type"] == IMAGE
        # What has a digest stays what it was.
        assert digest_of(get(node, f"lib/img/manifests/{first}").content) == first

    def test_heads_say_what_gets_give(self, node: Daemon, registry: Registry) -> None:
        manifest, layer = registry.put_image("lib/img", "1", MIB)
        for path in ("manifests/1", f"manifests/{manifest}", f"blobs/{layer}"):
            whole, head = get(node, f"lib/img/{path}"), get(node, f"lib/img/{path}", "HEAD")
            assert (head.status_code, head.content) == (200, b"")
            for name in ("content-length", "content-type", "docker-content-digest", "etag"):
                assert head.headers[name] == whole.headers[name], (path, name)
            assert head.headers["docker-distribution-api-version"] == "registry/2.0"
            tag = {"if_none_match": whole.headers["etag"]}
            unchanged = get(node, f"lib/img/{path}", **tag)
            assert (unchanged.status_code, unchanged.content) == (304, b"")

    def test_an_upstream_without_heads_is_asked_by_a_get(
        self, node: Daemon, registry: Registry
    ) -> None:
        registry.answers_head = False
        manifest, _ = registry.put_image("lib/img", "1", 100)
        for method in ("GET", "HEAD"):
            answer = get(node, "lib/img/manifests/1", method)
            assert answer.headers["docker-content-digest"] == manifest
            assert int(answer.headers["content-length"]) > 100

    def test_ranges_of_a_blob(self, node: Daemon, registry: Registry) -> None:
        data = os.urandom(2048)
        registry.blobs[digest_of(data)] = data
        path = f"lib/img/blobs/{digest_of(data)}"
        for asked, expected in (
            ("500-1499", data[500:1500]),
            ("500-", data[500:]),
            ("-500", data[-500:]),
            ("2000-5000", data[2000:]),
        ):
            answer = get(node, path, range=f"bytes={asked}")
            assert (answer.status_code, answer.content) == (206, expected)
            assert answer.headers["content-range"].endswith("/2048")
            assert answer.headers["docker-content-digest"] == digest_of(data)
        for asked in ("500-0", "5000-10000"):
            answer = get(node, path, range=f"bytes={asked}")
            assert (answer.status_code, codes(answer)) == (416, ["RANGE_INVALID"])
            assert answer.headers["content-range"] == "bytes */2048"
        other = get(node, path, range="bytes=0-1", if_range='"another"')
        assert (other.status_code, other.content) == (200, data)

    def test_wrong_bytes_never_end_well(self, node: Daemon, registry: Registry) -> None:
        manifest, large, small = registry.put_image("lib/img", "1", 6 * MIB, 1000)
        for digest in (large, small, manifest):
            right = registry.blobs.get(digest, b"x" * 700)
            registry.lies[digest] = right[:-1] + bytes([right[-1] ^ 1])
        for path in (f"blobs/{large}", f"blobs/{small}", f"manifests/{manifest}"):
            for _ in range(2):
                try:
                    answer = get(node, f"lib/img/{path}")
                except httpx.RemoteProtocolError:
                    # Cut in the middle of its body.
                    continue
                assert answer.status_code in (502, 503), path
        registry.lies.clear()
        assert digest_of(get(node, f"lib/img/blobs/{large}").content) == large

    def test_no_manifest_without_its_blobs(self, node: Daemon, registry: Registry) -> None:
        registry.put_image("lib/img", "1", 100)
        registry.blobs.clear()
        answer = get(node, "lib/img/manifests/1")
        assert (answer.status_code, codes(answer)) == (503, ["UNKNOWN"])

    def test_what_there_is_not(self, node: Daemon, registry: Registry) -> None:
        absent = digest_of(b"absent")
        for path, status, code in (
            ("lib/img/manifests/none", 404, "MANIFEST_UNKNOWN"),
            (f"lib/img/manifests/{absent}", 404, "MANIFEST_UNKNOWN"),
            (f"lib/img/blobs/{absent}", 404, "BLOB_UNKNOWN"),
            ("lib/img/manifests/sha256:baddigeststring", 400, "DIGEST_INVALID"),
            ("lib/img/blobs/1", 400, "DIGEST_INVALID"),
            ("Lib/img/manifests/1", 400, "NAME_INVALID"),
            ("nothing", 404, "NAME_INVALID"),
            ("lib/img/manifests/1?ns=elsewhere.test", 403, "DENIED"),
        ):
            answer = get(node, path)
            assert (answer.status_code, codes(answer)) == (status, [code]), path
            # Its answer has no body; a push asks so whether a blob is there.
            assert get(node, path, "HEAD").status_code == status, path
        answer = get(node, "lib/img/blobs/uploads/", "POST")
        assert (answer.status_code, codes(answer)) == (405, ["UNSUPPORTED"])
        assert not registry.pushed

    def test_an_upstream_is_named_in_each_way(self, node: Daemon, registry: Registry) -> None:
        digest = registry.put_image("lib/img", "1", 100)[0]
        for path in ("", f"{registry.name}/"):
            assert (
                get(node, f"{path}lib/img/manifests/1").headers["docker-content-digest"] == digest
            )
        query = get(node, f"lib/img/manifests/1?ns={registry.name}")
        assert query.headers["docker-content-digest"] == digest
        # The next page is had here, too, named in the same way.
        listing = get(node, f"{registry.name}/lib/img/tags/list")
        assert listing.json()["tags"] == ["a", "b"]
        assert f"</v2/{registry.name}/lib/img/tags/list?last=b" in listing.headers["link"]
        listing = get(node, f"lib/img/tags/list?ns={registry.name}")
        assert f"&ns={registry.name}>" in listing.headers["link"]
        strange = get(node, f"lib/img/tags/list?ns=%0d%0a{registry.name}")
        assert strange.status_code < 500
        referrers = get(node, f"lib/img/referrers/{digest}?artifactType=x")
        assert referrers.headers["oci-filters-applied"] == "artifactType"

    def test_blobs_in_a_store_behind_signed_urls_are_read_once(
        self, node: Daemon, registry: Registry
    ) -> None:
        registry.storage = True
        registry.put_image("lib/img", "1", MIB)
        assert pull(node) == pull(node)
        assert registry.sent.total() == sum(map(len, pull(node).values()))


class TestTokens:
    @pytest.fixture
    def private(self, registry: Registry) -> Registry:
        registry.open = {"lib/img"}
        registry.users = {"ann": ("secret", {"own/img"}), "bob": ("other", set())}
        return registry

    def test_what_anybody_gets_a_token_for_is_pulled_without_one(
        self, cluster: Cluster, private: Registry
    ) -> None:
        private.put_image("lib/img", "1", MIB)
        node = cluster.start("node", "up")
        node.wait_ready()
        assert len(pull(node)) == 3

    def test_content_is_for_who_shows_a_token_for_it(
        self, cluster: Cluster, private: Registry
    ) -> None:
        manifest, layer = private.put_image("own/img", "1", 3 * MIB)
        node = cluster.start("node", "up")
        node.wait_ready()
        paths = ("own/img/manifests/1", f"own/img/manifests/{manifest}", f"own/img/blobs/{layer}")

        def refused(**fields: str) -> None:
            for path, method in itertools.product(paths, ("GET", "HEAD")):
                answer = get(node, path, method, **fields)
                assert answer.status_code == 401, (path, method)
                assert method == "HEAD" or codes(answer) == ["UNAUTHORIZED"], path
                challenge = answer.headers["www-authenticate"]
                assert 'scope="repository:own/img:pull"' in challenge
                assert f'realm="{private.url}/token"' in challenge

        refused()
        ann = {"authorization": "Bearer user-own/img"}
        for path in paths:
            answer = get(node, path, **ann)
            assert answer.status_code == 200
            assert answer.headers["docker-content-digest"] == digest_of(answer.content)
        # It is stored here now, and still not for others.
        refused()
        refused(authorization="Bearer useless")
        # Nobody was shown the token but the upstream's own paths.
        assert all(
            path.startswith("/v2/own/img/") for _, path, shown in private.seen if "user-" in shown
        )

    def test_configured_credentials_open_it_for_everybody_here(
        self, cluster: Cluster, private: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        private.put_image("own/img", "1", MIB)
        monkeypatch.setenv("HAWKER_SOURCES__CREDENTIALS", "static")
        user = {"username": "ann", "password": "secret"}
        options = {"static": {"origins": {private.url: user}}}
        monkeypatch.setenv("HAWKER_PLUGINS__OPTIONS", json.dumps(options))
        node = cluster.start("node", "up")
        node.wait_ready()
        assert get(node, "own/img/manifests/1").status_code == 200
        tokens = [path for _, path, _ in private.seen if path.startswith("/token")]
        # One for the mirror, one for the source.
        assert len(tokens) <= 2

    def test_a_mirror_that_asks_for_tokens_takes_them_as_passwords(
        self, cluster: Cluster, private: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        private.put_image("lib/img", "1", 100)
        monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
        node = cluster.start("node", "up")
        node.wait_ready()
        for answer in (get(node, ""), get(node, "lib/img/manifests/1")):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Basic realm="hawker"'
        key = ClusterKey(read_key_file(node.data / "cluster.key"))
        token = key.mint("", ["content"])
        password = base64.b64encode(f"anyone:{token}".encode()).decode()
        for shown in (f"Basic {password}", f"Bearer {token}"):
            assert get(node, "lib/img/manifests/1", authorization=shown).status_code == 200
        assert not any(token in shown or password in shown for _, _, shown in private.seen)


def test_pushes_go_upstream_where_that_is_allowed(
    cluster: Cluster, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_REGISTRY__PUSH", "true")
    node = cluster.start("node", "up")
    node.wait_ready()
    data = os.urandom(3 * MIB)
    begun = get(node, f"{registry.name}/lib/img/blobs/uploads/", "POST", authorization="Basic eA==")
    assert begun.status_code == 202
    # The way on leads through here, and names the upstream as the client did.
    assert begun.headers["location"] == f"/v2/{registry.name}/lib/img/blobs/uploads/one?_state=x"
    target = f"{node.url}{begun.headers['location']}&digest={digest_of(data)}"
    done = httpx.put(target, content=data, timeout=60, trust_env=False)
    assert done.status_code == 201
    assert registry.pushed == {digest_of(data): data}
    assert get(node, f"lib/img/blobs/{digest_of(data)}").content == data
    assert ("POST", "/v2/lib/img/blobs/uploads/", "Basic eA==") in registry.seen


def test_what_was_deleted_through_a_mirror_is_not_had_there_until_it_is_pushed_again(
    cluster: Cluster, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_REGISTRY__PUSH", "true")
    manifest, layer = registry.put_image("lib/img", "1", MIB)
    data = registry.blobs[layer]
    node = cluster.start("node", "up")
    node.wait_ready()
    assert len(pull(node)) == 3
    for path, code in (
        (f"lib/img/blobs/{layer}", "BLOB_UNKNOWN"),
        (f"lib/img/manifests/{manifest}", "MANIFEST_UNKNOWN"),
    ):
        assert get(node, path, "DELETE").status_code == 202
        assert get(node, path, "HEAD").status_code == 404
        gone = get(node, path)
        assert (gone.status_code, codes(gone)) == (404, [code])
        # Somebody else's deletion is as good.
        assert get(node, path, "DELETE").status_code == 404
        assert get(node, path).status_code == 404
    registry.blobs[layer] = data
    before = registry.sent.total()
    assert get(node, f"lib/img/blobs/{layer}").content == data
    # It was here all the time, and the upstream is asked no more.
    asked = registry.asked.total()
    assert get(node, f"lib/img/blobs/{layer}", "HEAD").status_code == 200
    assert (registry.sent.total(), registry.asked.total()) == (before, asked)


def test_a_token_of_the_cluster_is_not_pushed_upstream(
    cluster: Cluster, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_REGISTRY__PUSH", "true")
    monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
    node = cluster.start("node", "up")
    node.wait_ready()
    token = ClusterKey(read_key_file(node.data / "cluster.key")).mint("", ["content"])
    begun = get(node, "lib/img/blobs/uploads/", "POST", authorization=f"Bearer {token}")
    assert begun.status_code == 202
    assert [shown for _, _, shown in registry.seen] == [""]


def test_a_mirror_without_a_peer_says_so(cluster: Cluster, registry: Registry) -> None:
    data = str(cluster.root / "node")
    done = hawker("serve", "registry", "--port", "0", "--data", data)
    assert done.returncode == 2
    assert "needs a peer" in done.stderr.decode()
