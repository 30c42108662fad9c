"""Tokens of a real OpenID Connect provider at a peer and at a mirror that ask for them, and at a
manager, where people sign in with it, too.

    python -m tests.outside.oidc

Installs oidc-provider (certified by the OpenID Foundation) with npm into a temporary directory and
starts it on loopback. A client gets tokens by client credentials, and an ID token by the code flow;
a peer with `auth.plugins = oidc`, and a mirror that takes the cluster's tokens, too, answer 200,
401 and 403. At a manager its tokens are mapped to roles; somebody signs in to the console, through
the provider's own pages, and with `hawker login --device`, and a program with its credentials. The
provider's keys are rotated, and it is taken away, while they run. Needs node and npm. Exits with 1
where a check fails, with 2 where a program is missing.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from hawker.core.openid.provider import MIN_INTERVAL
from tests.apps.manager.running import Manager
from tests.e2e.conftest import Daemon, Origin
from tests.outside import oidc_manager
from tests.outside.beginning import demand, directory
from tests.outside.oidc_world import LEEWAY, NEEDED, PACKAGE, Checks, Provider


@contextmanager
def running(root: Path, provider: Provider, plugins: str, *roles: str) -> Iterator[Daemon]:
    options = {
        "issuer": provider.url,
        "audience": "hawker",
        "verbs": {"hawker.read": ["content"], "hawker.list": ["tasks"]},
    }
    os.environ["HAWKER_AUTH__MODE"] = "required"
    os.environ["HAWKER_AUTH__PLUGINS"] = plugins
    os.environ["HAWKER_PLUGINS__OPTIONS"] = json.dumps({"oidc": options})
    daemon = Daemon(root / roles[-1], *roles)
    try:
        yield daemon
    finally:
        daemon.process.terminate()
        daemon.process.wait()


def ask(place: str, shown: str | None, **query: str) -> httpx.Response:
    fields = {} if shown is None else {"authorization": shown}
    return httpx.get(place, params=query, headers=fields, trust_env=False, timeout=60)


def forged(token: str) -> dict[str, str]:
    """What others make of a good token."""
    head, body, sign = token.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').decode().rstrip("=")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["scope"] = "hawker.list"
    other = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return {
        "garbage": "a.b.c",
        "alg none": f"{none}.{body}.",
        "another scope": f"{head}.{other}.{sign}",
        "no signature": f"{head}.{body}.",
    }


def play(
    checks: Checks,
    provider: Provider,
    other: Provider,
    peer: Daemon,
    mirror: Daemon,
    manager: Manager,
    origin: Origin,
) -> None:
    content = b"content" * 1000
    url = origin.put("/file", content)
    place, listing = f"{peer.url}/peer/v1/content", f"{peer.url}/peer/v1/tasks"
    short = provider.token("hawker.read", "urn:hawker:short")
    read, everything = provider.token("hawker.read"), provider.token("hawker.read hawker.list")
    began = time.monotonic()

    answer = ask(place, f"Bearer {read}", url=url)
    got = (answer.status_code, answer.content == content)
    checks.same("content with hawker.read", got, (200, True))
    checks.same("tasks with hawker.read", ask(listing, f"Bearer {read}").status_code, 403)
    checks.same("tasks with both", ask(listing, f"Bearer {everything}").status_code, 200)
    no_right = provider.token("elsewhere")
    checks.same("no scope that is mapped", ask(listing, f"Bearer {no_right}").status_code, 403)
    answer = ask(listing, None)
    checks.same("no token", answer.status_code, 401)
    checks.same("its challenge", answer.headers.get("www-authenticate"), 'Bearer realm="hawker"')
    identity = provider.id_token()
    wrong = forged(read) | {
        "another audience": provider.token("hawker.read", "urn:other"),
        "an opaque token": provider.token("openid", ""),
        "an ID token with our audience": identity,
    }
    for what, token, words in (
        ("another audience", wrong["another audience"], "is for another aud"),
        ("an ID token", identity, "no access token"),
    ):
        detail = ask(listing, f"Bearer {token}").json()["detail"]
        checks.same(f"  why {what} is refused", words in detail, True)
    for what, token in wrong.items():
        for side in (place, f"{mirror.url}/v2/"):
            answer = ask(side, f"Bearer {token}", url=url)
            checks.same(f"{what} at {urlsplit(side).path}", answer.status_code, 401)
            if token != "a.b.c":
                checks.same("  the answer shows the token", token in answer.text, False)

    password = base64.b64encode(f"any:{read}".encode()).decode()
    for shown, wanted in (
        (f"Bearer {read}", 200),
        (f"Basic {password}", 200),
        (f"Bearer {no_right}", 403),
        (None, 401),
    ):
        answer = ask(f"{mirror.url}/v2/", shown)
        checks.same(f"mirror, {(shown or 'nothing').split()[0]}", answer.status_code, wanted)
    checks.same("the provider was asked for its keys, by two processes", provider.fetches(), 2)

    began = time.monotonic()
    short_too = oidc_manager.at_the_api(checks, manager, provider, other)
    oidc_manager.at_the_console(checks, manager, provider)
    oidc_manager.at_a_terminal(checks, manager, provider, provider.root)

    time.sleep(max(0.0, began + LEEWAY - time.monotonic()))
    answer = ask(place, f"Bearer {short}", url=url)
    got = (answer.status_code, answer.json()["detail"])
    checks.same("an expired token", got, (401, "the token has expired"))
    oidc_manager.after_a_while(checks, manager, short_too)

    provider.stop()
    checks.same("the provider is away", ask(place, f"Bearer {read}", url=url).status_code, 200)
    provider.start()
    time.sleep(MIN_INTERVAL)
    rotated = provider.token("hawker.read")
    checks.same("rotated keys", ask(place, f"Bearer {rotated}", url=url).status_code, 200)
    checks.same("the old ones", ask(place, f"Bearer {read}", url=url).status_code, 401)
    before = provider.fetches()
    for _ in range(50):
        ask(place, f"Bearer {read}", url=url)
    checks.same("fetches that 50 old tokens cost", provider.fetches() - before, 0)
    oidc_manager.after_rotation(checks, manager, provider, read, rotated)


def main() -> None:
    demand(NEEDED)
    with directory("oidc") as root, ExitStack() as stack:
        install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(root)]
        subprocess.run([*install, PACKAGE], check=True, timeout=240)
        manager = Manager(root / "manager")
        stack.callback(manager.close)
        provider = Provider(root, manager.url + oidc_manager.CALLBACK)
        other = Provider(root, manager.url + oidc_manager.CALLBACK)
        for one in (other, provider):
            stack.callback(one.stop)
            one.start()
        with manager.set_up() as first:
            oidc_manager.describe(first, manager, provider)
        origin = Origin()
        stack.callback(origin.close)
        peer = stack.enter_context(running(root, provider, "oidc", "serve", "peer"))
        mirror = stack.enter_context(running(root, provider, "cluster,oidc", "up"))
        checks = Checks()
        play(checks, provider, other, peer, mirror, manager, origin)
        failed = checks.failed
    print(f"{failed} failed" if failed else "all good")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
