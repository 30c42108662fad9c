"""Requests that no honest client sends, at every endpoint of a running scheduler and peer.

Each gets an answer that says what is wrong with it; none makes a role fail or stop serving. A route
that is not in `ROUTES` fails the first test.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from starlette.routing import Route

from hawker.apps.peer.app import PeerRole
from hawker.apps.scheduler.app import SchedulerRole
from hawker.core.contracts import RoleContext
from hawker.core.digests import HostKey
from hawker.core.registry import PluginHost
from hawker.core.settings import load
from hawker.core.tokens import ClusterKey, read_key_file
from tests.apps.running import MIB, ROUTES, TASK, Endpoint, Running, raw_request, refused


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def test_every_route_is_tried(tmp_path: Path) -> None:
    settings = load({"storage.data": str(tmp_path)}, environ={}).settings
    plugins = PluginHost(settings)

    async def advertise() -> str:
        return "http://127.0.0.1:1"

    context = RoleContext(settings, plugins, advertise, open=True)
    found = set()
    for role in (PeerRole(context), SchedulerRole(context)):
        for route in role.routes():
            assert isinstance(route, Route) and route.methods
            methods = route.methods - {"HEAD"}
            found |= {(method, f"/{role.name}{route.path}") for method in methods}
    assert found == {(endpoint.method, endpoint.path) for endpoint in ROUTES}


def bad_tokens(running: Running, endpoint: Endpoint) -> dict[str, tuple[str, int]]:
    """Authorization fields, and the status they deserve."""
    key, host, verb = running.key, running.host.host, endpoint.verb
    good = running.own.mint(host, [verb])
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    raw = read_key_file(running.data / "cluster.key")
    late = ClusterKey(raw, clock=lambda: time.time() - 7200, own=running.host)

    def header(**fields: object) -> str:
        return f"{encoded(json.dumps(fields).encode())}.{body}"

    fields = {
        "none": "",
        "empty": "Bearer ",
        "basic": "Basic " + base64.b64encode(b"admin:admin").decode(),
        "opaque": "Bearer opaque",
        "expired": f"Bearer {late.mint(host, [verb])}",
        "foreign": f"Bearer {ClusterKey(bytes(32), own=running.host).mint(host, [verb])}",
        "no signature": f"Bearer {head}.{body}.",
        "cut": f"Bearer {head}.{body}.{signature[:-3]}",
        "swapped": f"Bearer {head}.{encoded(json.dumps(claims | {'verbs': ['*']}).encode())}"
        f".{signature}",
        "alg none": f"Bearer {header(alg='none', typ='JWT')}.",
        "alg None": f"Bearer {header(alg='None')}.{signature}",
        "alg HS512": f"Bearer {header(alg='HS512')}.{signature}",
        "alg RS256": f"Bearer {header(alg='RS256')}.{signature}",
        "alg list": f"Bearer {header(alg=['HS256'])}.{signature}",
        "critical": f"Bearer {header(alg='HS256', crit=['exp'])}.{signature}",
        "key inside": f"Bearer {header(alg='HS256', jwk={'kty': 'oct', 'k': 'AA'})}.{signature}",
        "deep": f"Bearer {encoded(b'[' * 9000)}.{body}.{signature}",
        "long number": f"Bearer {encoded(b'[' + b'9' * 5000 + b']')}.{body}.{signature}",
        "no JSON": f"Bearer {encoded(bytes(range(256)))}.{body}.{signature}",
        "dots": "Bearer ..",
        "many dots": "Bearer " + "." * 500,
        "long": "Bearer " + "a" * 12000 + ".b.c",
        "latin": "Bearer \xe9.\xb2.\xff",
        "in two": f"Bearer {head} .{body}.{signature}",
    }
    tokens = {name: (field, 401) for name, field in fields.items()}
    other = "ef" * 32
    if "{task}" in endpoint.path:
        wrong = running.own.mint(host, [verb], task=other)
        tokens["another task"] = (f"Bearer {wrong}", 403)
    if "{host}" in endpoint.path:
        tokens["unproven"] = (f"Bearer {key.mint(host, [verb])}", 403)
        thief = HostKey.generate()
        stolen = ClusterKey(raw, own=thief).mint(thief.host, [verb])
        tokens["another host"] = (f"Bearer {stolen}", 403)
    tokens["another verb"] = (f"Bearer {running.own.mint(host, ['nothing'])}", 403)
    tokens["verb's beginning"] = (f"Bearer {running.own.mint(host, [verb[:-1]])}", 403)
    return tokens


@pytest.mark.parametrize("endpoint", ROUTES, ids=lambda e: f"{e.method} {e.path}")
def test_what_is_no_good_token_opens_nothing(closed: Running, endpoint: Endpoint) -> None:
    path = closed.path(endpoint)
    for name, (field, status) in bad_tokens(closed, endpoint).items():
        fields = f"authorization: {field}\r\n" if field else ""
        got, head = raw_request(closed, endpoint.method, path, endpoint.body, fields, signed=False)
        assert got == status, (name, head)
        assert "content-type: application/problem+json\r\n" in head
        assert (got == 401) == ("\r\nwww-authenticate: Bearer" in head)
    good = closed.own.mint(closed.host.host, [endpoint.verb])
    for name in ("token", "access_token", "authorization"):
        asked = closed.send(endpoint.method, path, endpoint.body, "", params={name: good})
        refused(asked, 401)
    closed.check()


@pytest.mark.parametrize("endpoint", ROUTES, ids=lambda e: f"{e.method} {e.path}")
def test_pages_and_proxies_open_nothing_that_is_open_to_this_machine(
    opened: Running, endpoint: Endpoint
) -> None:
    path = opened.path(endpoint)
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"host": f"evil.example:{opened.address[1]}"},
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"via": "1.1 proxy"},
    ):
        answer = opened.send(endpoint.method, path, endpoint.body, "", headers=headers)
        refused(answer, 401 if endpoint.token else 403)
        assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": "https://evil.example", "access-control-request-method": "DELETE"}
    answer = opened.send("OPTIONS", path, b"", "", headers=preflight)
    refused(answer, 405)
    assert "access-control-allow-origin" not in answer.headers
    opened.check()


@pytest.mark.parametrize("endpoint", ROUTES, ids=lambda e: f"{e.method} {e.path}")
def test_methods_that_a_resource_has_not_are_405(opened: Running, endpoint: Endpoint) -> None:
    path = opened.path(endpoint)
    allowed = {other.method for other in ROUTES if opened.path(other) == path}
    if path.endswith("/tasks/import"):
        # Also a task's path, and no task's.
        allowed |= {"GET", "DELETE"}
    for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "BREW"} - allowed:
        answer = opened.send(method, path, endpoint.body)
        refused(answer, 405)
        assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == allowed
    opened.check()


NO_IDS = (
    "0", "-1", str(2**63), "1%20OR%201=1", "..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%2F", "..%5C..%5Cboot.ini", "%00", "%0A", "a" * 8000, "*", "%25", "%ff%fe", "null", "~",
    "%E2%80%AE", "ab",
)  # fmt: skip


def near(good: str) -> tuple[str, ...]:
    """What is nearly an id."""
    return (
        *NO_IDS, good[:-1], good + "0", "A" * len(good), "F" + good[1:], "g" + good[1:],
        good + "%0A", "%0A" + good, good + "%00", good + "%20", good + "%2F..", "../" + good,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (e, name)
        for e in ROUTES
        for name in ("task", "generation", "host")
        if f"{{{name}}}" in e.path
    ],
    ids=lambda part: part if isinstance(part, str) else f"{part.method} {part.path}",
)
def test_what_is_no_id_names_nothing(closed: Running, endpoint: Endpoint, name: str) -> None:
    good = {"task": TASK, "generation": closed.generation, "host": closed.host.host}[name]
    before = sorted(closed.data.parent.rglob("*"))
    for text in near(good):
        path = closed.path(endpoint, **{name: text})
        # Raw: the client must not tidy the path up.
        status, head = raw_request(closed, endpoint.method, path, endpoint.body)
        assert status in (400, 403, 404, 405), (path[:200], head)
    after = sorted(closed.data.parent.rglob("*"))
    assert [p for p in after if p not in before and "content" in p.parts] == []
    closed.check()


@pytest.mark.parametrize(
    "run",
    [
        "0", "-", "0-", "-0", "1-0", "0-1048576", "0-" + "9" * 30, "9" * 5000 + "-" + "9" * 5000,
        "0x0-0x1", "+0-1", "0-1-2", "-1-0", "%200-1", "0-1%0A", "%D9%A1-%D9%A2", "1e3-1e4", "0.0-1",
    ],
)  # fmt: skip
def test_what_is_no_run_of_pieces_names_none(closed: Running, run: str) -> None:
    path = f"/peer/v1/tasks/{TASK}/{closed.generation}/pieces/{run}"
    status, head = raw_request(closed, "GET", path)
    assert status in (400, 404), head
    closed.check()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/peer/v1/content", ""),
        ("/peer/v1/content?url=", ""),
        ("/peer/v1/content?url=nothing", ""),
        ("/peer/v1/content?url=" + "a" * 12000, ""),
        ("/peer/v1/content?url=http%3A%2F%2F%5B", ""),
        ("/peer/v1/content?url=file%3A%2F%2F%2Fetc%2Fpasswd", ""),
        ("/peer/v1/content?url=file%3A%2F%2F%2Fetc%2Fpasswd%2500", ""),
        ("/peer/v1/content?url=FILE%3A%2Fetc%2Fpasswd", ""),
        ("/peer/v1/content?url=gopher%3A%2F%2F127.0.0.1%3A6379%2F_x", ""),
        ("/peer/v1/content?url=http%3A%2F%2F169.254.169.254%2Flatest", ""),
        ("/peer/v1/content?url=http%3A%2F%2F2852039166%2Flatest", ""),
        ("/peer/v1/content?url=http%3A%2F%2F0xa9fea9fe%2Flatest", ""),
        ("/peer/v1/content?url=http%3A%2F%2F0251.0376.0251.0376%2Flatest", ""),
        ("/peer/v1/content?url=http%3A%2F%2F169.16689662%2Flatest", ""),
        ("/peer/v1/content?url=http%3A%2F%2F%5B%3A%3Affff%3A169.254.169.254%5D%2Flatest", ""),
        ("/peer/v1/content?url=http%3A%2F%2F%5Bfd00%3Aec2%3A%3A254%5D%2Flatest", ""),
        ("/peer/v1/content?url=http%3A%2F%2F127.0.0.1%3A25%2F", ""),
        ("/peer/v1/content?url=http%3A%2F%2F127.0.0.1%3A6379%2F", ""),
        ("/peer/v1/content?url=http%3A%2F%2Fa%40b%2F", ""),
        ("/peer/v1/content?url=unix%3A%2F%2F%2Fvar%2Frun%2Fdocker.sock", ""),
        ("/peer/v1/content?url=http%3A%2F%2Forigin.test%2Fx&tag=" + "t" * 2000, ""),
        ("/peer/v1/tasks/import?url=", "content-length: 0\r\n"),
    ],
)
def test_urls_that_may_not_be_read_are_refused(closed: Running, path: str, fields: str) -> None:
    method = "POST" if "import" in path else "GET"
    status, head = raw_request(closed, method, path)
    assert status in (400, 403, 404, 501, 502), head
    assert b"root:" not in head.encode()
    closed.check()


def test_its_own_listener_is_no_origin(closed: Running) -> None:
    for url in (f"{closed.url}/peer/v1/content?url=x", f"http://localhost:{closed.address[1]}/"):
        answer = closed.send("GET", "/peer/v1/content", params={"url": url})
        refused(answer, 403)
    closed.check()


@pytest.mark.parametrize(
    "fields",
    [
        "prefer: wait=\xb2\r\n",
        "prefer: wait=" + "9" * 5000 + "\r\n",
        "prefer: wait=-1, wait=x, ;;;=\r\n",
        "range: bytes=" + "9" * 5000 + "-\r\n",
        "range: bytes=0-" + ",0-" * 2000 + "\r\n",
        "range: bytes=\xb2-\xb3\r\n",
        "if-range: \xff\r\n",
        "accept-encoding: zstd;q=\xb2, ;q=, gzip;q=1;q=0\r\n",
        "accept-encoding: " + "zstd," * 2000 + "\r\n",
        "content-type: \xff/\xfe; charset=\xb2\r\n",
        "cookie: " + "a=b; " * 2000 + "\r\n",
    ],
)
def test_odd_header_fields_are_ignored(closed: Running, fields: str) -> None:
    generation = f"/peer/v1/tasks/{TASK}/{closed.generation}"
    for path in (
        f"{generation}/content",
        f"{generation}/pieces/0-0",
        "/peer/v1/content?url=http%3A%2F%2Forigin.test%2Fstored",
        "/peer/v1/tasks",
        "/scheduler/v1/tasks",
    ):
        status, head = raw_request(closed, "GET", path, fields=fields)
        assert status in (200, 206, 400, 403, 416, 502), head
    closed.check()


@pytest.mark.parametrize("verb", ["content", "pieces/0-95"])
def test_a_client_that_leaves_in_mid_body_is_no_fault(closed: Running, verb: str) -> None:
    # Larger than what the kernel takes for a client that does not read.
    url = "http://origin.test/long"
    answer = closed.send("POST", "/peer/v1/tasks/import", bytes(24 * MIB), params={"url": url})
    task, generation = answer.json()["task"], answer.json()["generation"]
    for _ in range(3):
        status, _ = raw_request(closed, "GET", f"/peer/v1/tasks/{task}/{generation}/{verb}")
        assert status == 200
    assert closed.send("DELETE", f"/peer/v1/tasks/{task}").status_code == 204
    closed.check()


@pytest.mark.parametrize("wait", ["", "x", "-1", "nan", "-inf", "1" * 400, "1_0", "0x1", "\u0661"])
def test_a_wait_that_is_no_number_does_no_harm(closed: Running, wait: str) -> None:
    path = closed.path(next(e for e in ROUTES if e.path.endswith("decisions")))
    answer = closed.send("GET", path, params={"wait": wait})
    refused(answer, 404)
    closed.check()


def test_queries_with_huge_limits_change_nothing(closed: Running) -> None:
    for path in ("/peer/v1/tasks", "/scheduler/v1/tasks", "/scheduler/v1/hosts"):
        plain = closed.send("GET", path)
        asked = closed.send("GET", path, params={"limit": 10**7, "per_page": 10**7, "page": -1})
        assert asked.status_code == plain.status_code == 200
        assert len(asked.json()) == len(plain.json())
    closed.check()
