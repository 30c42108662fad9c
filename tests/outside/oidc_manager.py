"""A manager and a real provider: its tokens at the API, people who sign in to the console and with
`hawker login`, programs, and what others make of good tokens."""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from joserfc import jws
from joserfc.jwk import ECKey, KeySet, RSAKey

from tests.apps.manager.running import API, Manager, created
from tests.outside.oidc_world import (
    CONSOLE_SECRET,
    SECRET,
    Checks,
    Provider,
    browser,
    sign_in,
)

NAME = "corp"
CALLBACK = f"{API}/auth/{NAME}/callback"
STORM = 200


def describe(root: httpx.Client, manager: Manager, provider: Provider) -> None:
    """Tell the manager of the provider."""
    rules = [
        {"claim": "scope", "value": "hawker.read", "role": "viewer"},
        {"claim": "groups", "value": "operators", "role": "operator"},
    ]
    body = {
        "name": NAME,
        "issuer": provider.url,
        "audiences": ["hawker"],
        "client": "console",
        "secret": CONSOLE_SECRET,
        "redirect_uri": manager.url + CALLBACK,
        "device_client": "cli",
        "scopes": ["openid", "groups", "hawker.read"],
        "resource": "urn:hawker",
        "rules": rules,
    }
    created(root.post("/providers", json=body))


def ask(manager: Manager, token: str, path: str = "/clusters") -> tuple[int, str]:
    with manager.with_token(token) as client:
        answer = client.get(path)
    return answer.status_code, "" if answer.is_success else answer.json()["detail"]


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def forged(provider: Provider, token: str) -> dict[str, str]:
    """What others make of a good token, and of what the provider tells everybody."""
    head, body, sign = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    keys = httpx.get(f"{provider.url}/jwks", trust_env=False).json()["keys"]
    kid = next(key["kid"] for key in keys if key["kty"] == "RSA")
    public = KeySet.import_key_set({"keys": keys}).get_by_kid(kid)
    assert isinstance(public, RSAKey)
    confused = f"{part({'alg': 'HS256', 'kid': kid, 'typ': 'at+jwt'})}.{body}"
    code = hmac.digest(public.as_pem(private=False), confused.encode(), "sha256")
    own = RSAKey.generate_key(2048, {"kid": kid})
    return {
        "alg none": f"{part({'alg': 'none', 'typ': 'at+jwt'})}.{body}.",
        "HS256 with the public key":
            f"{confused}.{base64.urlsafe_b64encode(code).decode().rstrip('=')}",
        "another group": f"{head}.{part({**claims, 'groups': ['operators']})}.{sign}",
        "another issuer": f"{head}.{part({**claims, 'iss': 'https://elsewhere.example'})}.{sign}",
        "our own key under its name": jws.serialize_compact(
            {"alg": "RS256", "kid": kid, "typ": "at+jwt"}, json.dumps(claims), own
        ),
        "no signature": f"{head}.{body}.",
    }  # fmt: skip


