"""OpenID Connect providers at the manager's API: who is let in by their tokens, as whom, with which
rights, and who may say so."""

from __future__ import annotations

import base64
import hmac
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey, RSAKey

from tests.apps.manager.running import (
    PASSWORD,
    SERVER,
    Manager,
    add_token,
    add_user,
    created,
    problem,
)
from tests.plugins.identity_provider import AUDIENCE, IdentityProvider

SECRET = "client secret 7f3a"
KEYS = "/realm/keys"
RULES = [
    {"claim": "scope", "value": "read", "role": "viewer"},
    {"claim": "realm_access.roles", "value": "admins", "role": "root"},
]


@pytest.fixture
def issuer() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    yield made
    made.close()


def add_provider(
    root: httpx.Client, issuer: IdentityProvider, name: str, **more: Any
) -> dict[str, Any]:
    body = {"name": name, "issuer": issuer.issuer, "audiences": [AUDIENCE], "rules": RULES}
    return created(root.post("/providers", json=body | more))


def change(root: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = root.patch(path, json=body, headers={"if-match": "*"})
    assert answer.status_code == 200, answer.text
    changed: dict[str, Any] = answer.json()
    return changed


def status(manager: Manager, token: str, path: str = "/clusters") -> int:
    with manager.with_token(token) as client:
        return client.get(path).status_code


def me(manager: Manager, token: str) -> dict[str, Any]:
    with manager.with_token(token) as client:
        answer = client.get("/me")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


# ---------------------------------------------------------------------------- as data


def test_a_client_s_secret_is_sealed_and_never_told(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    made = add_provider(root, issuer, "sealed", client="c", secret=SECRET)
    assert made["has_secret"] and "secret" not in made
    url = f"/providers/{made['id']}"
    changed = change(root, url, secret="another secret 7f3a")
    for answer in (root.get(url), root.get("/providers"), root.get("/audit?resource=providers")):
        assert answer.status_code == 200 and "7f3a" not in answer.text
    for file in [*manager.data.iterdir(), manager.log]:
        if file.is_file():
            assert b"7f3a" not in file.read_bytes()
    assert changed["has_secret"]
    assert not change(root, url, secret=None)["has_secret"]
    with manager.client() as anyone:
        told = anyone.get("/auth").json()["providers"]
        assert [sorted(one) for one in told] == [
            ["device_client", "issuer", "login", "name", "resource", "scopes"]
        ] * len(told)
    assert root.delete(url).status_code == 204


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name an issuer, or a plugin"),
        ({"issuer": "https://a.example", "plugin": "cluster"}, "name an issuer, or a plugin"),
        ({"issuer": "http://login.example.com"}, "issuer: write https"),
        ({"issuer": "https://u:p@login.example.com"}, "issuer: write https"),
        ({"issuer": "https://login.example.com?x"}, "issuer: write https"),
        ({"plugin": "no-such"}, "no plugin hawker.auth:no-such"),
        ({"plugin": "cluster", "audiences": ["a"]}, "a plugin has no audiences"),
        ({"redirect_uri": "https://h/manager/api/v1/auth/x/callback"}, "needs `client`"),
        ({"redirect_uri": "https://h/elsewhere", "client": "c"}, "not where people come back"),
        (
            {"redirect_uri": "http://h/manager/api/v1/auth/x/callback", "client": "c"},
            "not where people come back",
        ),
        (
            {"redirect_uri": "https://h/manager/api/v1/auth/y/callback", "client": "c"},
            "not where people come back",
        ),
        (
            {
                "redirect_uri": "https://h/manager/api/v1/auth/x/callback",
                "client": "c",
                "scopes": ["email"],
            },
            "without `openid`",
        ),
        ({"secret": "s"}, "needs the `client`"),
        ({"rules": [{"claim": "a..b", "value": "x", "role": "viewer"}]}, "$.rules[0]"),
        ({"rules": [{"claim": [], "value": "x", "role": "viewer"}]}, "claim"),
        ({"rules": [{"claim": "a", "value": "", "role": "viewer"}]}, "value"),
        ({"rules": [{"claim": "a", "value": "x"}]}, "role"),
        ({"secrets": "s"}, "secrets"),
    ],
)
def test_what_makes_no_sense_is_named(root: httpx.Client, body: dict[str, Any], words: str) -> None:
    whole = {"name": "x", **({} if {"issuer", "plugin"} & set(body) or not body else
             {"issuer": "https://login.example.com"}), **body}  # fmt: skip
    assert words in problem(root.post("/providers", json=whole), 400)


