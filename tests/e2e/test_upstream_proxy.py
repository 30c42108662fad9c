"""Where an upstream proxy is the only way out, everything that reads origins goes through it."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from tests.e2e.conftest import Cluster, Daemon, Origin, hawker, logging_to
from tests.e2e.test_proxy import Site, answer_to, client_of, site  # noqa: F401
from tests.e2e.test_proxy_https import Https
from tests.e2e.upstream import Registry
from tests.e2e.upstream_proxy import UpstreamProxy

MIB = 2**20
SECRET = "s3cr3t-word"
# A name that nobody but the upstream proxy knows.
FAR = "far.example.test"


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[UpstreamProxy]:
    made = UpstreamProxy()
    made.user = f"ann:{SECRET}"
    monkeypatch.setenv("HAWKER_EGRESS__PROXY", f"http://ann:{SECRET}@{made.name}")
    # The environment's variables say nothing to us.
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    yield made
    made.close()


def place(url: str) -> tuple[str, int]:
    host = httpx.URL(url).netloc.decode().rpartition(":")
    return host[0], int(host[2])


def started(cluster: Cluster) -> Daemon:
    node = cluster.start("node", "up")
    node.wait_ready()
    return node


def content(node: Daemon, url: str) -> httpx.Response:
    with node.client() as client:
        return client.get("/peer/v1/content", params={"url": url})


def test_a_peer_reads_a_name_that_only_the_proxy_knows(
    cluster: Cluster, origin: Origin, upstream: UpstreamProxy
) -> None:
    data = os.urandom(3 * MIB)
    upstream.names[FAR] = place(origin.put("/big", data))
    node = started(cluster)
    for _ in range(2):
        answer = content(node, f"http://{FAR}/big")
        assert (answer.status_code, answer.content) == (200, data)
    assert origin.sent_bytes == len(data)
    assert upstream.asked == [("GET", f"http://{FAR}/big")]
    # It signs in there, and shows that to nobody else.
    assert upstream.fields["host"] == FAR


def test_https_is_asked_for_by_a_tunnel(
    cluster: Cluster,
    origin: Origin,
    upstream: UpstreamProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    https = Https(origin, tmp_path)
    monkeypatch.setenv("HAWKER_EGRESS__CA", str(https.file))
    data = os.urandom(MIB)
    upstream.names["localhost.example.test"] = place(https.put("/big", data))
    url = https.put("/big", data)
    node = started(cluster)
    assert content(node, url).content == data
    assert upstream.asked == [("CONNECT", httpx.URL(url).netloc.decode())]
    # The origin's certificate is verified by the name in the URL, through the tunnel, too.
    refused = content(node, "https://localhost.example.test/big")
    assert refused.status_code == 502
    assert "certificate" in refused.json()["detail"].lower()


def test_the_mirror_asks_through_it(
    cluster: Cluster, upstream: UpstreamProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry()
    try:
        manifest, layer = registry.put_image("org/app", "v1", 2 * MIB)
        upstream.names["registry.example.test"] = place(registry.url)
        upstreams = {"registry.example.test": "http://registry.example.test"}
        monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps(upstreams))
        monkeypatch.setenv("HAWKER_REGISTRY__DEFAULT", "registry.example.test")
        node = started(cluster)
        with httpx.Client(base_url=node.url, trust_env=False, timeout=60) as client:
            accept = {"accept": "application/vnd.oci.image.manifest.v1+json"}
            found = client.get("/v2/org/app/manifests/v1", headers=accept)
            assert found.headers["docker-content-digest"] == manifest
            assert client.get(f"/v2/org/app/blobs/{layer}").content == registry.blobs[layer]
            tags = client.get("/v2/org/app/tags/list")
            assert tags.json()["tags"] == ["a", "b"]
        assert registry.sent[layer] == len(registry.blobs[layer])
        assert all(
            target.startswith("http://registry.example.test/") for _, target in upstream.asked
        )
    finally:
        registry.close()


def test_the_forward_proxy_passes_on_through_it(
    cluster: Cluster,
    site: Site,  # noqa: F811
    origin: Origin,
    upstream: UpstreamProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = [{"url": "/big$", "action": "swarm"}]
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(rules))
    data = os.urandom(2 * MIB)
    upstream.names[FAR] = place(origin.put("/big", data))
    upstream.names["site.example.test"] = place(site.url)
    node = started(cluster)
    with client_of(node) as client:
        up = client.post("http://site.example.test/echo?q=1", content=b"up" * 10**5)
        assert (up.status_code, up.content) == (207, b"up" * 10**5)
        assert upstream.asked == [("POST", "http://site.example.test/echo?q=1")]
        # Neither what the client shows us nor what we show the proxy goes to the origin.
        assert "proxy-authorization" not in site.seen[-1][2]
        # A HEAD is not understood by this origin, so what is asked is asked for itself.
        assert client.get(f"http://{FAR}/big").content == data


def test_tunnels_lead_through_it(
    cluster: Cluster, origin: Origin, upstream: UpstreamProxy, tmp_path: Path
) -> None:
    https = Https(origin, tmp_path)
    data = os.urandom(2 * MIB)
    url = https.put("/big", data)
    node = started(cluster)
    context = ssl.create_default_context(cafile=str(https.file))
    with httpx.Client(
        proxy=node.ready["proxy"], verify=context, trust_env=False, timeout=60
    ) as client:
        assert client.get(url).content == data
    assert upstream.asked == [("CONNECT", httpx.URL(url).netloc.decode())]


def test_a_proxy_that_speaks_tls(
    cluster: Cluster, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    https = Https(origin, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    both = tmp_path / "both.pem"
    both.write_bytes(authority.cert_pem.bytes() + https.file.read_bytes())
    secured = UpstreamProxy(context)
    try:
        monkeypatch.setenv("HAWKER_EGRESS__PROXY", secured.url)
        monkeypatch.setenv("HAWKER_EGRESS__CA", str(both))
        data = os.urandom(2 * MIB)
        url = https.put("/big", data)
        node = started(cluster)
        assert content(node, url).content == data
        trusted = ssl.create_default_context(cafile=str(https.file))
        with httpx.Client(
            proxy=node.ready["proxy"], verify=trusted, trust_env=False, timeout=60
        ) as client:
            assert client.get(url).content == data
        assert [method for method, _ in secured.asked] == ["CONNECT", "CONNECT"]
    finally:
        secured.close()


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (407, {}),
        (502, {}),
        (504, {}),
        (403, {"X-Squid-Error": "ERR_ACCESS_DENIED 0"}),
        (200, {"Proxy-Status": "there; error=http_request_denied"}),
    ],
)
def test_a_refusal_is_the_proxys_and_not_the_origins(
    cluster: Cluster, upstream: UpstreamProxy, status: int, fields: dict[str, str]
) -> None:
    upstream.refusal = status, fields
    node = started(cluster)
    named = f"the upstream proxy {upstream.name} answered {status}"
    answer = content(node, f"http://{FAR}/big")
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:hawker:problem:origin-failed")
    assert named in answer.json()["detail"]
    with client_of(node) as client:
        through = client.get(f"http://{FAR}/other")
    # A 407 of the proxy's would make our client show its password for us.
    assert (through.status_code, named in through.json()["detail"]) == (502, True)
    assert "proxy-authenticate" not in through.headers
    if status != 200:
        tunnel = answer_to(node, f"CONNECT {FAR}:443 HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert tunnel.startswith(b"HTTP/1.1 502 ")
        assert named.encode() in tunnel
        https = content(node, f"https://{FAR}/big")
        assert (https.status_code, named in https.json()["detail"]) == (502, True)


def test_an_origins_own_refusal_stays_its_own(
    cluster: Cluster, origin: Origin, upstream: UpstreamProxy
) -> None:
    upstream.names[FAR] = place(origin.put("/big", b"x"))
    node = started(cluster)
    assert content(node, f"http://{FAR}/none").status_code == 404


def test_a_proxy_that_is_not_there_is_named(
    cluster: Cluster, origin: Origin, upstream: UpstreamProxy
) -> None:
    upstream.close()
    url = origin.put("/big", b"x")
    node = started(cluster)
    named = f"the upstream proxy {upstream.name} cannot be reached"
    for asked in (url, url.replace("http://", "https://")):
        answer = content(node, asked)
        assert (answer.status_code, named in answer.json()["detail"]) == (502, True)
        assert SECRET not in answer.text
    assert answer_to(node, f"GET {url} HTTP/1.1\r\nhost: x\r\n\r\n".encode()).count(named.encode())
    # Nobody goes round it.
    assert origin.requests == 0


def test_what_is_direct_does_not_go_through_it(
    cluster: Cluster, origin: Origin, upstream: UpstreamProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_EGRESS__DIRECT", "127.0.0.0/8,*.example.com")
    data = os.urandom(MIB)
    url = origin.put("/big", data)
    node = started(cluster)
    assert content(node, url).content == data
    with client_of(node) as client:
        assert client.get(url).content == data
    assert upstream.asked == []


def test_roles_talk_to_each_other_without_it(
    cluster: Cluster, origin: Origin, upstream: UpstreamProxy
) -> None:
    cluster.make_key()
    scheduler = cluster.scheduler()
    key = ("--cluster-key", str(cluster.key), "--scheduler", scheduler.url)
    nodes = [cluster.start(f"node-{n}", "serve", "peer", *key) for n in range(2)]
    for node in nodes:
        node.wait_ready()
    data = os.urandom(4 * MIB)
    upstream.names[FAR] = place(origin.put("/big", data))
    for node in nodes:
        assert content(node, f"http://{FAR}/big").content == data
    assert origin.sent_bytes == len(data)
    assert {target for _, target in upstream.asked} == {f"http://{FAR}/big"}


def test_where_it_may_not_be_asked_to_lead(cluster: Cluster, upstream: UpstreamProxy) -> None:
    node = started(cluster)
    port = httpx.URL(node.url).port
    for url in (
        "http://169.254.169.254/latest",
        "http://0xa9fea9fe/latest",
        "http://metadata.google.internal/",
        f"http://127.0.0.1:{port}/healthy",
        f"http://localhost:{port}/healthy",
        f"http://{FAR}:6379/",
    ):
        with client_of(node) as client:
            answer = client.get(url)
        assert (answer.status_code, answer.json()["title"]) == (403, "forbidden"), url
        target = httpx.URL(url).netloc.decode()
        target = target if ":" in target else f"{target}:80"
        tunnel = answer_to(node, f"CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert tunnel.startswith(b"HTTP/1.1 403 "), url
    assert upstream.asked == []


def test_its_password_is_shown_nowhere(
    cluster: Cluster, upstream: UpstreamProxy, tmp_path: Path
) -> None:
    upstream.user = "ann:another"
    file = tmp_path / "hawker.toml"
    file.write_text(f'[egress]\nproxy = "http://ann:{SECRET}@{upstream.name}"\n')
    for more in ((), ("--json",)):
        shown = hawker("config", "show", "--config", str(file), *more).stdout.decode()
        assert f"http://***@{upstream.name}" in shown
        assert SECRET not in shown
    log = tmp_path / "node.log"
    with logging_to(log):
        node = started(cluster)
    answer = content(node, f"http://{FAR}/big")
    assert "another user and password" in answer.json()["hint"]
    assert SECRET not in answer.text
    assert FAR in log.read_text()
    assert SECRET not in log.read_text()
    file.write_text(f'[egress]\nproxy = "ftp://ann:{SECRET}@host"\n')
    bad = hawker("up", "--config", str(file), "--data", str(tmp_path / "bad"))
    assert bad.returncode == 2
    assert b"egress.proxy is no URL of a proxy" in bad.stderr
    assert SECRET.encode() not in bad.stderr
