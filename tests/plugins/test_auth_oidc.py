"""The oidc authenticator: who is let in by a provider's tokens, who is not, and what that costs the
provider, which is a real HTTP server on loopback with a counter of its own."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hmac
import json
import ssl
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from hawker.core.contracts import Authenticator, Caller
from hawker.core.errors import Unauthenticated, Unavailable, UnknownPlugin
from hawker.core.openid import provider as provider_module
from hawker.core.openid.provider import FRESH, MIN_INTERVAL, USABLE, Provider
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.registry import PluginHost
from hawker.core.settings import (
    AuthSettings,
    EgressSettings,
    ListenSettings,
    PluginSettings,
    Settings,
)
from hawker.core.testing.authenticators import AuthenticatorContract
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file
from hawker.plugins.auth.cluster import ClusterAuthenticator
from hawker.plugins.auth.oidc import OidcAuthenticator, OidcOptions
from tests.plugins.identity_provider import AUDIENCE, IdentityProvider, signed

VERBS = {"read": ["content"], "operator": ["content", "tasks"]}
END = b'"exp": 1'
DISCOVERY = "/realm/.well-known/openid-configuration"
ONE_FETCH = [DISCOVERY, "/realm/keys"]


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    yield made
    made.close()


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def settings(options: Any, **others: Any) -> Settings:
    return Settings(plugins=PluginSettings(options={"oidc": options}), **others)


def options(provider: IdentityProvider, **others: Any) -> dict[str, Any]:
    return {"issuer": provider.issuer, "audience": AUDIENCE, "verbs": VERBS, **others}


def loaded(table: Any, **others: Any) -> Authenticator:
    """The plugin as a process loads it."""
    plugin: Authenticator = PluginHost(settings(table, **others)).get("hawker.auth", "oidc")
    return plugin


def made(provider: IdentityProvider, clock: Callable[[], float]) -> OidcAuthenticator:
    client = OriginClient(PluginHost(Settings()).services, origin_tls(""))
    found = Provider(provider.issuer, client, clock)
    return OidcAuthenticator(OidcOptions(provider.issuer, AUDIENCE, VERBS), found)


def run(authenticator: Authenticator, check: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            try:
                await check()
            finally:
                await authenticator.close()

    asyncio.run(main())


async def ask(authenticator: Authenticator, token: str) -> Caller | None:
    return await authenticator.authenticate({"authorization": f"Bearer {token}"})


def asked(table: Any, *tokens: str, **others: Any) -> list[Caller | None]:
    """Who shows these tokens, None for those that are refused."""
    found: list[Caller | None] = []

    async def check() -> None:
        for token in tokens:
            try:
                found.append(await ask(authenticator, token))
            except Unauthenticated:
                found.append(None)

    authenticator = loaded(table, **others)
    run(authenticator, check)
    return found


def refusal(table: Any, token: str) -> str:
    """What is said to whoever shows this token."""
    said = ""

    async def check() -> None:
        nonlocal said
        with pytest.raises(Unauthenticated) as caught:
            await ask(authenticator, token)
        said = str(caught.value)

    authenticator = loaded(table)
    run(authenticator, check)
    return said


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def with_secret(secret: bytes, claims: object) -> str:
    """By hand: a library for tokens refuses to sign with a public key."""
    head = f"{part({'alg': 'HS256', 'kid': 'rsa-1', 'typ': 'at+jwt'})}.{part(claims)}"
    code = hmac.digest(secret, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(code).decode().rstrip('=')}"


class TestOidc(AuthenticatorContract):
    """The contract, with a provider that has three kinds of keys."""

    @pytest.fixture(autouse=True)
    def world(self, provider: IdentityProvider) -> None:
        self.provider = provider

    def make_authenticator(self) -> Authenticator:
        return loaded(options(self.provider))

    def signed(self, payload: bytes) -> str:
        return signed({"alg": "RS256", "typ": "at+jwt"}, payload, self.provider.keys["rsa"])

    def good(self) -> tuple[str, Caller]:
        caller = Caller("oidc:somebody", verbs=frozenset({"content"}))
        return f"Bearer {self.provider.token()}", caller

    def wrong(self) -> Mapping[str, str]:
        good, now = self.provider, int(time.time())
        plain = json.dumps(good.claims(exp=1)).encode()
        assert END in plain
        rsa = good.keys["rsa"]
        assert isinstance(rsa, RSAKey)
        public = rsa.as_pem(private=False)
        stranger = RSAKey.generate_key(2048, {"kid": "rsa-1"})
        head, body, sign = good.token().split(".")
        more = part(good.claims(scope="openid operator"))
        other = ECKey.generate_key("P-256", {"kid": "rsa-1"})
        found = {
            "alg none, no signature": f"{part({'alg': 'none'})}.{body}.",
            "alg none, another's signature": f"{part({'alg': 'none'})}.{body}.{sign}",
            "alg nOnE": f"{part({'alg': 'nOnE'})}.{body}.{sign}",
            "no alg": f"{part({'typ': 'at+jwt'})}.{body}.{sign}",
            "an alg that is no word": f"{part({'alg': ['RS256'], 'kid': 'rsa-1'})}.{body}.{sign}",
            "another body": f"{head}.{more}.{sign}",
            "no signature": f"{head}.{body}.",
            "the public key as a shared secret": with_secret(public, good.claims()),
            "RS512, which is not listed": good.token(header={"alg": "RS512"}),
            "a stranger's key under a known name": good.token(key=stranger),
            "a key of another type under a known name": good.token("ES256", key=other),
            "a key that the token brings along": good.token(
                key=stranger, header={"jwk": stranger.as_dict(private=False), "kid": None}
            ),
            "a key behind a URL of the token": good.token(
                key=stranger, header={"jku": f"{good.issuer}/keys"}
            ),
            "a critical field that nobody knows": good.token(header={"crit": ["x"], "x": 1}),
            "a payload that is not encoded": good.token(header={"crit": ["b64"], "b64": True}),
            "a key id that is no word": good.token(header={"kid": 7}),
            "expired": good.token(exp=now - 60),
            "without an end": good.token(exp=None),
            "an end that is no number": good.token(exp="tomorrow"),
            "an end that is true": good.token(exp=True),
            "not valid yet": good.token(nbf=now + 120),
            "from the future": good.token(iat=now + 120),
            "without an audience": good.token(aud=None),
            "another audience": good.token(aud="somebody-else"),
            "other audiences": good.token(aud=["a", "b"]),
            "an audience that contains ours": good.token(aud="hawker-2"),
            "without an issuer": good.token(iss=None),
            "without a subject": good.token(sub=None),
            "an empty subject": good.token(sub=""),
            "a subject of several lines": good.token(sub="a\nb"),
            "an ID token": good.token(
                header={"typ": "JWT"}, nonce="n", at_hash="h", scope=None, azp="app"
            ),
            "an ID token without a nonce": good.token(header={"typ": "JWT"}, scope=None),
            "an ID token with a scope": good.token(header={"typ": "JWT"}, at_hash="h"),
            "Keycloak's ID token": good.token(header={"typ": "JWT"}, typ="ID"),
            "Keycloak's refresh token": good.token(header={"typ": "JWT"}, typ="Refresh"),
            "Cognito's ID token": good.token(header={"typ": None}, token_use="id"),
            "a logout token": good.token(header={"typ": "logout+jwt"}),
            "a logout token without a type": good.token(header={"typ": None}, events={"x": {}}),
            "a DPoP proof": good.token(header={"typ": "dpop+jwt"}),
            "no JSON": self.signed(b"hello"),
            "a list": self.signed(b"[1, 2]"),
            "an end beyond all numbers": self.signed(plain.replace(END, b'"exp": 1e999')),
            "an end that is no number at all": self.signed(plain.replace(END, b'"exp": NaN')),
        }
        return {what: f"Bearer {token}" for what, token in found.items()}


class TestCluster(AuthenticatorContract):
    """The same contract for tokens of the cluster key: the two are asked in turn."""

    @pytest.fixture(autouse=True)
    def key(self, tmp_path: Path, provider: IdentityProvider) -> None:
        create_key_file(tmp_path / "cluster.key")
        self.settings = Settings(storage=Settings().storage.__class__(data=str(tmp_path)))
        self.key_ = ClusterKey(read_key_file(tmp_path / "cluster.key"))
        self.foreign = (*AuthenticatorContract.foreign, f"Bearer {provider.token()}")

    def make_authenticator(self) -> Authenticator:
        return ClusterAuthenticator(self.settings)

    def good(self) -> tuple[str, Caller]:
        token = self.key_.mint_for_client("ci", ["content"], tenant="default", lifetime=60)
        return f"Bearer {token}", Caller("client:ci", verbs=frozenset({"content"}))

    def wrong(self) -> Mapping[str, str]:
        past = ClusterKey(b"x" * 32)
        old = ClusterKey(self.key_._key.raw_value, lambda: time.time() - 3600)
        return {
            "another cluster's": f"Bearer {past.mint('', ['content'])}",
            "expired": f"Bearer {old.mint('', ['content'])}",
        }


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"])
def test_each_listed_algorithm_is_taken(provider: IdentityProvider, algorithm: str) -> None:
    tokens = [
        provider.token(algorithm),
        provider.token(algorithm, header={"kid": None}),
        provider.token(algorithm, header={"typ": "application/AT+JWT"}),
        provider.token(algorithm, header={"typ": "JWT"}),
        provider.token(algorithm, header={"typ": None}, scope=None, typ="Bearer"),
        provider.token(algorithm, header={"typ": None}, scope=None, token_use="access"),
        provider.token(algorithm, aud=["a", AUDIENCE]),
        provider.token(algorithm, exp=int(time.time()) - 5, nbf=int(time.time()) + 5),
    ]
    for caller in asked(options(provider), *tokens):
        assert caller is not None and caller.subject == "oidc:somebody"
    assert provider.asked == ONE_FETCH


def test_another_issuer_s_token_is_left_to_others(provider: IdentityProvider) -> None:
    for issuer in ("https://elsewhere.example", provider.issuer + "/", provider.issuer.upper()):
        assert asked(options(provider), provider.token(iss=issuer)) == [None]
    assert provider.asked == [], "and nothing is asked for it"


def test_roles_and_tenant_come_from_where_the_options_say(provider: IdentityProvider) -> None:
    keycloak = options(provider, roles_claim="realm_access.roles", tenant_claim="org")
    auth0 = options(provider, roles_claim=["https://x.example/roles"], tenant_claim=["o", "t.t"])
    both = {"roles": ["operator", "unknown", 7]}
    (one, other, nothing, odd) = asked(
        keycloak,
        provider.token(realm_access=both, org="acme"),
        provider.token(realm_access={"roles": "read operator"}, org=["acme"]),
        provider.token(realm_access={}, org="acme"),
        provider.token(realm_access=["roles"], org="acme"),
    )
    assert one == Caller("oidc:somebody", "acme", frozenset({"content", "tasks"}))
    assert other == one
    assert nothing == odd == Caller("oidc:somebody", "acme")
    dotted: dict[str, Any] = {"https://x.example/roles": ["read"], "o": {"t.t": "acme"}}
    (found,) = asked(auth0, provider.token(**dotted))
    assert found == Caller("oidc:somebody", "acme", frozenset({"content"}))


@pytest.mark.parametrize("tenant", [None, "", "a b", ["a", "b"], [], 7, "ü", "a" * 65, {"a": 1}])
def test_a_token_without_a_tenant_s_name_is_refused(
    provider: IdentityProvider, tenant: object
) -> None:
    table = options(provider, tenant_claim="org")
    assert "tenant_claim" in refusal(table, provider.token(org=tenant))


def test_what_is_wrong_is_said(provider: IdentityProvider) -> None:
    now, table = int(time.time()), options(provider, audience=["hawker", "api"])
    for token, words in (
        (provider.token(exp=now - 60), "has expired"),
        (provider.token(nbf=now + 90), "is not valid yet"),
        (provider.token(aud="x"), "hawker or api"),
        (provider.token(aud=None, sub=None), "no aud and no sub"),
        (provider.token(header={"typ": "JWT"}, scope=None), "no access token"),
        (f"{part({'alg': 'none'})}.{part(provider.claims())}.", "RS256"),
        ("a.b.c", "no signed JWT"),
    ):
        assert words in refusal(table, token)


# ---------------------------------------------------------------------------- keys


def test_a_storm_of_unknown_keys_costs_the_provider_nothing(provider: IdentityProvider) -> None:
    clock = Clock()
    authenticator = made(provider, clock)
    stranger = ECKey.generate_key("P-256", {"kid": "x"})

    async def storm(name: str) -> None:
        async def one(number: int) -> None:
            token = provider.token("ES256", key=stranger, header={"kid": f"{name}-{number}"})
            with pytest.raises(Unauthenticated):
                await ask(authenticator, token)

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(number))

    async def check() -> None:
        await ask(authenticator, provider.token())
        assert provider.asked == ONE_FETCH
        await storm("first")
        assert provider.asked == ONE_FETCH
        clock.now += MIN_INTERVAL
        await storm("second")
        await storm("third")
        assert provider.asked == ONE_FETCH * 2, "one request for all of them, once in a while"

    run(authenticator, check)


def test_the_first_callers_share_one_request_though_one_leaves(provider: IdentityProvider) -> None:
    provider.pause = 0.2
    authenticator = made(provider, time.monotonic)

    async def check() -> None:
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(ask(authenticator, provider.token()))
            await asyncio.sleep(0.1)
            tasks = [group.create_task(ask(authenticator, provider.token())) for _ in range(20)]
            leaving.cancel()
        assert all(task.result() is not None for task in tasks)
        assert provider.asked == ONE_FETCH

    run(authenticator, check)


def test_rotated_keys_are_learnt_and_old_ones_forgotten(provider: IdentityProvider) -> None:
    clock = Clock()
    authenticator = made(provider, clock)
    old = provider.token("ES256")

    async def check() -> None:
        assert await ask(authenticator, old) is not None
        provider.keys["ec"] = ECKey.generate_key("P-256", {"kid": "ec-2"})
        new = provider.token("ES256")
        with pytest.raises(Unauthenticated):
            await ask(authenticator, new)
        clock.now += MIN_INTERVAL
        assert await ask(authenticator, new) is not None
        with pytest.raises(Unauthenticated):
            await ask(authenticator, old)

    run(authenticator, check)


def test_keys_are_asked_for_again_though_nobody_shows_a_new_one(
    provider: IdentityProvider,
) -> None:
    clock = Clock()
    authenticator = made(provider, clock)
    revoked = provider.token("ES256")

    async def check() -> None:
        assert await ask(authenticator, revoked) is not None
        del provider.keys["ec"]
        clock.now += FRESH + 1
        # Who comes first does not wait for the provider.
        await ask(authenticator, provider.token())
        flight = authenticator._provider._flight
        assert flight is not None and not flight.done()
        await asyncio.wait({flight}, timeout=20)
        with pytest.raises(Unauthenticated):
            await ask(authenticator, revoked)

    run(authenticator, check)


def test_known_keys_count_for_a_while_when_the_provider_is_away(
    provider: IdentityProvider,
) -> None:
    clock = Clock()
    authenticator = made(provider, clock)
    good = provider.token()
    unknown = provider.token("ES256", key=ECKey.generate_key("P-256", {"kid": "new"}))

    async def check() -> None:
        assert await ask(authenticator, good) is not None
        provider.close()
        for clock.now in (1000 + FRESH - 1, 1000 + FRESH + 60, 1000 + USABLE - 1):
            assert await ask(authenticator, good) is not None
        with pytest.raises(Unavailable):
            await ask(authenticator, unknown)
        clock.now = 1000 + USABLE + 60
        with pytest.raises(Unavailable) as caught:
            await ask(authenticator, good)
        assert caught.value.retry_after

    run(authenticator, check)


def test_a_provider_that_was_away_at_the_start_is_found_later(provider: IdentityProvider) -> None:
    clock = Clock()
    authenticator = made(provider, clock)
    provider.status = 503

    async def check() -> None:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await ask(authenticator, provider.token())
        assert provider.asked == [DISCOVERY]
        provider.status = 200
        clock.now += MIN_INTERVAL
        assert await ask(authenticator, provider.token()) is not None

    run(authenticator, check)


def test_a_provider_that_says_nothing_holds_nobody_for_long(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(provider_module, "FETCH_TIMEOUT", 0.2)
    provider.pause = 2.0
    authenticator = made(provider, Clock())

    async def check() -> None:
        with pytest.raises(Unavailable):
            await ask(authenticator, provider.token())
        assert "did not answer in 0.2 s" in caplog.text

    run(authenticator, check)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"document": {"issuer": "https://evil.example"}}, "calls itself 'https://evil.example'"),
        ({"document": {"jwks_uri": "http://192.0.2.1/keys"}}, "no place for its keys"),
        ({"document": {"jwks_uri": "file:///etc/passwd"}}, "no place for its keys"),
        ({"document": {"jwks_uri": None}}, "no place for its keys"),
        ({"document": {"jwks_uri": "https://169.254.169.254/keys"}}, "may not be read"),
        ({"status": 302, "fields": {"location": "/realm/keys"}}, "answered 302"),
        ({"status": 500}, "answered 500"),
        ({"body": b"[]"}, "no JSON object"),
        ({"body": b"{" * 5000}, "no JSON object"),
        ({"body": b" " * 300_000}, "more than"),
        ({"body": gzip.compress(b"{}"), "fields": {"content-encoding": "gzip"}}, "200 gzip"),
        ({"keys": {}}, "no key that can be used"),
        ({"keys": {}, "more": [{"kty": "oct", "k": "AAAA", "kid": "rsa-1"}]}, "no key that can be"),
    ],
)
def test_a_provider_that_makes_no_sense_lets_nobody_in(
    provider: IdentityProvider,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    words: str,
) -> None:
    token = provider.token()
    for name, value in change.items():
        setattr(provider, name, value)
    authenticator = made(provider, Clock())

    async def check() -> None:
        with pytest.raises(Unavailable):
            await ask(authenticator, token)
        assert words in caplog.text
        assert token not in caplog.text

    run(authenticator, check)


def test_keys_that_are_of_no_use_do_not_spoil_the_others(provider: IdentityProvider) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        weak = RSAKey.generate_key(1024, {"kid": "weak"})
    encrypting = ECKey.generate_key("P-256", {"kid": "enc"})
    deriving = ECKey.generate_key("P-256", {"kid": "ops"})
    uses = [
        encrypting.as_dict(private=False) | {"use": "enc"},
        deriving.as_dict(private=False) | {"key_ops": ["deriveKey"]},
        deriving.as_dict(private=False) | {"key_ops": 7, "kid": [7]},
    ]
    curve = OKPKey.generate_key("X25519", {"kid": "x"})
    free = RSAKey.generate_key(2048, {"kid": "bound"})
    bound = RSAKey.import_key(free.as_dict(private=False) | {"alg": "RS256"})
    provider.more = [
        7, {}, {"kty": "AKP", "kid": "pq"}, {"kty": "RSA", "kid": "broken"},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "odd"},
        *uses, *(key.as_dict(private=False) for key in (curve, bound, weak)),
    ]  # fmt: skip
    provider.keys["same"] = OKPKey.generate_key("Ed25519", {"kid": "rsa-1"})
    found = asked(
        options(provider),
        provider.token(),
        provider.token("EdDSA", key=provider.keys["same"]),
        provider.token(key=free),
        provider.token("PS256", key=free),
        provider.token("ES256", key=encrypting),
        provider.token("ES256", key=deriving),
        provider.token(key=weak),
    )
    assert [caller is not None for caller in found] == [True] * 3 + [False] * 4


def test_the_egress_policy_is_asked(
    provider: IdentityProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that others reach reads nothing of its own machine unless that is listed."""
    authenticator = loaded(options(provider), listen=ListenSettings(host="0.0.0.0"))

    async def check() -> None:
        with pytest.raises(Unavailable):
            await ask(authenticator, provider.token())
        assert "may not be read" in caplog.text and provider.asked == []

    run(authenticator, check)


