"""Signing in with a provider in a browser: the code flow, its cookie, and where it leads; and how
often anybody may try to sign in, at all managers of one database together."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from hawker.apps.manager.attempts import LIMITS, WINDOW, Attempts, place_of
from hawker.apps.manager.database import Database
from hawker.apps.manager.secret import KeyedHash
from hawker.core.errors import TooMany
from tests.apps.manager.running import API, Manager, add_token, created, new_database, problem
from tests.apps.manager.test_providers import change
from tests.plugins.identity_provider import AUDIENCE
from tests.plugins.signing_in import CLIENT, SECRET, SignInProvider

RULES = [
    {"claim": "groups", "value": "ops", "role": "operator"},
    {"claim": "groups", "value": "look", "role": "viewer"},
]


class Site:
    """A manager and a provider that knows it."""

    def __init__(self, manager: Manager, root: httpx.Client, provider: SignInProvider) -> None:
        self.manager = manager
        self.root = root
        self.provider = provider
        self.name = f"p{provider.issuer.rpartition(':')[2].partition('/')[0]}"
        self.auth = f"{API}/auth/{self.name}"
        self.row = created(
            root.post(
                "/providers",
                json={
                    "name": self.name,
                    "issuer": provider.issuer,
                    "audiences": [AUDIENCE],
                    "client": CLIENT,
                    "secret": SECRET,
                    "redirect_uri": f"{manager.url}{self.auth}/callback",
                    "scopes": ["openid", "groups"],
                    "rules": RULES,
                },
            )
        )

    def browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.manager.url, timeout=30, trust_env=False)

    def begin(self, browser: httpx.Client, next_: str | None = None) -> str:
        """Where the provider is asked to sign somebody in."""
        query = {} if next_ is None else {"next": next_}
        answer = browser.get(f"{self.auth}/login", params=query)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def sign_in(self, browser: httpx.Client, next_: str | None = None) -> httpx.Response:
        return browser.get(self.provider.agree(self.begin(browser, next_)))

    def me(self, browser: httpx.Client) -> dict[str, Any]:
        answer = browser.get(f"{API}/me")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.fixture
def site(manager: Manager, root: httpx.Client) -> Iterator[Site]:
    provider = SignInProvider()
    try:
        yield Site(manager, root, provider)
    finally:
        # Else its thread keeps the run from ending.
        provider.close()


def changed(url: str, **fields: str | None) -> str:
    """The URL with other query parameters."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | fields
    kept = {name: value for name, value in query.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(kept)))


def test_a_sign_in_ends_with_the_session_that_passwords_have(site: Site) -> None:
    site.provider.said = {"groups": ["ops", "others"], "email": "ada@example.com"}
    with site.browser() as browser:
        answer = site.sign_in(browser, "/manager/console?tab=1")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        leads = re.search(r'http-equiv="refresh" content="0; url=([^"]*)"', answer.text)
        assert leads and html.unescape(leads[1]) == "/manager/console?tab=1"
        fields = [f.lower() for f in answer.headers.get_list("set-cookie")]
        [session] = [f for f in fields if f.startswith("hawker_session=")]
        assert "httponly" in session and "samesite=strict" in session and "path=/manager" in session
        assert "secure" not in session
        # What was kept until now is gone.
        assert [f for f in fields if f.startswith("hawker_sign_in=") and "max-age=0" in f]
        told = site.me(browser)
        assert told["via"] == "session" and told["user"]["subject"] == "somebody"
        assert told["user"]["email"] == "ada@example.com"
        assert [one["role"] for one in told["mapped"]] == ["operator"]
        assert browser.get(f"{API}/clusters").status_code == 200
        problem(browser.get(f"{API}/providers"), 403)
        assert browser.delete(f"{API}/session").status_code == 204
        problem(browser.get(f"{API}/me"), 401)
    # The provider was shown who asks, and that it is who began.
    [form] = [f for f in site.provider.forms if f["grant_type"] == "authorization_code"]
    assert len(form["code_verifier"]) >= 43 and SECRET not in str(form)


def test_what_the_cookie_keeps_is_sealed_and_for_the_way_back(site: Site) -> None:
    with site.browser() as browser:
        answer = browser.get(f"{site.auth}/login")
        [field] = answer.headers.get_list("set-cookie")
        fields = field.lower()
        assert "httponly" in fields and "samesite=lax" in fields and "max-age=600" in fields
        assert f"path={site.auth}" in fields
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        value = browser.cookies["hawker_sign_in"]
        for name in ("state", "nonce"):
            assert query[name][0] not in value
            assert query[name][0].encode() not in bytes.fromhex(value)


