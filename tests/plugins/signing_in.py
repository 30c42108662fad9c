"""An OpenID Connect provider on loopback that people sign in with and programs get tokens of: the
code flow with PKCE, devices, client credentials, and refresh tokens that are good once."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.plugins.identity_provider import IdentityProvider

CLIENT, SECRET = "console", "the client's secret"
DEVICE_CLIENT = "command-line"
MACHINE, MACHINE_SECRET = "machine", "the machine's secret"


class SignInProvider(IdentityProvider):
    """Its fields say what it does next: `refuses` is an error for the next answer, `pending` are
    those for devices before somebody agrees, `lasts` the seconds that access tokens do, `said` the
    claims of ID tokens, `granted` those of access tokens, `info` what it says besides."""

    def __init__(self) -> None:
        super().__init__()
        self.document = {
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "device_authorization_endpoint": f"{self.issuer}/device",
            "revocation_endpoint": f"{self.issuer}/revoke",
        }
        self.refuses = ""
        self.pending: list[str] = []
        self.lasts = 300
        self.said: dict[str, Any] = {}
        self.granted: dict[str, Any] = {}
        self.info: dict[str, Any] | None = None
        self.codes: dict[str, dict[str, str]] = {}
        self.refreshable: set[str] = set()
        self.revoked: list[str] = []
        self.forms: list[dict[str, str]] = []

    def with_info(self, **info: Any) -> None:
        """Have a place for what it says of people besides."""
        self.info = info
        self.document["userinfo_endpoint"] = f"{self.issuer}/me"

    def agree(self, url: str) -> str:
        """What the browser's user does at its page: agrees; where the browser is sent then."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert url.startswith(f"{self.issuer}/authorize?"), url
        assert query["response_type"] == "code" and query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256" and len(query["state"]) >= 32
        assert "openid" in query["scope"].split()
        code = secrets.token_hex(8)
        self.codes[code] = query
        return f"{query['redirect_uri']}?code={code}&state={query['state']}&session_state=x"

    def get(self, path: str, headers: Message) -> object:
        if path == "/realm/me" and self.info is not None:
            assert headers["authorization"].startswith("Bearer ")
            return self.info
        return None

    def post(self, path: str, fields: dict[str, str], headers: Message) -> tuple[int, object]:
        self.forms.append(fields)
        client = _client(fields, headers)
        if self.refuses:
            error, self.refuses = self.refuses, ""
            return 400, {"error": error, "error_description": "as the test says"}
        if path == "/realm/revoke":
            self.revoked.append(fields["token"])
            self.refreshable.discard(fields["token"])
            return 200, {}
        if path == "/realm/device" and client == (DEVICE_CLIENT, ""):
            return 200, {
                "device_code": "the-device",
                "user_code": "WDJB-MJHT",
                "verification_uri": f"{self.issuer}/enter",
                "verification_uri_complete": f"{self.issuer}/enter?user_code=WDJB-MJHT",
                "expires_in": 60,
                "interval": 1,
            }
        if path == "/realm/token":
            return self._token(fields, client)
        return 404, {"error": "invalid_request"}

    def _token(self, fields: dict[str, str], client: tuple[str, str]) -> tuple[int, object]:
        grant = fields["grant_type"].rpartition(":")[2]
        if grant == "authorization_code" and client == (CLIENT, SECRET):
            query = self.codes.pop(fields["code"], None)
            if query is None or query["redirect_uri"] != fields["redirect_uri"]:
                return 400, {"error": "invalid_grant"}
            digest = hashlib.sha256(fields["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            if query["code_challenge"] != challenge:
                return 400, {"error": "invalid_grant"}
            said = {"aud": CLIENT, "nonce": query["nonce"], "scope": None} | self.said
            return 200, self._answer() | {"id_token": self.token(header={"typ": "JWT"}, **said)}
        if grant == "device_code" and client == (DEVICE_CLIENT, ""):
            if self.pending:
                return 400, {"error": self.pending.pop(0)}
            return 200, self._answer(refresh=True)
        if grant == "refresh_token" and client == (DEVICE_CLIENT, ""):
            if fields["refresh_token"] not in self.refreshable:
                return 400, {"error": "invalid_grant"}
            self.refreshable.discard(fields["refresh_token"])
            return 200, self._answer(refresh=True)
        if grant == "client_credentials" and client == (MACHINE, MACHINE_SECRET):
            return 200, self._answer(sub=MACHINE)
        return 401, {"error": "invalid_client"}

    def _answer(self, *, refresh: bool = False, **claims: Any) -> dict[str, Any]:
        # Two of one second are two all the same.
        own: dict[str, Any] = {"exp": int(time.time()) + self.lasts, "jti": secrets.token_hex(8)}
        granted = own | self.granted | claims
        answer: dict[str, Any] = {
            "access_token": self.token(**granted),
            "token_type": "Bearer",
            "expires_in": self.lasts,
        }
        if refresh:
            answer["refresh_token"] = secrets.token_hex(16)
            self.refreshable.add(answer["refresh_token"])
        return answer


def _client(fields: dict[str, str], headers: Message) -> tuple[str, str]:
    """Who asks (RFC 6749 section 2.3.1), and with which secret."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        name, _, secret = base64.b64decode(value).decode().partition(":")
        return name, secret
    return fields.get("client_id", ""), fields.get("client_secret", "")
