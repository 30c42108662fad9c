"""Hosts join with an enrolment, keep alive with their own token, and are removed."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from hawker.core.digests import HostKey
from hawker.core.membership import prove
from tests.apps.manager.hosts import SOON, Host, Waiting, at_once, enrol, request
from tests.apps.manager.running import (
    SERVER,
    Manager,
    add_token,
    add_user,
    created,
    problem,
)


@pytest.fixture
def cluster(root: httpx.Client, request: pytest.FixtureRequest) -> str:
    """A new cluster's id."""
    name = f"c-{abs(hash(request.node.nodeid)):x}"
    made: str = created(root.post("/clusters", json={"name": name}))["id"]
    return made


@pytest.fixture
def make(manager: Manager, root: httpx.Client, cluster: str) -> Iterator[Callable[..., Host]]:
    """Makes hosts that have joined the cluster."""
    made: list[Host] = []

    def join(kind: str, **said: Any) -> Host:
        host = Host(manager, kind, **said)
        made.append(host)
        host.join(enrol(root, kind, cluster)["token"])
        return host

    yield join
    for host in made:
        host.client.close()


# ---------------------------------------------------------------------------- joining


def test_a_host_joins_and_is_a_member(manager: Manager, root: httpx.Client, cluster: str) -> None:
    made = enrol(root, "peer", cluster, minutes=5)
    assert made["token"].startswith("hwe_") and made["host"] == "" and made["names"] == []
    assert 290 < made["expires"] - time.time() <= 300
    with Host(manager, "peer", idc="fra1") as host:
        member = host.join(made["token"], ["127.0.0.1", "HOST"])
        assert member["host"] == host.key.host and member["cluster"] == cluster
        assert member["reason"] == "named by its token" and member["token"].startswith("hwm_")
        assert len(bytes.fromhex(member["cluster_key"])) == 32
        told = host.keep()
        assert told["after"] == 20.0 and not told["drain"] and len(told["revision"]) == 32
        assert told["schedulers"] == [] and told["configuration"] == {} and told["removed"] == []
    shown = root.get(f"/members/{member['id']}").json()
    assert shown["idc"] == "fra1" and shown["enrolled"] and shown["state"] == "active"
    assert 29 < (shown["certificate_expires"] - time.time()) / 86400 < 30.1
    assert root.get(f"/enrolments/{made['id']}").json()["host"] == host.key.host
    [entry] = root.get("/audit", params={"target": member["id"]}).json()
    assert entry["action"] == "join" and entry["actor"] == f"host:{host.key.host}"
    assert entry["via"] == f"enrolment:{made['id']}" and entry["after"]["host"] == host.key.host


def test_the_certificate_is_for_the_request_s_key_and_the_host_s_names(
    manager: Manager, root: httpx.Client, cluster: str
) -> None:
    with Host(manager, "peer") as host:
        member = host.join(enrol(root, "peer", cluster)["token"], ["127.0.0.1", "Host"])
    certificate = x509.load_pem_x509_certificate(member["certificate"].encode())
    authority = x509.load_pem_x509_certificate(member["ca"].encode())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["127.0.0.1", "Host"]
    assert host.key.host in certificate.subject.rfc4514_string()
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basic.ca


def test_members_of_a_cluster_share_key_and_authority_and_other_clusters_do_not(
    manager: Manager, root: httpx.Client, make: Callable[..., Host], cluster: str
) -> None:
    first, second = make("peer").member, make("scheduler").member
    other = created(root.post("/clusters", json={"name": "another-cluster"}))["id"]
    with Host(manager, "peer") as host:
        third = host.join(enrol(root, "peer", other)["token"])
    for field in ("cluster_key", "ca"):
        assert first[field] == second[field] != third[field]
    assert len({first["token"], second["token"], third["token"]}) == 3


def test_a_token_is_good_for_one_host(manager: Manager, root: httpx.Client, cluster: str) -> None:
    token = enrol(root, "peer", cluster)["token"]
    with Host(manager, "peer") as first, Host(manager, "peer") as second:
        before = first.join(token)
        assert "another host" in problem(second.enrol(token), 401)
        # Its answer may have been lost.
        first.join(token)
        first.keep()
        assert first.member["id"] == before["id"] and first.member["token"] != before["token"]
        first.member = before
        problem(first.ask(), 401)