@pytest.mark.parametrize(
    "next_",
    [
        "https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example",
        "/manager/\\evil", "javascript:alert(1)", "/other", "/manager", "/manager/\r\nx: y",
        "/manager/<script>", '/manager/"x', "/manager/ ", "manager/", "/%2f/evil.example",
        "//manager/x", "/manager/" + "a" * 600, "/manager/\u2044", "http:/manager/",
    ],
)  # fmt: skip
def test_it_leads_to_no_other_place(site: Site, next_: str) -> None:
    with site.browser() as browser:
        answer = browser.get(f"{site.auth}/login", params={"next": next_})
        assert "is no path below /manager" in problem(answer, 400)
        assert "location" not in answer.headers and not browser.cookies


def test_without_a_place_to_go_it_says_that_it_is_done(site: Site) -> None:
    with site.browser() as browser:
        answer = site.sign_in(browser)
        assert "You are signed in" in answer.text and "refresh" not in answer.text
        assert site.me(browser)["mapped"] == []


def test_an_answer_to_another_sign_in_is_refused(site: Site) -> None:
    """Another browser's, another of this browser, one with no state, one that is shown again."""
    with site.browser() as browser, site.browser() as other:
        back = site.provider.agree(site.begin(browser))
        assert "began no sign-in" in problem(other.get(back), 401)
        site.begin(other)
        assert "not to this browser's" in problem(other.get(back), 401)
        for wrong in (
            changed(back, state=None),
            changed(back, state="x"),
            changed(back, state="é"),
        ):
            assert "not to this browser's" in problem(browser.get(wrong), 401)
        assert "another provider's" in problem(
            browser.get(changed(back, iss="https://evil.example")), 401
        )
        assert "sent no code" in problem(browser.get(changed(back, code=None)), 400)
        assert "hawker_session" not in browser.cookies and "hawker_session" not in other.cookies
        assert browser.get(back).status_code == 200
        assert "began no sign-in" in problem(browser.get(back), 401)


def test_a_provider_that_says_who_answers_must(site: Site) -> None:
    site.provider.document["authorization_response_iss_parameter_supported"] = True
    with site.browser() as browser:
        back = site.provider.agree(site.begin(browser))
        assert "another provider's" in problem(browser.get(back), 401)
        assert browser.get(changed(back, iss=site.provider.issuer)).status_code == 200


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"nonce": "another"}, "does not answer this sign-in"),
        ({"nonce": None}, "does not answer this sign-in"),
        ({"aud": AUDIENCE}, "is for another aud"),
        ({"aud": [CLIENT, "x"]}, "made for another client"),
        ({"azp": "x"}, "made for another client"),
        ({"iss": "https://elsewhere.example"}, "is for another iss"),
        ({"exp": 1}, "has expired"),
        ({"exp": None}, "has no exp"),
        ({"sub": None}, "has no sub"),
    ],
)
def test_an_id_token_that_is_not_ours_signs_nobody_in(
    site: Site, said: dict[str, Any], words: str
) -> None:
    site.provider.said = said
    with site.browser() as browser:
        assert words in problem(site.sign_in(browser), 401)
        assert "hawker_session" not in browser.cookies


def test_what_the_provider_refuses_is_told(site: Site) -> None:
    with site.browser() as browser:
        back = changed(site.provider.agree(site.begin(browser)), code=None, error="access_denied")
        answer = browser.get(back)
        assert "did not sign you in: access_denied" in problem(answer, 401)
        assert "begin again" in answer.json()["hint"]
        site.provider.refuses = "invalid_client"
        assert "refuses: invalid_client (as the test says)" in problem(site.sign_in(browser), 401)


def test_a_provider_that_is_away_is_said_to_be(site: Site) -> None:
    with site.browser() as browser:
        back = site.provider.agree(site.begin(browser))
        site.provider.close()
        answer = browser.get(back)
        assert answer.status_code == 502 and "cannot be read" in answer.json()["detail"]
        for name in ("no-such", "x" * 3000, "%20"):
            problem(browser.get(f"{API}/auth/{name}/login"), 404)


def test_userinfo_adds_claims_of_the_same_person(site: Site) -> None:
    site.provider.with_info(sub="somebody", groups=["look"])
    with site.browser() as browser:
        assert site.sign_in(browser).status_code == 200
        assert [one["role"] for one in site.me(browser)["mapped"]] == ["viewer"]
        site.provider.said = {"groups": ["ops"]}
        assert site.sign_in(browser).status_code == 200
        assert [one["role"] for one in site.me(browser)["mapped"]] == ["operator"]
    site.provider.with_info(sub="somebody-else", groups=["ops"])
    with site.browser() as browser:
        assert "somebody else" in problem(site.sign_in(browser), 401)


