"""An OpenID Connect provider on loopback, as far as a resource server sees it: a document, a set of
keys, and tokens. It counts what it is asked."""

from __future__ import annotations

import json
import ssl
import threading
import time
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

AUDIENCE = "hawker"
ALGORITHMS = {"RS256": "rsa", "PS256": "rsa", "ES256": "ec", "EdDSA": "okp", "Ed25519": "okp"}

# RSA keys take long to make; nobody changes them.
_RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})


_PORTS: set[int] = set()


def _on_a_new_port(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """On a port that none had before: a manager keeps what it knows of a provider under its URL,
    and ports are given again."""
    while True:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        port = server.server_address[1]
        if port not in _PORTS:
            _PORTS.add(port)
            return server
        server.server_close()


class IdentityProvider:
    """Answers until it is closed, over TLS where a context is given; its fields are what the next
    answer says."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.keys: dict[str, Key] = {
            "rsa": _RSA,
            "ec": ECKey.generate_key("P-256", {"kid": "ec-1"}),
            "okp": OKPKey.generate_key("Ed25519", {"kid": "okp-1"}),
        }
        self.more: list[Any] = []
        self.asked: list[str] = []
        self.status = 200
        self.pause = 0.0
        self.fields: dict[str, str] = {}
        self.document: dict[str, Any] = {}
        self.body: bytes | None = None
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                time.sleep(provider.pause)
                more = provider.get(self.path, self.headers)
                page = provider.page(self.path, self.headers)
                if provider.body is not None:
                    body = provider.body
                elif page is not None:
                    body = page.encode()
                elif more is not None:
                    body = json.dumps(more).encode()
                elif self.path == "/realm/keys":
                    entries = [key.as_dict(private=False) for key in provider.keys.values()]
                    body = json.dumps({"keys": [*provider.more, *entries]}).encode()
                else:
                    body = json.dumps(
                        {"issuer": provider.issuer, "jwks_uri": f"{provider.issuer}/keys"}
                        | provider.document
                    ).encode()
                self.send_response(provider.status)
                if page is not None:
                    self.send_header("content-type", "text/html")
                for name, value in provider.fields.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                raw = self.rfile.read(int(self.headers["content-length"]))
                fields = {name: values[0] for name, values in parse_qs(raw.decode()).items()}
                status, answer = provider.post(self.path, fields, self.headers)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = _on_a_new_port(Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.issuer = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/realm"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def get(self, path: str, headers: Message) -> object:
        """What else it answers; None: nothing."""
        return None

    def page(self, path: str, headers: Message) -> str | None:
        """HTML that it answers; None: none."""
        return None

    def post(self, path: str, fields: dict[str, str], headers: Message) -> tuple[int, object]:
        return 404, {}

    def close(self) -> None:
        """Nobody answers there any more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def claims(self, **others: Any) -> dict[str, Any]:
        """What a good access token says; None takes a claim away."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "somebody",
            "iat": now,
            "exp": now + 300,
            "scope": "openid read",
        }
        return {name: value for name, value in (claims | others).items() if value is not None}

    def token(
        self,
        algorithm: str = "RS256",
        *,
        header: dict[str, Any] | None = None,
        key: Key | None = None,
        **claims: Any,
    ) -> str:
        """A token as this provider signs it, but for what is given."""
        key = key or self.keys[ALGORITHMS[algorithm]]
        fields = {"alg": algorithm, "typ": "at+jwt", "kid": key.kid} | (header or {})
        return signed(
            {name: value for name, value in fields.items() if value is not None},
            self.claims(**claims),
            key,
        )


class _Anything(JWSRegistry):
    """Signs with what no honest provider would."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]

    def check_header(self, header: Any) -> None:
        return


def signed(header: dict[str, Any], claims: dict[str, Any] | bytes, key: Key) -> str:
    """A signed token; bytes are its payload as they are."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    registry = _Anything(strict_check_header=False)
    return jws.serialize_compact(header, payload, key, registry=registry)