def test_of_hosts_that_come_at_once_with_one_token_one_joins(
    manager: Manager, root: httpx.Client, cluster: str
) -> None:
    token = enrol(root, "peer", cluster)["token"]
    hosts = [Host(manager, "peer") for _ in range(8)]
    answers = at_once([partial(host.enrol, token) for host in hosts])
    statuses = [answer.status_code for answer in answers]
    for host in hosts:
        host.client.close()
    assert sorted(statuses) == [201] + [401] * 7
    assert len(root.get("/members", params={"cluster": cluster}).json()) == 1


def test_what_is_not_a_good_enrolment_is_refused(
    manager: Manager, root: httpx.Client, cluster: str
) -> None:
    made = enrol(root, "peer", cluster)
    deleted = enrol(root, "peer", cluster)
    assert root.delete(f"/enrolments/{deleted['id']}").status_code == 204
    stranger = HostKey.generate()
    with Host(manager, "peer") as host:
        problem(host.enrol(deleted["token"]), 401)
        problem(host.enrol("hwe_" + "x" * 43), 401)
        problem(host.enrol(made["token"] + "x"), 401)
        # Somebody else's id, key, and signature; a signature over another token.
        assert "proof" in problem(host.enrol(made["token"], host=stranger.host), 400)
        assert "proof" in problem(host.enrol(made["token"], key=stranger.public.hex()), 400)
        csr = request("127.0.0.1")
        forged = prove(stranger, made["token"], csr)
        assert "proof" in problem(host.enrol(made["token"], csr=csr, proof=forged), 400)
        other = prove(host.key, deleted["token"], csr)
        assert "proof" in problem(host.enrol(made["token"], csr=csr, proof=other), 400)
        assert "$.host" in problem(host.enrol(made["token"], host="x"), 400)
        host.join(made["token"])


def test_an_enrolment_ends(manager: Manager, root: httpx.Client, cluster: str) -> None:
    made = enrol(root, "peer", cluster)
    with Host(manager, "peer") as host:
        # A person's or a member's token is none.
        bearer = {"authorization": f"Bearer {add_token(root, 'members:announce')}"}
        problem(host.client.post("/members", json={}, headers=bearer), 401)
        host.join(made["token"])
        problem(host.client.post("/members", json={}, headers=host.headers), 403)
    for minutes in (0, 43_201, "60", 1.5):
        problem(root.post("/enrolments", json={"kind": "peer", "minutes": minutes}), 400)
    for name in ("a b", "*.example.com", "a/b", ""):
        problem(root.post("/enrolments", json={"kind": "peer", "names": [name]}), 400)
    problem(root.post("/enrolments", json={"kind": "peer", "cluster": "0"}), 404)
    problem(root.post("/enrolments", json={"kind": "daemon"}), 400)


@pytest.mark.parametrize(
    ("names", "said", "wanted", "refused"),
    [
        # Its own: what it calls itself, from where it is.
        ([], {"hostname": "a", "addresses": ["127.0.0.1", "::1"]}, ["A", "127.0.0.1", "::1"], ""),
        ([], {"hostname": "a", "addresses": []}, ["a"], ""),
        ([], {"hostname": "a"}, ["b"], "b"),
        ([], {"hostname": "a"}, ["a", "127.0.0.2", "b"], "127.0.0.2, b"),
        ([], {"hostname": ""}, [""], "name"),
        # Who comes over loopback is nowhere else.
        ([], {"addresses": ["127.0.0.1", "10.0.0.7"]}, ["127.0.0.1"], "10.0.0.7"),
        # Those that the enrolment names, and no other.
        (["p7.example.com", "10.0.0.7"], {}, ["10.0.0.7", "P7.example.com"], ""),
        (["p7.example.com"], {"hostname": "a"}, ["a"], "a"),
        (["p7.example.com"], {}, ["127.0.0.1"], "127.0.0.1"),
        (["p7.example.com"], {"addresses": ["10.0.0.7"]}, [], ""),
    ],
)
def test_names_of_certificates(
    manager: Manager, root: httpx.Client, cluster: str, names: list[str], said: dict[str, Any],
    wanted: list[str], refused: str,
) -> None:  # fmt: skip
    token = enrol(root, "peer", cluster, names=names)["token"]
    with Host(manager, "peer", **said) as host:
        if not refused:
            host.join(token, wanted)
            return
        assert refused in problem(host.enrol(token, wanted), 400)
    # Nothing came of it.
    assert root.get("/members", params={"cluster": cluster}).json() == []