def test_rights_follow_the_last_sign_in_and_the_rules_of_now(site: Site) -> None:
    site.provider.said = {"sub": "grace", "groups": ["ops", "look"]}
    url = f"/providers/{site.row['id']}"
    with site.browser() as browser, site.browser() as elsewhere:
        assert site.sign_in(browser).status_code == 200
        with site.manager.client(cookies=browser.cookies) as client:
            token = add_token(client, "clusters:read", "clusters:create")
        with site.manager.with_token(token) as program:
            created(program.post("/clusters", json={"name": "by-grace"}))
            change(site.root, url, rules=[RULES[1]])
            problem(program.post("/clusters", json={"name": "no-more"}), 403)
            problem(browser.post(f"{API}/clusters", json={"name": "no-more"}), 403)
            assert program.get("/clusters").status_code == 200
            # She is in no group any more, as the next sign-in says.
            site.provider.said = {"sub": "grace"}
            assert site.sign_in(elsewhere).status_code == 200
            problem(program.get("/clusters"), 403)
            problem(browser.get(f"{API}/clusters"), 403)
            change(site.root, url, disabled=True)
            problem(program.get("/me"), 401)
            problem(browser.get(f"{API}/me"), 401)
            problem(browser.get(f"{site.auth}/login"), 404)


def test_who_is_disabled_here_does_not_sign_in(site: Site) -> None:
    with site.browser() as browser:
        assert site.sign_in(browser).status_code == 200
        user = site.me(browser)["user"]
        change(site.root, f"/users/{user['id']}", disabled=True)
        problem(browser.get(f"{API}/me"), 401)
        assert "disabled" in problem(site.sign_in(browser), 401)
        assert len(site.root.get("/users", params={"name": user["name"]}).json()) == 1


def test_codes_that_nobody_gave_are_tried_only_so_often(tmp_path: Path) -> None:
    """Each costs the provider a request."""
    manager, provider = Manager(tmp_path / "data"), SignInProvider()
    try:
        with manager.set_up() as root:
            site = Site(manager, root, provider)
            with site.browser() as browser:
                back = provider.agree(site.begin(browser))
                statuses = [
                    browser.get(changed(back, code=str(number))).status_code
                    for number in range(LIMITS["address"] + 5)
                ]
        assert statuses == [401] * LIMITS["address"] + [429] * 5
        assert provider.asked.count("/realm/token") == LIMITS["address"]
    finally:
        provider.close()
        assert manager.close() == 0


# ---------------------------------------------------------------------------- attempts


def counting(tmp_path: Path, check: Callable[[Database, list[Attempts]], Awaitable[None]]) -> None:
    """With what two managers of one database count attempts by."""

    url = new_database()

    async def run() -> None:
        database = Database(url, tmp_path)
        await database.open()
        try:
            with database.active():
                key = KeyedHash(b"k" * 32)
                await check(database, [Attempts(key), Attempts(key)])
        finally:
            await database.close()

    asyncio.run(run())


def test_attempts_are_counted_over_all_managers(tmp_path: Path) -> None:
    async def check(database: Database, managers: list[Attempts]) -> None:
        for number in range(LIMITS["name"]):
            await managers[number % 2].begin(name="ada", address="192.0.2.1")
        for manager in managers:
            with pytest.raises(TooMany) as caught:
                await manager.begin(name="ada", address="192.0.2.2")
            assert caught.value.retry_after and WINDOW - 60 < caught.value.retry_after <= WINDOW
        begun = await managers[0].begin(name="bob", address="192.0.2.1")
        await managers[1].succeeded(begun, name="ada")
        await managers[0].begin(name="ada", address="192.0.2.1")

    counting(tmp_path, check)


def test_of_many_attempts_at_once_no_more_are_taken(tmp_path: Path) -> None:
    async def check(database: Database, managers: list[Attempts]) -> None:
        taken = 0

        async def one(number: int) -> None:
            nonlocal taken
            with database.active():
                try:
                    await managers[number % 2].begin(name="ada", address=str(number))
                except TooMany:
                    return
                taken += 1

        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(one(number))
        assert taken == LIMITS["name"]

    counting(tmp_path, check)


def test_attempts_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()

    async def check(database: Database, managers: list[Attempts]) -> None:
        for _ in range(LIMITS["name"]):
            await managers[0].begin(name="ada")
        monkeypatch.setattr(time, "time", lambda: now + WINDOW + 5)
        await managers[1].begin(name="ada")
        await managers[0].clean()
        from hawker.apps.manager import models

        assert await models.Attempt.all().count() == 1

    counting(tmp_path, check)


def test_a_host_has_many_ipv6_addresses() -> None:
    assert place_of("2001:db8:1:2:3:4:5:6") == place_of("2001:db8:1:2::") != place_of("2001:db8::1")
    assert place_of("::ffff:192.0.2.7") == place_of("192.0.2.7") != place_of("192.0.2.8")
    assert place_of("fe80::1%eth0") == place_of("fe80::2") and place_of("unix") == "unix"
