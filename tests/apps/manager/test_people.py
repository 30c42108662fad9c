"""The first user, signing in, tokens, and that nobody raises their own rights."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.apps.manager.running import (
    DEADLINE,
    PASSWORD,
    Manager,
    add_token,
    add_user,
    created,
    problem,
)

WRONG = "not the right password"
MAPPING = {"name": "eve", "password": PASSWORD}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Manager]:
    """A manager that nobody has set up."""
    running = Manager(tmp_path / "data")
    yield running
    running.close()


def _post(url: str, **more: object) -> httpx.Response:
    return httpx.post(url, trust_env=False, timeout=DEADLINE, **more)  # type: ignore[arg-type]


def test_the_setup_link_is_good_once(fresh: Manager) -> None:
    with fresh.client() as client:
        problem(client.post("/session", json={"name": "root", "password": "dragonfly"}), 401)
        problem(client.post("/setup", json=MAPPING), 401)
        problem(client.post("/setup?token=wrong", json=MAPPING), 401)
    link = fresh.link
    problem(_post(link, json={"name": "eve", "password": "short"}), 400)
    problem(_post(link, json=MAPPING, headers={"origin": "http://evil.example"}), 403)
    created(_post(link, json=MAPPING))
    problem(_post(link, json={**MAPPING, "name": "mallory"}), 401)
    with fresh.sign_in("eve") as client:
        me = client.get("/me").json()
        assert [b["role"] for b in me["bindings"]] == ["root"] and me["via"] == "session"
    # Nobody is invited again.
    assert fresh.close() == 0
    fresh.start()
    fresh.sign_in("eve").close()
    assert "token=" not in fresh.log.read_text()


def test_a_new_start_has_a_new_link(fresh: Manager) -> None:
    old = fresh.link
    fresh.kill()
    fresh.start()
    new = fresh.link
    assert new.partition("token=")[2] != old.partition("token=")[2]
    dead = re.sub(r"token=.*", old[old.index("token=") :], new)
    problem(_post(dead, json=MAPPING), 401)
    created(_post(new, json=MAPPING))


def test_the_link_is_a_json_line_where_logs_are(tmp_path: Path) -> None:
    import json

    running = Manager(tmp_path / "data", HAWKER_TELEMETRY__LOG_FORMAT="json")
    try:
        until = time.monotonic() + DEADLINE
        while "setup" not in running.log.read_text() and time.monotonic() < until:
            time.sleep(0.02)
        [line] = [json.loads(x) for x in running.log.read_text().splitlines() if '"setup"' in x]
        assert 3500 < line["expires"] - time.time() <= 3600
        created(_post(line["setup"], json=MAPPING))
    finally:
        running.close()


def test_the_session_is_a_strict_cookie_that_ends(manager: Manager, root: httpx.Client) -> None:
    add_user(root, "leaves")
    with manager.client() as client:
        answer = client.post("/session", json={"name": "leaves", "password": PASSWORD})
        fields = answer.headers["set-cookie"].lower()
        assert "httponly" in fields and "samesite=strict" in fields and "path=/manager" in fields
        value = client.cookies["hawker_session"]
        assert client.get("/me").json()["user"]["name"] == "leaves"
        assert client.delete("/session").status_code == 204
        assert "hawker_session" not in client.cookies
    with manager.client(cookies={"hawker_session": value}) as stolen:
        problem(stolen.get("/me"), 401)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_change_nothing(root: httpx.Client, headers: dict[str, str]) -> None:
    problem(root.post("/tenants", json={"name": "forged"}, headers=headers), 403)
    assert root.get("/tenants?name=forged").json() == []


def test_a_page_of_this_site_may(manager: Manager, root: httpx.Client) -> None:
    headers = {"origin": manager.url, "sec-fetch-site": "same-origin"}
    created(root.post("/tenants", json={"name": "ours"}, headers=headers))


def test_wrong_names_and_passwords_are_refused_alike(manager: Manager, root: httpx.Client) -> None:
    add_user(root, "known")
    off = add_user(root, "off")
    created(root.post("/users", json={"name": "no-password"}))
    root.patch(f"/users/{off['id']}", json={"disabled": True}, headers={"if-match": "*"})
    told = set()
    with manager.client() as client:
        for name, password in (
            ("known", WRONG), ("unknown", WRONG), ("off", PASSWORD), ("no-password", ""),
        ):  # fmt: skip
            answer = client.post("/session", json={"name": name, "password": password})
            told.add((answer.status_code, answer.json()["detail"], "set-cookie" in answer.headers))
    assert told == {(401, "the name or the password is wrong", False)}


def test_guessing_is_limited_by_name(manager: Manager, root: httpx.Client) -> None:
    add_user(root, "guessed")
    with manager.client() as client:
        for _ in range(10):
            body = {"name": "guessed", "password": WRONG}
            problem(client.post("/session", json=body), 401)
        answer = client.post("/session", json={"name": "guessed", "password": PASSWORD})
        problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 300
        # Others sign in meanwhile.
        answer = client.post("/session", json={"name": "root", "password": PASSWORD})
        assert answer.status_code == 200


def test_a_disabled_user_is_out_at_once(manager: Manager, root: httpx.Client) -> None:
    user = add_user(root, "fired", "operator")
    with manager.sign_in("fired") as client:
        token = add_token(client, "clusters:read")
        with manager.with_token(token) as program:
            assert program.get("/clusters").status_code == 200
            url = f"/users/{user['id']}"
            root.patch(url, json={"disabled": True}, headers={"if-match": "*"})
            problem(client.get("/clusters"), 401)
            problem(program.get("/clusters"), 401)
            root.patch(url, json={"disabled": False}, headers={"if-match": "*"})
            # Sessions ended; tokens are good again with their owner.
            problem(client.get("/clusters"), 401)
            assert program.get("/clusters").status_code == 200


def test_passwords_change(manager: Manager, root: httpx.Client) -> None:
    user = add_user(root, "changes")
    fresh = "another good password"
    with manager.sign_in("changes") as client, manager.sign_in("changes") as elsewhere:
        body = {"old": WRONG, "password": fresh}
        problem(client.put("/me/password", json=body), 401)
        assert client.put("/me/password", json={**body, "old": PASSWORD}).status_code == 204
        assert client.get("/me").status_code == 200
        problem(elsewhere.get("/me"), 401)
        url = f"/users/{user['id']}/password"
        assert root.put(url, json={"password": PASSWORD}).status_code == 204
        problem(client.get("/me"), 401)
    manager.sign_in("changes").close()


# ---------------------------------------------------------------------------- tokens


def test_a_token_s_value_is_told_once_and_kept_nowhere(
    manager: Manager, root: httpx.Client
) -> None:
    body = {"name": "ci", "scopes": ["clusters:read"], "days": 1}
    made = created(root.post("/tokens", json=body))
    value, token = made["value"], made["token"]
    assert value.startswith(token["prefix"]) and len(token["prefix"]) <= 12
    assert 86300 < token["expires"] - time.time() <= 86400 and token["used"] == 0
    with manager.with_token(value) as program:
        assert program.get("/clusters").status_code == 200
        problem(program.get("/members"), 403)
        assert program.get("/me").json()["scopes"] == ["clusters:read"]
    shown = root.get(f"/tokens/{token['id']}").json()
    assert time.time() - shown["used"] < 60
    for path in ("/tokens", f"/tokens/{token['id']}", "/audit"):
        assert value not in root.get(path).text
    # It is in no file either: neither the database nor the log have it.
    for file in [*manager.data.iterdir(), manager.log]:
        if file.is_file():
            assert value.encode() not in file.read_bytes()
            assert PASSWORD.encode() not in file.read_bytes()
    problem(root.post("/tokens", json=body, headers={"idempotency-key": "a"}), 400)
    assert root.delete(f"/tokens/{token['id']}").status_code == 204
    with manager.with_token(value) as program:
        problem(program.get("/clusters"), 401)


def test_a_token_without_scopes_may_do_nothing(manager: Manager, root: httpx.Client) -> None:
    with manager.with_token(add_token(root)) as program:
        assert program.get("/me").json()["scopes"] == []
        for path in ("/clusters", "/tokens", "/audit"):
            problem(program.get(path), 403)
        problem(program.post("/tokens", json={"name": "x"}), 403)


def test_a_token_makes_none_that_may_more(manager: Manager, root: httpx.Client) -> None:
    with manager.with_token(add_token(root, "tokens:create", "clusters:read")) as program:
        wider = {"name": "x", "scopes": ["clusters:create"]}
        problem(program.post("/tokens", json=wider), 403)
        created(program.post("/tokens", json={"name": "x", "scopes": ["clusters:read"]}))
        problem(program.put("/me/password", json={"old": PASSWORD, "password": PASSWORD}), 403)


@pytest.mark.parametrize("scope", ["*", "clusters:*", "clusters", "", "nothing:read"])
def test_scopes_are_permissions(root: httpx.Client, scope: str) -> None:
    problem(root.post("/tokens", json={"name": "x", "scopes": [scope]}), 400)


def test_tokens_are_their_owner_s(manager: Manager, root: httpx.Client) -> None:
    add_user(root, "owner", "viewer")
    with manager.sign_in("owner") as owner:
        mine = created(owner.post("/tokens", json={"name": "mine"}))["token"]["id"]
        assert [row["id"] for row in owner.get("/tokens").json()] == [mine]
    problem(root.get(f"/tokens/{mine}"), 404)
    problem(root.delete(f"/tokens/{mine}"), 404)


@pytest.mark.parametrize(
    "value", ["Bearer hwk_wrong", "Bearer x", "Basic cm9vdDp4", "hwk_x", "Bearer", ""]
)
def test_other_credentials_are_no_good(manager: Manager, value: str) -> None:
    with manager.client(headers={"authorization": value}) as client:
        problem(client.get("/clusters"), 401)


def test_tokens_in_the_query_are_not_taken(manager: Manager, root: httpx.Client) -> None:
    value = add_token(root, "clusters:read")
    with manager.client() as client:
        problem(client.get("/clusters", params={"access_token": value}), 401)


# ---------------------------------------------------------------------------- roles


def test_an_own_role_allows_what_it_says(manager: Manager, root: httpx.Client) -> None:
    body = {"name": "auditor", "permissions": ["audit:read", "users:read", "audit:read"]}
    role = created(root.post("/roles", json=body))
    assert role["permissions"] == ["audit:read", "users:read"]
    add_user(root, "audits", "auditor")
    with manager.sign_in("audits") as client:
        assert client.get("/audit").status_code == 200
        problem(client.get("/clusters"), 403)
        url = f"/roles/{role['id']}"
        root.patch(url, json={"permissions": ["clusters:read"]}, headers={"if-match": '"1"'})
        problem(client.get("/audit"), 403)
        assert client.get("/clusters").status_code == 200
        problem(root.delete(url), 409)
    problem(root.post("/roles", json={**body, "name": "root"}), 409)
    problem(root.post("/roles", json={"name": "x", "permissions": ["a:b"]}), 400)
    names = [row["name"] for row in root.get("/roles").json()]
    assert names == ["root", "operator", "viewer", "auditor"]
    assert root.get("/roles/viewer").json()["builtin"]
    problem(root.delete("/roles/viewer"), 404)


def test_nobody_gives_or_takes_over_what_they_may_not(manager: Manager, root: httpx.Client) -> None:
    """Who administers people, and nothing else, stays so."""
    people = [
        "users:read", "users:create", "users:update", "roles:read", "roles:create", "roles:update",
        "bindings:read", "bindings:create", "bindings:delete",
    ]  # fmt: skip
    created(root.post("/roles", json={"name": "staff", "permissions": people}))
    own = add_user(root, "staff", "staff")
    victim = add_user(root, "victim", "root")
    with manager.sign_in("staff") as client:
        give = {"user": own["id"], "role": "root"}
        problem(client.post("/bindings", json=give), 403)
        problem(client.post("/bindings", json={**give, "role": "viewer"}), 403)
        problem(client.post("/bindings", json={**give, "role": "no-such"}), 404)
        wider = {"name": "wider", "permissions": ["clusters:delete"]}
        problem(client.post("/roles", json=wider), 403)
        [staff] = client.get("/roles?name=staff").json()
        raised = {"permissions": [*people, "clusters:delete"]}
        url = f"/roles/{staff['id']}"
        problem(client.patch(url, json=raised, headers={"if-match": "*"}), 403)
        url = f"/users/{victim['id']}"
        problem(client.put(f"{url}/password", json={"password": PASSWORD}), 403)
        problem(client.patch(url, json={"disabled": True}, headers={"if-match": "*"}), 403)
        [binding] = client.get("/bindings", params={"user": victim["id"]}).json()
        problem(client.delete(f"/bindings/{binding['id']}"), 403)
        created(client.post("/bindings", json={**give, "role": "staff"}))


def test_somebody_is_always_left_who_may_do_everything(fresh: Manager) -> None:
    with fresh.set_up() as root:
        me = root.get("/me").json()
        user, binding = f"/users/{me['user']['id']}", f"/bindings/{me['bindings'][0]['id']}"
        problem(root.patch(user, json={"disabled": True}, headers={"if-match": "*"}), 409)
        problem(root.delete(binding), 409)
        other = add_user(root, "other", "root")
        off = {"json": {"disabled": True}, "headers": {"if-match": "*"}}
        assert root.patch(f"/users/{other['id']}", **off).status_code == 200  # type: ignore[arg-type]
        problem(root.delete(binding), 409)
        on = {"json": {"disabled": False}, "headers": {"if-match": "*"}}
        assert root.patch(f"/users/{other['id']}", **on).status_code == 200  # type: ignore[arg-type]
        assert root.delete(binding).status_code == 204
        problem(root.get("/clusters"), 403)
