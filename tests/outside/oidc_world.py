"""A real OpenID Connect provider on loopback, and a browser that signs in at its pages."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
from joserfc.jwk import ECKey, Key, RSAKey

PACKAGE = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
SECRET = "secret-of-the-client"
CONSOLE_SECRET = "secret-of-the-console"
NEEDED = {"node": "nodejs", "npm": "npm"}
START = 30.0
# What an expired token is let in for, and a second that it was good.
LEEWAY = 32.0


class Provider:
    """oidc-provider as a process; started again it has other keys."""

    def __init__(self, root: Path, redirect_uri: str) -> None:
        """`redirect_uri` is the manager's."""
        self.root = root
        self.redirect_uri = redirect_uri
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = root / f"provider-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """With keys that it never had."""
        keys: list[Key] = [RSAKey.generate_key(2048), ECKey.generate_key("P-256")]
        listed = [key.as_dict(private=True, kid=secrets.token_hex(4), use="sig") for key in keys]
        file = self.root / f"keys-{self.port}.json"
        file.write_text(json.dumps({"keys": listed}))
        # The script's imports are looked for beside it.
        script = shutil.copy(SCRIPT, self.root)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["node", script, str(self.port), str(file), self.redirect_uri],
                stdout=log,
                stderr=log,
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
        with browser() as client:
            place = sign_in(client, str(httpx.URL(f"{self.url}/auth", params=query)), back)
            fields = {
                "grant_type": "authorization_code",
                "code": parse_qs(urlsplit(place).query)["code"][0],
                "redirect_uri": back,
                "code_verifier": verifier,
            }
            answer = client.post(f"{self.url}/token", data=fields, auth=("hawker", SECRET))
            answer.raise_for_status()
            return str(answer.json()["id_token"])


def browser() -> httpx.Client:
    return httpx.Client(trust_env=False, timeout=20)


def sign_in(client: httpx.Client, url: str, back: str, name: str = "somebody") -> str:
    """Do what a browser's user does at the provider's pages, from `url` on; where it is sent at the
    end, which begins with `back`. Without one: until a page has no form."""
    answer = client.get(url)
    for _ in range(16):
        place = answer.headers.get("location", "")
        if place:
            place = str(urljoin(str(answer.url), place))
            if back and place.startswith(back):
                return place
            answer = client.get(place)
            continue
        action = re.search(r'<form[^>]*action="([^"]+)"', answer.text)
        if action is None and not back and answer.status_code == 200:
            return ""
        if action is None:
            raise RuntimeError(f"no form: {answer.status_code} {answer.text[:300]}")
        hidden = r'<input type="hidden" name="(\w+)" value="([^"]*)"'
        fields = {name: html.unescape(value) for name, value in re.findall(hidden, answer.text)}
        fields |= {"login": name, "password": "any"}
        answer = client.post(urljoin(str(answer.url), html.unescape(action[1])), data=fields)
    raise RuntimeError(f"{url} does not end")


class Checks:
    """Prints each check, and counts those that fail."""

    def __init__(self) -> None:
        self.failed = 0

    def same(self, what: str, got: object, wanted: object) -> None:
        good = got == wanted
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {what}: {got}" + ("" if good else f" != {wanted}"))
