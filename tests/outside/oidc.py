"""Tokens of a real OpenID Connect provider at a peer and at a mirror that ask for them.

    python -m tests.outside.oidc

Installs oidc-provider (certified by the OpenID Foundation) with npm into a temporary directory and
starts it on loopback. A client gets tokens by client credentials, and an ID token by the code flow;
a peer with `auth.plugins = oidc`, and a mirror that takes the cluster's tokens, too, answer 200,
401 and 403. The provider's keys are rotated, and it is taken away, while they run. Needs node and
npm. Exits with 1 where a check fails, with 2 where a program is missing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
from joserfc.jwk import ECKey, Key, RSAKey

from hawker.core.openid.provider import MIN_INTERVAL
from tests.e2e.conftest import Daemon, Origin
from tests.outside.beginning import demand, directory

PACKAGE = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
SECRET = "secret-of-the-client"
NEEDED = {"node": "nodejs", "npm": "npm"}
START = 30.0
# What an expired token is let in for, and a second that it was good.
LEEWAY = 32.0


class Provider:
    """oidc-provider as a process; started again it has other keys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = root / "provider.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """With keys that it never had."""
        keys: list[Key] = [RSAKey.generate_key(2048), ECKey.generate_key("P-256")]
        listed = [key.as_dict(private=True, kid=secrets.token_hex(4), use="sig") for key in keys]
        file = self.root / "keys.json"
        file.write_text(json.dumps({"keys": listed}))
        # The script's imports are looked for beside it.
        script = shutil.copy(SCRIPT, self.root)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["node", script, str(self.port), str(file)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the provider does not start: {self.log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def fetches(self) -> int:
        """How often it was asked for its keys, by its own log."""
        return self.log.read_text().splitlines().count("keys")

    def token(self, scope: str, resource: str = "urn:hawker") -> str:
        """An access token by client credentials."""
        fields = {"grant_type": "client_credentials", "scope": scope}
        if resource:
            fields["resource"] = resource
        answer = httpx.post(
            f"{self.url}/token", data=fields, auth=("ci", SECRET), trust_env=False, timeout=20
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def id_token(self) -> str:
        """By the code flow with PKCE, through the provider's own pages."""
        verifier = secrets.token_urlsafe(40)
        digest = hashlib.sha256(verifier.encode()).digest()
        back = f"{self.url}/back"
        query = {
            "client_id": "hawker",
            "response_type": "code",
            "scope": "openid",
            "redirect_uri": back,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        with httpx.Client(base_url=self.url, trust_env=False, timeout=20) as browser:
            answer = browser.get("/auth", params=query)
            for _ in range(12):
                place = answer.headers.get("location", "")
                if place.startswith(back):
                    break
                if place:
                    answer = browser.get(place)
                    continue
                action = re.search(r'<form[^>]*action="([^"]+)"', answer.text)
                prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
                if action is None or prompt is None:
                    raise RuntimeError(f"no form: {answer.status_code} {answer.text[:300]}")
                fields = {"prompt": prompt[1], "login": "somebody", "password": "any"}
                answer = browser.post(html.unescape(action[1]), data=fields)
            fields = {
                "grant_type": "authorization_code",
                "code": parse_qs(urlsplit(place).query)["code"][0],
                "redirect_uri": back,
                "code_verifier": verifier,
            }
            answer = browser.post("/token", data=fields, auth=("hawker", SECRET))
            answer.raise_for_status()
            return str(answer.json()["id_token"])


class Checks:
    """Prints each check, and counts those that fail."""

    def __init__(self) -> None:
        self.failed = 0

    def same(self, what: str, got: object, wanted: object) -> None:
        good = got == wanted
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {what}: {got}" + ("" if good else f" != {wanted}"))


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


def play(provider: Provider, peer: Daemon, mirror: Daemon, origin: Origin) -> int:
    checks, content = Checks(), b"content" * 1000
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

    time.sleep(max(0.0, began + LEEWAY - time.monotonic()))
    answer = ask(place, f"Bearer {short}", url=url)
    got = (answer.status_code, answer.json()["detail"])
    checks.same("an expired token", got, (401, "the token has expired"))

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
    return checks.failed


def main() -> None:
    demand(NEEDED)
    with directory("oidc") as root, ExitStack() as stack:
        install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(root)]
        subprocess.run([*install, PACKAGE], check=True, timeout=240)
        provider = Provider(root)
        stack.callback(provider.stop)
        provider.start()
        origin = Origin()
        stack.callback(origin.close)
        peer = stack.enter_context(running(root, provider, "oidc", "serve", "peer"))
        mirror = stack.enter_context(running(root, provider, "cluster,oidc", "up"))
        failed = play(provider, peer, mirror, origin)
    print(f"{failed} failed" if failed else "all good")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
