"""What registries ask for is understood, and no credential is shown beside its registry."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.contracts import Credential
from hawker.core.errors import OriginFailed, OriginRefused
from hawker.core.registries import (
    MAX_ANSWER,
    Tokens,
    accepted,
    digest_in,
    parse_challenge,
    trusts,
)

DIGEST = "sha256:" + hashlib.sha256(b"").hexdigest()
BLOB = f"https://registry.test/v2/lib/img/blobs/{DIGEST}"
CHALLENGE = (
    'Bearer realm="https://auth.registry.test/token",service="registry.test",'
    'scope="repository:lib/img:pull"'
)


@pytest.mark.parametrize(
    "url, digest",
    [
        (BLOB, DIGEST),
        (f"https://registry.test/v2/a/b/c/manifests/{DIGEST}?ns=x", DIGEST),
        ("https://registry.test/v2/lib/img/manifests/latest", ""),
        (BLOB[:-1], ""),
        (BLOB.replace("sha256", "md5"), ""),
        (BLOB.replace("/v2/", "/v1/"), ""),
        (f"https://registry.test/v2/lib/img/referrers/{DIGEST}", ""),
    ],
)
def test_the_digest_in_a_url_names_its_content(url: str, digest: str) -> None:
    assert digest_in(url) == digest


def test_manifests_are_asked_for_in_their_present_forms() -> None:
    assert "oci.image.index" in accepted("https://registry.test/v2/lib/img/manifests/latest")
    assert accepted(BLOB) == accepted("https://other.test/manifests/x") == "*/*"


def test_a_challenge_is_its_scheme_and_fields() -> None:
    challenge = parse_challenge(CHALLENGE)
    assert challenge is not None
    assert challenge.scheme == "bearer"
    assert challenge.fields["realm"] == "https://auth.registry.test/token"
    assert challenge.fields["scope"] == "repository:lib/img:pull"
    quoted = parse_challenge(r'Basic realm="a \"b\" c", charset=UTF-8')
    assert quoted is not None
    assert (quoted.scheme, quoted.fields) == ("basic", {"realm": 'a "b" c', "charset": "UTF-8"})
    assert parse_challenge("") is parse_challenge('="x"') is None


@given(st.text(max_size=200))
def test_no_challenge_breaks_its_reader(text: str) -> None:
    for challenge in (parse_challenge(text), parse_challenge("Bearer " + text)):
        assert challenge is None or challenge.scheme == challenge.scheme.lower() != ""


@pytest.mark.parametrize(
    "registry, realm, trusted",
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token", True),
        ("https://registry.test:5000", "https://registry.test/token", True),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", True),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", True),
        ("https://registry.example.co.uk", "https://auth.example.co.uk/token", True),
        ("https://registry.example.co.uk", "https://evil.co.uk/token", False),
        ("https://registry.test", "https://evil.test2/token", False),
        ("https://registry.docker.io", "http://auth.docker.io/token", False),
        ("https://registry.test", "http://registry.test/token", False),
        ("http://127.0.0.1:5000", "http://127.0.0.2/token", False),
        ("http://10.0.0.1", "https://1.0.0.1/token", False),
        ("http://localhost:1", "http://otherhost/token", False),
        ("https://registry.test", "file:///etc/passwd", False),
        ("https://registry.test", "", False),
    ],
)
def test_realms_that_users_may_sign_in_at(registry: str, realm: str, trusted: bool) -> None:
    assert trusts(registry, realm) is trusted


class Realm:
    """Answers as a token endpoint, and keeps what it was asked."""

    def __init__(self, status: int = 200, body: str = '{"token": "t1", "expires_in": 100}') -> None:
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.status, self.body = status, body

    async def send(self, url: str, fields: Mapping[str, str]) -> httpx.Response:
        self.asked.append((url, fields))
        await asyncio.sleep(0)
        return httpx.Response(self.status, text=self.body)


def refusal(challenge: str = CHALLENGE) -> httpx.Response:
    return httpx.Response(401, headers={"www-authenticate": challenge})


def test_many_who_are_refused_together_ask_for_one_token() -> None:
    realm, now = Realm(), 0.0

    async def run() -> None:
        nonlocal now
        tokens = Tokens(realm.send, lambda: now)
        got = await asyncio.gather(*[tokens.answer(BLOB, refusal(), None, "") for _ in range(5)])
        assert got == ["t1"] * 5
        [(url, fields)] = realm.asked
        assert url.startswith("https://auth.registry.test/token?service=registry.test&scope=")
        assert "authorization" not in fields
        assert tokens.known(BLOB, None) == "t1"
        assert tokens.known(BLOB.replace("lib/img", "lib/other"), None) == ""
        assert tokens.known(BLOB, Credential(username="ann", password="x")) == ""
        # One that was refused is not given again, and one whose end is near is not used.
        realm.body = '{"access_token": "t2"}'
        assert await tokens.answer(BLOB, refusal(), None, "t1") == "t2"
        now = 51.0
        assert tokens.known(BLOB, None) == ""

    asyncio.run(run())


def test_a_credential_is_shown_at_its_registrys_own_realm_alone() -> None:
    realm = Realm()
    ann = Credential(username="ann", password="secret")

    async def run() -> None:
        tokens = Tokens(realm.send)
        await tokens.answer(BLOB, refusal(), ann, "")
        shown = base64.b64encode(b"ann:secret").decode()
        assert realm.asked.pop()[1]["authorization"] == f"Basic {shown}"
        foreign = refusal('Bearer realm="https://evil.test2/token",service="x"')
        with pytest.raises(OriginRefused, match="not its own"):
            await Tokens(realm.send).answer(BLOB, foreign, ann, "")
        assert not realm.asked
        # Who has nothing to lose may ask anybody.
        assert await Tokens(realm.send).answer(BLOB, foreign, None, "") == "t1"

    asyncio.run(run())


@pytest.mark.parametrize(
    "status, body, error",
    [
        (401, "{}", OriginRefused),
        (500, '{"token": "x"}', OriginFailed),
        (200, "{}", OriginFailed),
        (200, "[", OriginFailed),
        (200, '{"token": "a\\nb: c"}', OriginFailed),
        (200, '{"token": "' + "x" * MAX_ANSWER + '"}', OriginFailed),
    ],
)
def test_a_realm_that_gives_no_token(status: int, body: str, error: type[Exception]) -> None:
    realm = Realm(status, body)
    with pytest.raises(error):
        asyncio.run(Tokens(realm.send).answer(BLOB, refusal(), None, ""))


def test_a_slow_realm_holds_up_its_own_registry_alone() -> None:
    async def send(url: str, fields: Mapping[str, str]) -> httpx.Response:
        if "slow" in url:
            await asyncio.sleep(30)
        return httpx.Response(200, text='{"token": "t1"}')

    async def run() -> None:
        tokens = Tokens(send)
        slow = refusal('Bearer realm="https://slow.test/token"')
        other = BLOB.replace("registry.test", "other.test")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(tokens.answer(other, slow, None, ""))
            await asyncio.sleep(0.05)
            async with asyncio.timeout(5):
                assert await tokens.answer(BLOB, refusal(), None, "") == "t1"
            waiting.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("challenge", ["", "Basic realm=x", "Bearer", "Negotiate"])
def test_what_no_token_answers(challenge: str) -> None:
    realm = Realm()

    async def run() -> str:
        return await Tokens(realm.send).answer(BLOB, refusal(challenge), None, "")

    if challenge == "Bearer":
        with pytest.raises(OriginFailed, match="no place"):
            asyncio.run(run())
    else:
        assert asyncio.run(run()) == ""
    assert not realm.asked