def test_requests_that_are_no_good(manager: Manager, root: httpx.Client, cluster: str) -> None:
    token = enrol(root, "peer", cluster)["token"]
    good = request("127.0.0.1")
    lines = good.splitlines()
    lines[-3] = lines[-3][:-4] + ("AAAA" if lines[-3][-4:] != "AAAA" else "BBBB")
    small = rsa.generate_private_key(65537, 1024)
    with Host(manager, "peer") as host:
        for csr in ("", "x", good[:200], "\n".join(lines), request("127.0.0.1", key=small)):
            assert "csr" in problem(host.enrol(token, csr=csr), 400), csr
        problem(host.enrol(token, csr="x" * 20_000), 400)
        problem(host.enrol(token, csr=request(*(f"127.0.0.{n}" for n in range(1, 80)))), 400)
        host.join(token)
        manager.check()


def test_ed25519_and_rsa_are_taken(manager: Manager, root: httpx.Client, cluster: str) -> None:
    with Host(manager, "peer") as host:
        token = enrol(root, "peer", cluster)["token"]
        csr = request("127.0.0.1", key=rsa.generate_private_key(65537, 2048))
        created(host.enrol(token, csr=csr))
        key = ed25519.Ed25519PrivateKey.generate()
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        from cryptography.hazmat.primitives.serialization import Encoding

        csr = builder.sign(key, None).public_bytes(Encoding.PEM).decode()
        created(host.enrol(token, csr=csr))


def test_a_host_moves_from_cluster_to_cluster(
    manager: Manager, root: httpx.Client, make: Callable[..., Host], cluster: str
) -> None:
    host = make("peer")
    before = host.member
    other = created(root.post("/clusters", json={"name": "moved-to"}))["id"]
    host.join(enrol(root, "peer", other)["token"])
    host.keep()
    [member] = root.get("/members", params={"host": host.key.host}).json()
    assert member["cluster"] == other
    host.member = before
    problem(host.ask(), 401)


def test_without_a_cluster_the_best_fit_is_chosen(manager: Manager, root: httpx.Client) -> None:
    fra = {"scopes": {"idcs": ["fra9"]}}
    chosen = created(root.post("/clusters", json={"name": "fra9", **fra}))["id"]
    created(root.post("/clusters", json={"name": "elsewhere"}))
    with Host(manager, "seed", idc="fra9") as host:
        member = host.join(enrol(root, "seed")["token"])
    assert member["cluster"] == chosen and member["cluster_name"] == "fra9"
    assert "data centre fra9" in member["reason"]
    found = root.get("/search", params={"idc": "fra9", "address": "10.0.0.1"}).json()
    assert found[0]["cluster"] == chosen and found[0]["score"] == 0.25
    assert found[0]["schedulers"] == [] and "data centre fra9" in found[0]["reason"]
    problem(root.get("/search", params={"typo": "x"}), 400)
    # A cluster with a scheduler comes before one without.
    with Host(manager, "scheduler") as scheduler:
        scheduler.join(enrol(root, "scheduler", chosen)["token"])
        scheduler.keep(url="http://127.0.0.1:4001")
    found = root.get("/search", params={"hostname": "x"}).json()
    assert found[0]["cluster"] == chosen and found[0]["schedulers"] == ["http://127.0.0.1:4001"]