def test_rules_name_what_there_is(root: httpx.Client) -> None:
    body = {"name": "x", "issuer": "https://login.example.com"}
    for wrong in ({"role": "nobody"}, {"tenant": "0"}, {"cluster": "0"}):
        rules = [{"claim": "a", "value": "b", "role": "viewer", **wrong}]
        problem(root.post("/providers", json={**body, "rules": rules}), 404)


def test_nobody_gives_by_a_rule_what_they_may_not(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    """Nor by changing whom an existing one takes tokens from."""
    may = [f"providers:{verb}" for verb in ("read", "create", "update", "delete")]
    created(root.post("/roles", json={"name": "keeper", "permissions": [*may, "audit:read"]}))
    add_user(root, "keeper", "keeper")
    strong = add_provider(root, issuer, "strong")
    with manager.sign_in("keeper") as keeper:
        body = {"name": "mine", "issuer": "https://mine.example"}
        raised = [{"claim": "a", "value": "b", "role": "viewer"}]
        problem(keeper.post("/providers", json={**body, "rules": raised}), 403)
        own = [{"claim": "a", "value": "b", "role": "keeper"}]
        mine = created(keeper.post("/providers", json={**body, "rules": own}))
        url, match = f"/providers/{mine['id']}", {"if-match": "*"}
        problem(keeper.patch(url, json={"rules": raised}, headers=match), 403)
        url = f"/providers/{strong['id']}"
        wishes: list[dict[str, Any]] = [{"audiences": ["mine"]}, {"rules": []}, {"disabled": True}]
        for wish in wishes:
            problem(keeper.patch(url, json=wish, headers=match), 403)
        problem(keeper.delete(url), 403)
    # Without a rule, but with a user who has a role here.
    change(root, url, rules=[])
    user = me(manager, issuer.token())["user"]
    created(root.post("/bindings", json={"user": user["id"], "role": "root"}))
    with manager.sign_in("keeper") as keeper:
        problem(keeper.patch(url, json={"audiences": ["mine"]}, headers=match), 403)


def test_a_role_that_a_rule_gives_stays(root: httpx.Client) -> None:
    role = created(root.post("/roles", json={"name": "ruled", "permissions": ["audit:read"]}))
    rules = [{"claim": "a", "value": "b", "role": "ruled"}]
    body = {"name": "ruling", "issuer": "https://ruling.example", "rules": rules}
    provider = created(root.post("/providers", json=body))
    assert "ruling" in problem(root.delete(f"/roles/{role['id']}"), 409)
    assert root.delete(f"/providers/{provider['id']}").status_code == 204
    assert root.delete(f"/roles/{role['id']}").status_code == 204


# ---------------------------------------------------------------------------- who comes in


def test_users_appear_by_provider_and_subject_and_are_no_one_else(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    local = add_user(root, "ada", "root")
    change(root, f"/users/{local['id']}", email="ada@example.com")
    provider = add_provider(root, issuer, "seen")
    claims: dict[str, Any] = {
        "sub": "ada",
        "email": "ada@example.com",
        "email_verified": True,
        "name": "ada",
        "preferred_username": "ada",
    }
    told = me(manager, issuer.token(**claims))
    user = told["user"]
    assert user["id"] != local["id"] and user["name"] == "seen:ada"
    assert (user["provider"], user["subject"], user["has_password"]) == ("seen", "ada", False)
    assert told["via"] == "provider:seen" and told["bindings"] == [] and told["scopes"] is None
    assert [one["role"] for one in told["mapped"]] == ["viewer"]
    assert me(manager, issuer.token(**claims))["user"] == user, "and are the same the next time"
    other = me(manager, issuer.token(sub="Ada"))["user"]
    assert other["id"] != user["id"]
    long = "s" * 255
    found = [me(manager, issuer.token(sub=long[:n]))["user"] for n in (255, 254)]
    assert found[0]["id"] != found[1]["id"] and {len(one["subject"]) for one in found} == {255, 254}
    # Who came is in the audit, and no name of here can be theirs.
    [row] = root.get("/audit", params={"target": user["id"]}).json()
    assert (row["action"], row["actor"], row["via"]) == ("create", "seen:ada", "provider:seen")
    problem(root.post("/users", json={"name": "seen:eve"}), 400)
    problem(root.put(f"/users/{user['id']}/password", json={"password": PASSWORD}), 409)
    problem(root.delete(f"/providers/{provider['id']}"), 409)


def test_those_who_come_first_at_once_are_one_user(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    add_provider(root, issuer, "crowd")
    token, found = issuer.token(sub="crowd"), []

    def come() -> None:
        found.append(me(manager, token)["user"]["id"])

    threads = [threading.Thread(target=come) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12 and len(set(found)) == 1
    assert len(root.get("/audit", params={"target": found[0]}).json()) == 1


def test_rules_map_claims_to_roles_in_tenants_and_clusters(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    tenants = [created(root.post("/tenants", json={"name": f"map-{n}"})) for n in range(2)]
    clusters = [created(root.post("/clusters", json={"name": f"map-{n}"})) for n in range(2)]
    rules = [
        {"claim": "groups", "value": "eu", "role": "operator", "cluster": clusters[0]["id"]},
        {"claim": ["https://x.example/org"], "value": "acme", "role": "operator",
         "tenant": tenants[0]["id"]},
        {"claim": "staff", "value": "true", "role": "viewer"},
    ]  # fmt: skip
    add_provider(root, issuer, "map", rules=rules)
    with manager.with_token(issuer.token(groups=["x", "eu"])) as eu:
        assert [row["id"] for row in eu.get("/clusters").json()] == [clusters[0]["id"]]
        problem(eu.get(f"/clusters/{clusters[1]['id']}"), 404)
        url = f"/clusters/{clusters[0]['id']}"
        assert eu.patch(url, json={"description": "d"}, headers={"if-match": "*"}).is_success
        problem(eu.post("/clusters", json={"name": "more"}), 403)
        assert eu.get("/applications").json() == []
    acme: dict[str, Any] = {"https://x.example/org": "acme"}
    with manager.with_token(issuer.token(**acme)) as client:
        body = {"tenant": tenants[0]["id"], "name": "app", "priority": 1}
        created(client.post("/applications", json=body))
        problem(client.post("/applications", json={**body, "tenant": tenants[1]["id"]}), 403)
        assert client.get("/clusters").json() == []
    assert status(manager, issuer.token(staff=True)) == 200
    others: list[dict[str, Any]] = [
        {"staff": False}, {"staff": ["no"]}, {"groups": "us eu"}, {"groups": {"eu": 1}},
        {"groups": [10**400, 1.5, None, {}]},
        {"https://x": {"example/org": "acme"}}, {"groups": ["EU"]}, {"groups": None},
    ]  # fmt: skip
    for claims in others:
        assert status(manager, issuer.token(**claims)) == 403, claims


def test_a_binding_counts_beside_the_rules(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    add_provider(root, issuer, "bound", rules=[])
    token = issuer.token(sub="bound")
    user = me(manager, token)["user"]
    assert status(manager, token) == 403
    created(root.post("/bindings", json={"user": user["id"], "role": "viewer"}))
    assert status(manager, token) == 200
    assert [b["role"] for b in me(manager, token)["bindings"]] == ["viewer"]
    change(root, f"/users/{user['id']}", disabled=True)
    assert status(manager, token) == 401


def test_what_changes_at_the_provider_s_row_counts_at_once(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    provider = add_provider(root, issuer, "changes")
    url, token = f"/providers/{provider['id']}", issuer.token()
    assert status(manager, token) == 200
    change(root, url, rules=[])
    assert status(manager, token) == 403
    change(root, url, rules=RULES, audiences=["other"])
    assert status(manager, token) == 401
    assert status(manager, issuer.token(aud="other")) == 200
    change(root, url, disabled=True)
    assert status(manager, issuer.token(aud="other")) == 401
    change(root, url, disabled=False, audiences=[])
    assert status(manager, issuer.token(aud="other")) == 401


def test_a_provider_s_token_makes_no_token(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    """It may say less of its owner than their sign-in did; a token made with it would do more."""
    add_provider(root, issuer, "none")
    token = issuer.token(realm_access={"roles": ["admins"]})
    with manager.with_token(token) as client:
        problem(client.post("/tokens", json={"name": "t", "scopes": ["clusters:read"]}), 403)
        created(client.post("/tenants", json={"name": "by-token"}))
        problem(client.put("/me/password", json={"old": "x", "password": PASSWORD}), 403)
    [row] = root.get("/audit?resource=tenants&actor=none:somebody").json()
    assert row["via"] == "provider:none"


# ---------------------------------------------------------------------------- who does not


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_bad_tokens_are_refused(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    add_provider(root, issuer, "strict")
    now, good = int(time.time()), issuer.token()
    head, body, sign = good.split(".")
    rsa = issuer.keys["rsa"]
    assert isinstance(rsa, RSAKey)
    confused = f"{part({'alg': 'HS256', 'kid': 'rsa-1', 'typ': 'at+jwt'})}.{part(issuer.claims())}"
    code = hmac.digest(rsa.as_pem(private=False), confused.encode(), "sha256")
    stranger = RSAKey.generate_key(2048, {"kid": "rsa-1"})
    admin = part(issuer.claims(realm_access={"roles": ["admins"]}))
    wrong = {
        "expired": issuer.token(exp=now - 60),
        "another audience": issuer.token(aud="somebody-else"),
        "another issuer": issuer.token(iss="https://elsewhere.example"),
        "the issuer with a slash more": issuer.token(iss=issuer.issuer + "/"),
        "alg none": f"{part({'alg': 'none', 'typ': 'at+jwt'})}.{body}.",
        "the public key as a shared secret":
            f"{confused}.{base64.urlsafe_b64encode(code).decode().rstrip('=')}",
        "other claims": f"{head}.{admin}.{sign}",
        "no signature": f"{head}.{body}.",
        "a stranger's key under a known name": issuer.token(key=stranger),
        "a key that it brings along": issuer.token(
            key=stranger, header={"jwk": stranger.as_dict(private=False), "kid": None}
        ),
        "an ID token": issuer.token(header={"typ": "JWT"}, nonce="n", aud=AUDIENCE, scope=None),
        "no subject": issuer.token(sub=None),
        "an issuer of many letters": issuer.token(iss="https://h/" + "x" * 5000),
        "an issuer with a NUL": issuer.token(iss="https://h/\0"),
    }  # fmt: skip
    for what, token in wrong.items():
        with manager.with_token(token) as client:
            answer = client.get("/clusters")
            assert answer.status_code == 401, what
            problem(answer, 401)
            assert token not in answer.text
    assert status(manager, good) == 200
    log = manager.log.read_text()
    assert all(token not in log for token in (*wrong.values(), good))


def test_a_storm_of_unknown_keys_costs_the_provider_one_request(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    add_provider(root, issuer, "storm")
    assert status(manager, issuer.token()) == 200
    assert issuer.asked.count(KEYS) == 1
    stranger = ECKey.generate_key("P-256", {"kid": "x"})
    tokens = [issuer.token("ES256", key=stranger, header={"kid": f"x-{n}"}) for n in range(100)]

    def storm(some: list[str]) -> None:
        with manager.client() as client:
            for token in some:
                fields = {"authorization": f"Bearer {token}"}
                assert client.get("/clusters", headers=fields).status_code == 401

    threads = [threading.Thread(target=storm, args=(tokens[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # None within ten seconds of the last; the storm may be slower than that.
    assert issuer.asked.count(KEYS) <= 2


def test_a_provider_that_is_away_is_said_to_be(
    manager: Manager, root: httpx.Client, issuer: IdentityProvider
) -> None:
    add_provider(root, issuer, "away")
    token = issuer.token()
    issuer.close()
    with manager.with_token(token) as client:
        answer = client.get("/clusters")
        assert issuer.issuer in problem(answer, 503) and answer.headers["retry-after"]
        # And keeps nobody from signing in, whatever else they show.
        body = {"name": "root", "password": PASSWORD}
        assert client.post("/session", json=body).status_code == 200


# ---------------------------------------------------------------------------- plugins


def test_an_authenticator_plugin_says_who_comes(tmp_path: Path) -> None:
    """The `cluster` plugin here: by its own setting, and rules that a root has made."""
    from hawker.core.tokens import ClusterKey

    (tmp_path / "cluster.key").write_text("cd" * 32)
    (tmp_path / "cluster.key").chmod(0o600)
    key = ClusterKey(bytes.fromhex("cd" * 32))

    def token(name: str, *verbs: str, tenant: str = "default") -> str:
        return key.mint_for_client(name, verbs, tenant=tenant, lifetime=60)

    file = str(tmp_path / "cluster.key")
    manager = Manager(tmp_path / "data", HAWKER_CLUSTER__KEY_FILE=file)
    try:
        with manager.set_up() as root:
            assert status(manager, token("ci", "*")) == 401, "no plugin is asked unless one is set"
            tenant = created(root.post("/tenants", json={"name": "acme"}))
            rules = [
                {"claim": "verbs", "value": "watch", "role": "viewer"},
                {"claim": "tenant", "value": "acme", "role": "operator", "tenant": tenant["id"]},
                {"claim": "sub", "value": "client:boss", "role": "root"},
            ]
            body = {"name": "hosts", "plugin": "cluster", "rules": rules}
            made = created(root.post("/providers", json=body))
            assert status(manager, token("ci", "*", "content")) == 403, "verbs are no permissions"
            assert status(manager, token("ci", "watch")) == 200
            told = me(manager, token("ci", "watch"))
            assert told["user"]["name"] == "hosts:client:ci" and told["via"] == "provider:hosts"
            assert status(manager, token("boss"), "/audit") == 200
            assert status(manager, token("x", tenant="acme"), "/applications") == 200
            assert status(manager, token("x", tenant="other"), "/applications") == 403
            changed = token("ci", "watch")[:-4] + "AAAA"
            for wrong in (changed, key.mint("", ["watch"], task="a" * 64)):
                assert status(manager, wrong) == 401
            # Nobody but whom the rules name: what the cluster's hosts show each other is nothing.
            assert status(manager, key.mint("h" * 32, ["announce", "*"])) == 403
            url = f"/providers/{made['id']}"
            problem(root.patch(url, json={"audiences": ["a"]}, headers={"if-match": "*"}), 400)
            change(root, url, disabled=True)
            assert status(manager, token("boss"), "/audit") == 401
        manager.check()
    finally:
        assert manager.close() == 0


@pytest.mark.skipif(bool(SERVER), reason="looks into SQLite's file")
def test_tokens_know_their_scopes_end_and_last_use(manager: Manager, root: httpx.Client) -> None:
    """And a role within a tenant and a cluster goes no further through one."""
    tenant = created(root.post("/tenants", json={"name": "held"}))
    cluster = created(root.post("/clusters", json={"name": "held"}))
    other = created(root.post("/clusters", json={"name": "free"}))
    permissions = ["clusters:read", "clusters:update", "tokens:create", "applications:read"]
    created(root.post("/roles", json={"name": "local", "permissions": permissions}))
    add_user(root, "held", "local", cluster=cluster["id"])
    user = root.get("/users?name=held").json()[0]
    within = {"user": user["id"], "role": "local", "tenant": tenant["id"]}
    created(root.post("/bindings", json=within))
    with manager.sign_in("held") as client:
        empty, narrow = add_token(client), add_token(client, "clusters:read")
        wide = add_token(client, "clusters:read", "clusters:update", "applications:read")
    with manager.with_token(empty) as program:
        problem(program.get("/clusters"), 403)
    with manager.with_token(narrow) as program:
        assert [row["id"] for row in program.get("/clusters").json()] == [cluster["id"]]
        problem(program.get("/applications"), 403)
        url = f"/clusters/{cluster['id']}"
        problem(program.patch(url, json={}, headers={"if-match": "*"}), 403)
    with manager.with_token(wide) as program:
        assert program.patch(url, json={}, headers={"if-match": "*"}).status_code == 200
        url = f"/clusters/{other['id']}"
        problem(program.patch(url, json={}, headers={"if-match": "*"}), 404)
        assert program.get("/applications").status_code == 200
    # One that has ended, as if a month had passed.
    with sqlite3.connect(manager.data / "manager.db", timeout=20) as database:
        ended = "UPDATE token SET expires = ?, used = 0 WHERE prefix = ?"
        database.execute(ended, (time.time() - 1, wide[:12]))
    database.close()
    assert status(manager, wide) == 401
    with manager.sign_in("held") as client:
        created(root.post("/bindings", json={"user": user["id"], "role": "viewer"}))
        used = {row["prefix"]: row["used"] for row in client.get("/tokens").json()}
    assert used[wide[:12]] == 0 and time.time() - used[narrow[:12]] < 60
    # A role that is taken away is out of every token.
    for binding in root.get("/bindings", params={"user": user["id"]}).json():
        assert root.delete(f"/bindings/{binding['id']}").status_code == 204
    assert status(manager, narrow) == 403