@pytest.mark.parametrize("setting", ["", "plugins.options.oidc.ca", "egress.ca"])
def test_a_provider_over_tls_is_verified(
    setting: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    provider = IdentityProvider(context)
    file = str(tmp_path / "ca.pem")
    table = options(provider, ca=file if setting.startswith("plugins") else "")
    egress = EgressSettings(ca=file if setting == "egress.ca" else "")
    authenticator = loaded(table, egress=egress)

    async def check() -> None:
        if setting:
            assert await ask(authenticator, provider.token()) is not None
        else:
            with pytest.raises(Unavailable):
                await ask(authenticator, provider.token())
            assert "certificate" in caplog.text and provider.asked == []

    try:
        run(authenticator, check)
    finally:
        provider.close()


# ---------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"issuer": None}, "missing required field `issuer`"),
        ({"audience": None}, "missing required field `audience`"),
        ({"verbs": None}, "missing required field `verbs`"),
        ({"audiense": "x"}, "unknown field `audiense`"),
        ({"audience": ""}, "audience is empty"),
        ({"audience": []}, "audience is empty"),
        ({"audience": ["a", ""]}, "audience is empty"),
        ({"audience": 7}, "audience"),
        ({"verbs": {}}, "lets nobody do anything"),
        ({"verbs": {"a": []}}, "lets nobody do anything"),
        ({"verbs": {"a": "content"}}, "verbs"),
        ({"issuer": "http://login.example.com"}, "is no issuer"),
        ({"issuer": "https://u:p@login.example.com"}, "is no issuer"),
        ({"issuer": "https://login.example.com?x"}, "is no issuer"),
        ({"issuer": "login.example.com"}, "is no issuer"),
        ({"issuer": "https://[::1"}, "is no issuer"),
        ({"roles_claim": ""}, "roles_claim is no path"),
        ({"roles_claim": "a..b"}, "roles_claim is no path"),
        ({"roles_claim": []}, "roles_claim is empty"),
        ({"tenant_claim": "a."}, "tenant_claim is no path"),
        ({"ca": "/nowhere"}, "plugins.options.oidc.ca: /nowhere cannot be used"),
    ],
)
def test_a_wrong_option_is_told_at_the_start(change: dict[str, Any], words: str) -> None:
    table = {"issuer": "https://login.example.com", "audience": AUDIENCE, "verbs": VERBS} | change
    table = {name: value for name, value in table.items() if value is not None}
    with pytest.raises(UnknownPlugin) as caught:
        loaded(table)
    assert words in str(caught.value) and "plugins.options.oidc" in str(caught.value)


def test_not_set_up_it_is_fine_until_it_is_chosen() -> None:
    def plugin(*chosen: str) -> Authenticator:
        host = PluginHost(Settings(auth=AuthSettings(plugins=list(chosen))))
        found: Authenticator = host.get("hawker.auth", "oidc")
        return found

    plugin("cluster")
    with pytest.raises(UnknownPlugin, match="not set up"):
        plugin("cluster", "oidc")
