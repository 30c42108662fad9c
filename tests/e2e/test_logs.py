"""One request can be followed through every process, and no credential is in any of their logs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Cluster, Origin, hawker
from tests.e2e.hostile_origin import Behaviour, HostileOrigin, cut_after, fixed, good

SECRET = "s3cr3t7d9f2c"
DATA = os.urandom(300_000)
Errors = Callable[[], str]


@pytest.fixture
def errors(capfd: pytest.CaptureFixture[str]) -> Errors:
    """What all processes wrote to standard error so far."""
    seen: list[str] = []

    def read() -> str:
        seen.append(capfd.readouterr().err)
        return "".join(seen)

    return read


def test_the_id_of_a_request_is_in_the_logs_of_all_who_worked_for_it(
    cluster: Cluster, origin: Origin, errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_TELEMETRY__LOG_FORMAT", "json")
    _, _, [peer] = cluster.swarm(1)
    url = origin.put("/followed", DATA)
    answer = httpx.get(
        f"{peer.url}/peer/v1/content",
        params={"url": url},
        headers={"x-request-id": "ask-1.of:me"},
        trust_env=False,
    )
    assert answer.content == DATA
    assert answer.headers["x-request-id"] == "ask-1.of:me"
    cluster.close()
    lines: list[dict[str, Any]] = [json.loads(line) for line in errors().splitlines()]
    mine = [line for line in lines if line.get("request") == "ask-1.of:me"]
    # Whoever was asked, whoever decided, and whoever read for it.
    assert {line["logger"] for line in mine} >= {
        "hawker.core.transfer.conductor",
        "hawker.apps.scheduler.telling",
        "hawker.core.transfer.reader",
    }
    [task] = {line["task"] for line in mine}
    assert re.fullmatch("[0-9a-f]{64}", task)
    for line in lines:
        assert {"time", "level", "logger", "message", "roles"} <= set(line)


def test_a_failure_names_the_request_that_ended_so(cluster: Cluster) -> None:
    peer = cluster.start("peer", "serve", "peer")
    sane = httpx.get(f"{peer.url}/peer/v1/tasks/x", trust_env=False)
    own = sane.headers["x-request-id"]
    assert sane.json()["instance"] == f"urn:hawker:request:{own}"
    trace = "0af7651916cd43dd8448eb211c80319c"
    given = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    traced = httpx.get(f"{peer.url}/peer/v1/tasks/x", headers=given, trust_env=False)
    assert traced.headers["x-request-id"] == trace
    for bad in (b"a b", b"x" * 65, b"<script>", "é".encode()):
        answer = httpx.get(
            f"{peer.url}/peer/v1/tasks/x", headers=[(b"x-request-id", bad)], trust_env=False
        )
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


FAILURES: dict[str, Behaviour] = {
    "good": good(DATA),
    "refused": fixed("401 No", {"www-authenticate": 'Bearer realm="x"', "content-length": 0}),
    "missing": fixed("404 No", {"content-length": 0}),
    "cut": cut_after(100_000, DATA),
    "elsewhere": fixed("302 There", {"location": f"http://x:{SECRET}@127.0.0.1:9/?sig={SECRET}"}),
    "nonsense": lambda ask: ask.connection.sendall(b"what?\r\n\r\n"),
}


def test_no_credential_is_in_a_log_an_error_or_an_answer(
    cluster: Cluster, errors: Errors, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAWKER_TELEMETRY__LOG_LEVEL", "debug")
    hostile = HostileOrigin()
    scheduler, seed, [peer] = cluster.swarm(1)
    told: list[str] = []
    try:
        for name, behaviour in FAILURES.items():
            url = hostile.put(f"/{name}", behaviour)
            signed = f"{url}?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}&X-Amz-Date=1"
            inside = url.replace("http://", f"http://me:{SECRET}@")
            header = ("-H", f"Authorization: Bearer {SECRET}")
            for number, words in enumerate(([signed], [inside], [url, *header])):
                target = tmp_path / f"{name}-{number}"
                done = hawker("get", *words, "-O", str(target), "-e", peer.socket, "--timeout", "3")
                told.append((done.stdout + done.stderr).decode())
            answer = httpx.get(
                f"{peer.url}/peer/v1/content",
                params={"url": signed},
                headers={"prefer": "wait=3"},
                trust_env=False,
            )
            if answer.is_error:
                told += [answer.text, str(answer.headers)]
        for daemon, path in ((peer, "/peer/v1/tasks"), (seed, "/peer/v1/tasks")):
            with daemon.client() as client:
                told += [client.get(path).text, client.get("/metrics").text]
        told += [str(cluster.view(scheduler.url, what)) for what in ("tasks", "hosts")]
    finally:
        hostile.close()
    cluster.close()
    logs = errors()
    assert "reading http" in logs and "may read http" in logs, "something was logged"
    assert SECRET not in logs
    assert not [text for text in told if SECRET in text]