def test_who_is_bound_to_a_cluster_enrols_for_that_one(
    manager: Manager, root: httpx.Client, cluster: str
) -> None:
    other = created(root.post("/clusters", json={"name": "not-theirs"}))["id"]
    theirs = enrol(root, "peer", other)
    add_user(root, "enrols", "operator", cluster=cluster)
    with manager.sign_in("enrols") as client:
        made = enrol(client, "peer", cluster)
        problem(client.post("/enrolments", json={"kind": "peer"}), 403)
        problem(client.post("/enrolments", json={"kind": "peer", "cluster": other}), 403)
        problem(client.get(f"/enrolments/{theirs['id']}"), 404)
        problem(client.delete(f"/enrolments/{theirs['id']}"), 404)
        assert [row["id"] for row in client.get("/enrolments").json()] == [made["id"]]
        assert {row["cluster"] for row in client.get("/search").json()} == {cluster}


# ---------------------------------------------------------------------------- keeping alive


def test_a_member_speaks_for_itself_alone(make: Callable[..., Host], root: httpx.Client) -> None:
    host, other = make("peer"), make("peer")
    host.keep()
    mine, theirs = host.member, other.member
    host.member = {**mine, "token": theirs["token"]}
    problem(host.ask(), 403)
    host.member = {**mine, "cluster": "0" * 16}
    problem(host.ask(), 403)
    host.member = mine
    assert "seed" in problem(host.ask(kind="seed"), 400)
    for path in (f"/members/{theirs['id']}", f"/members/{theirs['id']}/certificate"):
        method, body = ("DELETE", None) if "cert" not in path else ("POST", {"csr": request()})
        problem(host.client.request(method, path, json=body, headers=host.headers), 403)
    problem(host.client.get("/members", headers=host.headers), 403)
    problem(host.client.get("/me", headers=host.headers), 403)
    # Nor does a user's token speak for a host that has joined.
    bearer = {"authorization": f"Bearer {add_token(root, 'members:announce')}"}
    url = f"/clusters/{mine['cluster']}/members/{host.key.host}"
    body = {"kind": "peer", "url": "http://10.6.6.6:1"}
    problem(host.client.put(url, json=body, headers=bearer), 403)
    other.keep()


def test_a_keepalive_waits_and_is_answered_when_configuration_changes(
    make: Callable[..., Host], root: httpx.Client, cluster: str
) -> None:
    peer, scheduler = make("peer"), make("scheduler")
    scheduler.keep()
    peer.keep()
    began = time.monotonic()
    assert peer.keep(1.0) == peer.told
    assert 0.9 < time.monotonic() - began < 1 + SOON
    polls = Waiting(peer), Waiting(scheduler)
    assert all(poll.waits for poll in polls)
    changed = time.monotonic()
    answer = root.patch(
        f"/clusters/{cluster}",
        json={"schedulers": {"origin_reads": 3}, "peers": {"upload_slots": 7}},
        headers={"if-match": "*"},
    )
    assert answer.status_code == 200
    told = [poll.end().json() for poll in polls]
    assert time.monotonic() - changed < SOON
    assert [one["configuration"] for one in told] == [{"upload_slots": 7}, {"origin_reads": 3}]
    assert told[0]["revision"] != peer.told["revision"]
    # Whoever knows it waits again.
    peer.told = told[0]
    assert peer.keep(0.2) == told[0]


def test_what_is_not_told_to_a_member_does_not_wake_it(
    make: Callable[..., Host], root: httpx.Client, cluster: str
) -> None:
    peer = make("peer")
    peer.keep()
    poll = Waiting(peer, 3.0)
    root.patch(
        f"/clusters/{cluster}", json={"seeds": {"upload_slots": 7}}, headers={"if-match": "*"}
    )
    make("peer").keep()
    poll.end()
    assert poll.seconds > 2.9