def at_the_api(checks: Checks, manager: Manager, provider: Provider, other: Provider) -> str:
    """A token that will have expired later."""
    short = provider.token("hawker.read", "urn:hawker:short")
    read = provider.token("hawker.read")
    checks.same("manager, a scope that a rule names", ask(manager, read)[0], 200)
    checks.same("manager, what it does not give", ask(manager, read, "/audit")[0], 403)
    nothing = provider.token("elsewhere")
    checks.same("manager, no scope that a rule names", ask(manager, nothing)[0], 403)
    told = ask(manager, provider.token("hawker.read", "urn:other"))
    checks.same("manager, another audience", told, (401, "the token is for another aud"))
    checks.same("manager, a real other issuer", ask(manager, other.token("hawker.read"))[0], 401)
    checks.same("manager, an ID token", ask(manager, provider.id_token())[0], 401)
    for what, token in forged(provider, read).items():
        checks.same(f"manager, {what}", ask(manager, token)[0], 401)
    # A storm of keys that the provider does not have, each signed by one that exists.
    claims = base64.urlsafe_b64decode(read.split(".")[1] + "==")
    stranger = ECKey.generate_key("P-256")
    before, refused = provider.fetches(), []

    def storm(first: int) -> None:
        for number in range(first, STORM, 4):
            header = {"alg": "ES256", "kid": f"x-{number}", "typ": "at+jwt"}
            refused.append(ask(manager, jws.serialize_compact(header, claims, stranger))[0])

    threads = [threading.Thread(target=storm, args=(n,)) for n in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    checks.same(f"manager, {STORM} unknown keys", (len(refused), {*refused}), (STORM, {401}))
    fetched = provider.fetches() - before
    # One each ten seconds at most, however many are shown.
    checks.same(
        f"  which cost the provider {fetched} requests in {seconds:.0f} s",
        fetched <= 1 + seconds // 10,
        True,
    )
    return short


def at_the_console(checks: Checks, manager: Manager, provider: Provider) -> None:
    with browser() as client:
        page = f"{manager.url}{API}/auth/{NAME}/login"
        back = sign_in(client, f"{page}?next=/manager/console", manager.url + CALLBACK)
        answer = client.get(back)
        checks.same("console, the way back", answer.status_code, 200)
        checks.same("  leads on", 'content="0; url=/manager/console"' in answer.text, True)
        me = client.get(f"{manager.url}{API}/me").json()
        got = (me["via"], me["user"]["name"], [one["role"] for one in me["mapped"]])
        checks.same("  as", got, ("session", f"{NAME}:somebody", ["operator"]))
        clusters = client.get(f"{manager.url}{API}/clusters").status_code
        checks.same("  may", clusters, 200)
        checks.same("console, the same way back again", client.get(back).status_code, 401)
        leads = [f"{page}?next={place}" for place in ("https://evil.example", "//evil.example")]
        statuses = [client.get(url).status_code for url in leads]
        checks.same("console, to another site", statuses, [400, 400])
    with browser() as client, browser() as other:
        back = sign_in(client, page, manager.url + CALLBACK)
        checks.same("console, another browser's way back", other.get(back).status_code, 401)
        changed = re.sub(r"code=[^&]+", "code=guessed", back)
        checks.same("console, a guessed code", client.get(changed).status_code, 401)
        checks.same("console, the right one", client.get(back).status_code, 200)
    with browser() as client:
        back = sign_in(client, page, manager.url + CALLBACK, "other")
        client.get(back)
        checks.same(
            "console, nobody's group", client.get(f"{manager.url}{API}/clusters").status_code, 403
        )


def at_a_terminal(checks: Checks, manager: Manager, provider: Provider, root: Path) -> None:
    environ = {**os.environ, "XDG_CONFIG_HOME": str(root / "config")}
    file = root / "config" / "hawker" / "logins.json"
    command = [sys.executable, "-m", "hawker"]

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], env=environ | more, capture_output=True, text=True, timeout=90
        )

    def login() -> dict[str, Any]:
        made: dict[str, Any] = json.loads(file.read_text())["logins"][manager.url]
        return made

    with subprocess.Popen(
        [*command, "login", "--manager", manager.url, "--device"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        url = re.search(r"http://\S+", process.stderr.readline())
        assert url is not None
        with browser() as client:
            sign_in(client, url.group(), "")
        out = process.stdout.read()
        code = process.wait(90)
    told = (code, out.strip())
    checks.same("device", told, (0, f"signed in to {manager.url} as {NAME}:somebody"))
    checks.same("  kept for its owner", oct(file.stat().st_mode & 0o777), "0o600")
    me = json.loads(run("whoami", "--json").stdout)
    roles = sorted(one["role"] for one in me["mapped"])
    checks.same("  whoami", roles, ["operator", "viewer"])
    first = login()
    content = json.loads(file.read_text())
    content["logins"][manager.url]["expires"] = 1
    file.write_text(json.dumps(content))
    checks.same("  its end, by the refresh token", run("whoami").returncode, 0)
    second = login()
    checks.same("  which is another then", second["refresh"] == first["refresh"], False)
    checks.same("  signing out", run("logout").returncode, 0)
    fields = {"grant_type": "refresh_token", "refresh_token": second["refresh"], "client_id": "cli"}
    answer = httpx.post(f"{provider.url}/token", data=fields, trust_env=False)
    checks.same("  the provider takes it no more", answer.json().get("error"), "invalid_grant")
    way = ("login", "--manager", manager.url, "--client-credentials", "--client-id", "ci")
    ran = run(*way, HAWKER_CLIENT_SECRET=SECRET)
    told = (ran.returncode, ran.stdout.strip())
    checks.same("program", told, (0, f"signed in to {manager.url} as {NAME}:ci"))
    checks.same("program, a wrong secret", run(*way, HAWKER_CLIENT_SECRET="x").returncode, 4)


def after_a_while(checks: Checks, manager: Manager, short: str) -> None:
    checks.same("manager, an expired token", ask(manager, short), (401, "the token has expired"))


def after_rotation(
    checks: Checks, manager: Manager, provider: Provider, old: str, rotated: str
) -> None:
    """The provider was away for a moment, and has other keys."""
    checks.same("manager, rotated keys", ask(manager, rotated)[0], 200)
    checks.same("manager, the old ones", ask(manager, old)[0], 401)
    before = provider.fetches()
    for _ in range(50):
        ask(manager, old)
    checks.same("  fetches that 50 of those cost", provider.fetches() - before, 0)
    log = manager.log.read_text()
    checks.same("manager, no token in its log", old in log or rotated in log, False)
    checks.same("manager, no fault in its log", "Traceback" in log, False)
