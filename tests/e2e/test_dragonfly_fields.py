"""What clients of Dragonfly say in header fields is done here, and goes no further."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, wait_for
from tests.e2e.test_proxy import Site, client_of, site  # noqa: F401
from tests.e2e.test_proxy_caching import Pages
from tests.e2e.test_registry import get, registry  # noqa: F401
from tests.e2e.upstream import Registry

MIB = 2**20
RULES = [
    {"url": r"/big\b", "action": "swarm", "immutable": True},
    {"url": r"/secret\b", "action": "block"},
]


@pytest.fixture
def node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(RULES))
    made = cluster.start("node", "up")
    made.wait_ready()
    return made


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    yield made
    made.close()


def wish(**fields: str) -> dict[str, str]:
    return {f"X-Dragonfly-{name.replace('_', '-')}": value for name, value in fields.items()}


def tasks(node: Daemon) -> list[dict[str, object]]:
    with node.client() as client:
        found: list[dict[str, object]] = client.get("/peer/v1/tasks").json()
    return found


def test_tag_and_application_name_other_tasks(node: Daemon, origin: Origin) -> None:
    data = os.urandom(MIB)
    url = origin.put("/big", data)
    named = set()
    with client_of(node) as client:
        for fields in ({}, wish(Tag="t"), wish(Tag="t", Application="a"), wish(Application="a")):
            for _ in range(2):
                answer = client.get(url, headers=fields)
                assert answer.content == data
                named.add(answer.headers["x-dragonfly-task-id"])
            assert answer.headers["x-dragonfly-task-download-finished"] == "true"
    assert origin.requests == 4
    assert named == {stat["task"] for stat in tasks(node)}
    assert len(named) == 4
    # The peer calls it the same.
    with node.client() as client:
        found = client.get("/peer/v1/content", params={"url": url, "tag": "t"})
    assert found.headers["hawker-task"] in named
    assert origin.requests == 4


def test_filtered_parameters_are_no_part_of_what_it_is_called(node: Daemon, origin: Origin) -> None:
    data = os.urandom(MIB)
    fields = wish(Filtered_Query_Params="when, who")
    with client_of(node) as client:
        for query in ("?when=1&keep=1&who=a", "?when=2&keep=1&who=b"):
            url = origin.put(f"/big{query}", data)
            assert client.get(url, headers=fields).content == data
    assert len(tasks(node)) == 1
    # The second was tried at the origin, for one byte.
    assert origin.sent_bytes < len(data) + 10


def test_the_swarm_is_asked_for_or_not_whatever_the_rules_say(
    node: Daemon, origin: Origin, pages: Pages
) -> None:
    data = os.urandom(MIB)
    page = pages.put("/page", data, "1", cache_control="max-age=60")
    with client_of(node) as client:
        for _ in range(3):
            answer = client.get(page, headers=wish(Use_P2P="true"))
            assert (answer.content, answer.headers["etag"]) == (data, '"1"')
        assert pages.sent["/page"] == len(data)
        assert client.get(page).content == data
        assert pages.sent["/page"] == 2 * len(data)
        url = origin.put("/big", data)
        for _ in range(2):
            assert client.get(url, headers=wish(Use_P2P="false")).content == data
        assert origin.requests == 2
        assert len(tasks(node)) == 1
        # What a rule blocks, and what is not shared, is nobody's to wish for.
        assert client.get(f"{page}/secret", headers=wish(Use_P2P="true")).status_code == 403
        private = pages.put("/mine", data, "2", cache_control="private")
        for _ in range(2):
            answer = client.get(private, headers=wish(Use_P2P="true"))
            assert answer.content == data
            assert "x-dragonfly-task-id" not in answer.headers
        assert len(tasks(node)) == 1


def test_a_part_brings_the_whole_where_that_is_wished(node: Daemon, origin: Origin) -> None:
    data = os.urandom(24 * MIB)
    url = origin.put("/big", data)
    part = {"range": f"bytes={20 * MIB}-{20 * MIB + 9}"}
    with client_of(node) as client:
        answer = client.get(url, headers=part)
        assert (answer.status_code, answer.content) == (206, data[20 * MIB : 20 * MIB + 10])
        assert answer.headers["x-dragonfly-task-download-finished"] == "false"
        assert origin.sent_bytes < 4 * MIB
        answer = client.get(url, headers=part | wish(Prefetch="true"))
        assert (answer.status_code, answer.content) == (206, data[20 * MIB : 20 * MIB + 10])
        wait_for(lambda: tasks(node)[0]["complete"], "all of it is here", 30)
        before = origin.sent_bytes
        # Its length was learnt by its first byte, before anything else was read.
        assert before == len(data) + 1
        assert client.get(url).content == data
    assert origin.sent_bytes == before


def test_they_go_to_no_origin(node: Daemon, site: Site) -> None:  # noqa: F811
    fields = wish(Tag="t", Priority="0", Piece_Length="4194304", Anything="else")
    with client_of(node) as client:
        assert client.get(f"{site.url}/echo", headers=fields).status_code == 207
        assert client.post(f"{site.url}/echo", headers=fields, content=b"x").status_code == 207
    assert len(site.seen) == 2
    assert not [name for _, _, seen in site.seen for name in seen if "dragonfly" in name]


@pytest.mark.parametrize(
    "fields",
    [
        wish(Priority="7"),
        wish(Priority="-1"),
        wish(Priority="high"),
        wish(Use_P2P="maybe"),
        wish(Prefetch="1"),
        wish(Tag="t" * 1025),
        wish(Output_Path="/etc/passwd"),
        wish(Force_Hard_Link="true"),
    ],
)
def test_values_that_make_no_sense_are_told(
    node: Daemon,
    site: Site,  # noqa: F811
    fields: dict[str, str],
) -> None:
    name = next(iter(fields))
    with client_of(node) as client:
        answer = client.get(f"{site.url}/echo", headers=fields)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:hawker:problem:bad-request")
    assert name.lower() in answer.json()["detail"].lower()
    assert answer.headers["x-dragonfly-error-type"] == "proxy"
    mirrored = httpx.get(f"{node.url}/v2/", headers=fields, trust_env=False)
    assert mirrored.status_code == 400
    assert name.lower() in mirrored.json()["errors"][0]["message"].lower()
    assert not site.seen


@pytest.mark.parametrize(
    "fields",
    [
        wish(Piece_Length="junk"),
        wish(Content_For_Calculating_Task_ID="x"),
        wish(Enable_Task_ID_Based_Blob_Digest="true"),
        wish(Registry="https://elsewhere.test"),
    ],
)
def test_what_has_no_meaning_here_changes_nothing(
    node: Daemon, origin: Origin, fields: dict[str, str]
) -> None:
    url = origin.put("/big", os.urandom(MIB))
    with client_of(node) as client:
        for given in (fields, {}):
            assert client.get(url, headers=given).content == origin.files["/big"]
    assert origin.requests == 1


def test_whose_failure_it_is(node: Daemon) -> None:
    with client_of(node) as client:
        answer = client.get("http://127.0.0.1:9999/none")
        assert (answer.status_code, answer.headers["x-dragonfly-error-type"]) == (502, "backend")
        answer = client.get("http://127.0.0.1:9999/secret")
        assert (answer.status_code, answer.headers["x-dragonfly-error-type"]) == (403, "proxy")


class TestMirror:
    def test_the_upstream_is_named_by_url_or_name_within_the_list(
        self,
        cluster: Cluster,
        registry: Registry,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        other = Registry()
        try:
            upstreams = {registry.name: registry.url, "other.test": other.url}
            monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps(upstreams))
            digest = other.put_image("lib/img", "1", MIB)[0]
            node = cluster.start("node", "up")
            node.wait_ready()
            for named in (other.url, f"{other.url}/", "other.test", "https://other.test"):
                answer = get(node, "lib/img/manifests/1", X_Dragonfly_Registry=named)
                assert answer.headers["docker-content-digest"] == digest
            # It goes before the parameter that containerd sends.
            query = f"lib/img/manifests/1?ns={registry.name}"
            assert get(node, query, X_Dragonfly_Registry=other.url).status_code == 200
            assert get(node, query).status_code == 404
            for named, status in (
                ("https://evil.test", 403),
                ("evil.test", 403),
                (f"{other.url}/v2/x", 400),
                ("ftp://other.test", 400),
                ("https://a@other.test", 400),
            ):
                answer = get(node, "lib/img/manifests/1", X_Dragonfly_Registry=named)
                assert answer.status_code == status, named
        finally:
            other.close()

    def test_tags_and_prefetch(
        self,
        cluster: Cluster,
        registry: Registry,  # noqa: F811
    ) -> None:
        _, layer = registry.put_image("lib/img", "1", 24 * MIB)
        node = cluster.start("node", "up")
        node.wait_ready()
        part = f"bytes={20 * MIB}-{20 * MIB + 9}"
        answer = get(node, f"lib/img/blobs/{layer}", range=part, X_Dragonfly_Prefetch="true")
        assert answer.status_code == 206
        assert answer.content == registry.blobs[layer][20 * MIB : 20 * MIB + 10]
        task = answer.headers["x-dragonfly-task-id"]
        wait_for(
            lambda: [s for s in tasks(node) if s["task"] == task and s["complete"]],
            "all of it is here",
            30,
        )
        assert registry.sent[layer] == 24 * MIB + 1
        tagged = get(node, f"lib/img/blobs/{layer}", X_Dragonfly_Tag="t")
        assert tagged.content == registry.blobs[layer]
        assert tagged.headers["x-dragonfly-task-id"] != task