def test_schedulers_are_told_once_they_say_where_they_are(
    make: Callable[..., Host], root: httpx.Client
) -> None:
    peer = make("peer")
    assert peer.keep()["schedulers"] == []
    scheduler = make("scheduler")
    assert peer.keep()["schedulers"] == []
    poll = Waiting(peer)
    scheduler.keep(url="http://127.0.0.1:4100")
    peer.told = poll.end().json()
    assert poll.seconds < SOON and peer.told["schedulers"] == ["http://127.0.0.1:4100"]
    # It moves; another one comes; the first is drained, then removed.
    scheduler.keep(url="http://127.0.0.1:4200")
    second = make("scheduler")
    second.keep(url="http://127.0.0.1:4050")
    assert peer.keep()["schedulers"] == ["http://127.0.0.1:4050", "http://127.0.0.1:4200"]
    poll = Waiting(peer)
    drain = f"/members/{scheduler.member['id']}/draining"
    root.put(drain, json={"draining": True})
    peer.told = poll.end().json()
    assert poll.seconds < SOON and peer.told["schedulers"] == ["http://127.0.0.1:4050"]
    assert scheduler.keep(url="http://127.0.0.1:4200")["drain"]
    poll = Waiting(peer)
    assert root.delete(f"/members/{second.member['id']}").status_code == 204
    assert poll.end().json()["schedulers"] == [] and poll.seconds < SOON


def test_schedulers_that_start_at_once_are_told_together(
    manager: Manager, make: Callable[..., Host]
) -> None:
    peer = make("peer")
    peer.keep()
    schedulers = [make("scheduler") for _ in range(20)]
    poll = Waiting(peer)
    urls = [f"http://127.0.0.1:{5000 + n}" for n in range(len(schedulers))]
    at_once([partial(s.keep, url=url) for s, url in zip(schedulers, urls, strict=True)])
    answers = 1
    peer.told = poll.end().json()
    while peer.told["schedulers"] != urls:
        peer.keep(10.0)
        answers += 1
    assert answers < 10
    assert all(
        s.keep(url=url)["schedulers"] == urls for s, url in zip(schedulers, urls, strict=True)
    )
    # What is there is counted.
    with httpx.Client(trust_env=False) as client:
        told = client.get(manager.url + "/metrics").text
    [members] = re.findall(r'hawker_manager_members{kind="scheduler"} (\S+)', told)
    assert float(members) >= 20 and "hawker_manager_waiting 0.0" in told


def test_a_member_is_drained_and_taken_back(make: Callable[..., Host], root: httpx.Client) -> None:
    peer, other = make("peer"), make("peer")
    peer.keep()
    other.keep()
    poll, bystander = Waiting(peer), Waiting(other, 2.0)
    drain = f"/members/{peer.member['id']}/draining"
    root.put(drain, json={"draining": True})
    peer.told = poll.end().json()
    assert poll.seconds < SOON and peer.told["drain"]
    assert bystander.waits
    poll = Waiting(peer)
    root.put(drain, json={"draining": False})
    assert poll.end().json()["drain"] is False and poll.seconds < SOON
    bystander.end()
    actions = [
        e["action"] for e in root.get("/audit", params={"target": drain.split("/")[2]}).json()
    ]
    assert actions == ["update", "update", "join"]


def test_a_second_poll_of_a_host_ends_the_first(make: Callable[..., Host]) -> None:
    peer = make("peer")
    peer.keep()
    first = Waiting(peer)
    second = Waiting(peer, 1.0)
    assert first.end().status_code == 200 and first.seconds < 1.5
    second.end()
    assert second.seconds > 0.9


def test_who_is_removed_hears_so_at_once_and_schedulers_do(
    make: Callable[..., Host], root: httpx.Client
) -> None:
    peer, scheduler = make("peer"), make("scheduler")
    scheduler.keep()
    peer.keep()
    polls = Waiting(peer), Waiting(scheduler)
    assert root.delete(f"/members/{peer.member['id']}").status_code == 204
    gone, told = polls[0].end(), polls[1].end()
    assert max(poll.seconds for poll in polls) < SOON
    problem(gone, 401)
    assert gone.json()["type"] == "urn:hawker:problem:removed"
    assert told.json()["removed"] == [peer.key.host]
    # It is told apart from a token that nobody knows.
    assert peer.ask().json()["type"] == "urn:hawker:problem:removed"
    peer.member["token"] += "x"
    assert peer.ask().json()["type"] == "urn:hawker:problem:unauthenticated"
    # Peers are not told, and who has joined again is not among them.
    assert make("peer").keep()["removed"] == []
    peer.told = {"revision": ""}
    peer.join(enrol(root, "peer", peer.member["cluster"])["token"])
    peer.keep()
    assert scheduler.keep()["removed"] == []


