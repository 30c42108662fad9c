"""Every figure a process shows is documented, and those that matter are right."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for
from tests.e2e.test_schedulers import free_port

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
SIZE = 9 * 2**20 + 17

Figures = dict[str, dict[tuple[tuple[str, str], ...], float]]


def scrape(daemon: Daemon) -> tuple[Figures, dict[str, str]]:
    """Values by sample name and labels; and the type of each family."""
    text = httpx.get(f"{daemon.url}/metrics", trust_env=False).text
    values: Figures = {}
    kinds: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in kinds, "a family stands there once"
        assert family.documentation
        kinds[family.name] = family.type
        for sample in family.samples:
            values.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return values, kinds


def documented() -> dict[str, str]:
    """Names in the tables of the document, without `_total`, with their type."""
    rows = re.findall(r"^\| `(hawker_\w+)` \| (\w+) \|", DOCUMENT.read_text(), flags=re.M)
    return {name.removesuffix("_total"): kind for name, kind in rows}


def one(values: Figures, name: str, **labels: str) -> float:
    return values.get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def test_the_document_names_what_there_is_and_nothing_else(
    cluster: Cluster, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With all there is: a broker, too, which is away.
    monkeypatch.setenv("HAWKER_MANAGER__JOB_BROKER", "redis")
    options = {"redis": {"url": f"redis://:opensesame@127.0.0.1:{free_port()}/0"}}
    monkeypatch.setenv("HAWKER_PLUGINS__OPTIONS", json.dumps(options))
    up = cluster.start("up", "up")
    up.wait_ready()
    assert fetch(up, origin.put("/x", os.urandom(SIZE)), tmp_path / "out") == (0, "")

    def ready() -> httpx.Response:
        return httpx.get(f"{up.url}/readyz", trust_env=False)

    wait_for(lambda: "notes" in ready().json(), "the manager's database is open")
    told = ready()
    assert told.status_code == 200 and told.json()["ready"] is True
    assert "the job broker redis is away" in told.json()["notes"][0]
    assert "opensesame" not in told.text
    values, kinds = scrape(up)
    assert values["hawker_manager_job_broker_connected"] == {(): 0.0}
    # Those of members are looked at where there is one.
    alone = {name: kind for name, kind in documented().items() if "_membership_" not in name}
    assert kinds == alone


def test_the_figures_of_a_swarm_are_those_of_its_origin_and_of_each_other(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    scheduler, seed, peers = cluster.swarm(2)
    data = os.urandom(SIZE)
    url = origin.put("/figures", data)
    for number, peer in enumerate(peers):
        assert fetch(peer, url, tmp_path / f"{number}") == (0, "")
    plain = httpx.get(f"{peers[0].url}/peer/v1/content", params={"url": url}, trust_env=False)
    assert plain.content == data
    assert fetch(peers[0], f"{url}/not-there", tmp_path / "none")[0] == 3

    seeds, peer_values = scrape(seed)[0], [scrape(peer)[0] for peer in peers]
    assert one(seeds, "hawker_peer_origin_bytes_total") == origin.sent_bytes == SIZE
    received = 0.0
    for values in peer_values:
        received += one(values, "hawker_peer_seed_bytes_total")
        received += one(values, "hawker_peer_peer_bytes_total")
        received += one(values, "hawker_peer_duplicate_bytes_total")
        assert one(values, "hawker_peer_origin_bytes_total") == 0
        assert one(values, "hawker_peer_stored_bytes") >= SIZE
        assert one(values, "hawker_peer_schedulers", state="connected") == 1
    sent = sum(one(v, "hawker_peer_uploaded_bytes_total") for v in (seeds, *peer_values))
    assert received == sent >= 2 * SIZE
    assert one(peer_values[0], "hawker_peer_client_bytes_total") == SIZE
    assert one(peer_values[0], "hawker_peer_downloads_total", outcome="done") == 2
    assert one(peer_values[0], "hawker_peer_downloads_total", outcome="not-found") == 1
    assert one(seeds, "hawker_peer_origin_reads_total", outcome="done") == 1
    assert one(seeds, "hawker_peer_origin_reads_total", outcome="not-found") == 1

    said = scrape(scheduler)[0]
    assert one(said, "hawker_scheduler_leases_granted_total") == 2
    assert one(said, "hawker_scheduler_leases_ended_total", outcome="done") == 1
    assert one(said, "hawker_scheduler_leases_ended_total", outcome="failed") == 1
    assert one(said, "hawker_scheduler_waits_ended_total", reason="not-found") == 1
    assert one(said, "hawker_scheduler_hosts", state="connected") == 3
    assert one(said, "hawker_scheduler_leases") == 0
    registers = one(said, "hawker_scheduler_reports_total", kind="register")
    assert registers >= 3
    peers[1].kill()
    wait_for(
        lambda: one(scrape(scheduler)[0], "hawker_scheduler_hosts", state="connected") == 2,
        "a host that is gone is not counted as connected",
    )
    answers = scrape(scheduler)[0]["hawker_http_requests_total"]
    assert {dict(labels)["role"] for labels in answers} == {"scheduler"}
    assert sum(answers.values()) >= registers