def test_who_is_removed_does_not_come_back_with_the_token_it_joined_with(
    manager: Manager, root: httpx.Client, cluster: str
) -> None:
    token = enrol(root, "peer", cluster, minutes=600)["token"]
    with Host(manager, "peer") as host:
        host.join(token)
        created(host.enrol(token))
        assert root.delete(f"/members/{host.member['id']}").status_code == 204
        problem(host.enrol(token), 401)


def test_a_member_leaves(make: Callable[..., Host], root: httpx.Client) -> None:
    peer, scheduler = make("peer"), make("scheduler")
    peer.keep()
    mine = f"/members/{peer.member['id']}"
    assert peer.client.delete(mine, headers=peer.headers).status_code == 204
    problem(root.get(mine), 404)
    assert peer.ask().json()["type"] == "urn:hawker:problem:removed"
    # It went by itself: nobody has to refuse it.
    assert scheduler.keep()["removed"] == []
    audit = root.get("/audit", params={"target": peer.member["id"]}).json()
    assert [e["action"] for e in audit] == ["delete", "join"]
    assert audit[0]["actor"] == f"host:{peer.key.host}"


def test_a_certificate_is_renewed_for_the_names_it_had(
    make: Callable[..., Host], root: httpx.Client
) -> None:
    peer = make("peer")
    url = f"/members/{peer.member['id']}/certificate"

    def renew(*names: str) -> httpx.Response:
        return peer.client.post(url, json={"csr": request(*names)}, headers=peer.headers)

    answer = renew("127.0.0.1", "host")
    assert answer.status_code == 200, answer.text
    certificate = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    authority = x509.load_pem_x509_certificate(answer.json()["ca"].encode())
    certificate.verify_directly_issued_by(authority)
    assert answer.json()["ca"] == peer.member["ca"]
    # What it says of itself later gives it no other name.
    peer.keep(hostname="bank.example.com")
    assert "bank.example.com" in problem(renew("bank.example.com"), 400)
    problem(peer.client.post(url, json={"csr": "x"}, headers=peer.headers), 400)
    audit = root.get("/audit", params={"target": peer.member["id"]}).json()
    assert [e["action"] for e in audit] == ["certificate", "join"]


# ---------------------------------------------------------------------------- secrets


@pytest.mark.skipif(bool(SERVER), reason="reads SQLite's file")
def test_a_copy_of_the_database_gives_nothing_away(
    manager: Manager, root: httpx.Client, make: Callable[..., Host], tmp_path: Path
) -> None:
    made = enrol(root, "peer", make("peer").member["cluster"])
    peer = make("peer")
    peer.keep()
    url = f"/members/{peer.member['id']}/certificate"
    assert peer.client.post(url, json={"csr": request()}, headers=peer.headers).status_code == 200
    root.put(f"/members/{peer.member['id']}/draining", json={"draining": True})
    root.delete(f"/members/{peer.member['id']}")
    copy = tmp_path / "copy.db"
    with sqlite3.connect(manager.data / "manager.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    text = copy.read_bytes()
    for secret in (made["token"], peer.member["token"], peer.member["cluster_key"]):
        assert secret.encode() not in text and secret.removeprefix("hwm_").encode() not in text
        raw = bytes.fromhex(secret) if len(secret) == 64 else secret.encode()
        assert raw not in text and raw.hex().encode() not in text
    assert b"PRIVATE KEY" not in text
    # What was sealed is there, but for whoever has the key.
    with sqlite3.connect(copy) as database:
        [row] = database.execute(
            "SELECT sealed_key, sealed_cluster_key FROM authority WHERE cluster_id = ?",
            [peer.member["cluster"]],
        ).fetchall()
    assert all(len(bytes.fromhex(sealed)) > 60 for sealed in row)
    told = json.dumps(root.get("/audit?per_page=100").json())
    for secret in (made["token"], peer.member["token"], peer.member["cluster_key"], "PRIVATE"):
        assert secret not in told
    manager.check()
    log = manager.log.read_text()
    assert "hwe_" not in log and "hwm_" not in log and peer.member["cluster_key"] not in log
