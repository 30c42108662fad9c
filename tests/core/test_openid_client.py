"""A client of an OpenID Connect provider: it asks for devices as often as it may, and answers that
make no sense are errors that say so."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.core.errors import HawkerError, OriginFailed
from hawker.core.openid import client as client_module
from hawker.core.openid.client import ProviderClient, Refused, ask_about
from hawker.core.openid.provider import MAX_DOCUMENT
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from tests.plugins.signing_in import DEVICE_CLIENT, MACHINE, MACHINE_SECRET, SignInProvider


@pytest.fixture
def provider() -> Iterator[SignInProvider]:
    made = SignInProvider()
    yield made
    made.close()


@pytest.fixture
def successor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package of this environment has brought httpx2, which authlib takes then."""
    assert httpx.__file__ is not None
    folder = [str(Path(httpx.__file__).parent)]
    spec = importlib.util.spec_from_file_location(
        "httpx2", httpx.__file__, submodule_search_locations=folder
    )
    assert spec is not None and spec.loader is not None
    for name in [n for n in sys.modules if n.startswith(("authlib.integrations", "httpx2"))]:
        monkeypatch.delitem(sys.modules, name)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "httpx2", module)
    spec.loader.exec_module(module)
    # What it exports says where it is from.
    module.AsyncClient.__module__ = "httpx2"
    client_module._authlib.cache_clear()
    yield
    for name in [n for n in sys.modules if n.startswith(("authlib.integrations", "httpx2"))]:
        del sys.modules[name]
    client_module._authlib.cache_clear()


def test_another_http_library_that_authlib_takes_is_no_hindrance(
    successor: None, provider: SignInProvider
) -> None:
    async def check(client: ProviderClient) -> None:
        assert client_module._authlib().http.Response is not httpx.Response
        assert (await client.by_credentials()).access

    asking(provider, check, MACHINE, MACHINE_SECRET)


def asking(
    provider: SignInProvider,
    check: Callable[[ProviderClient], Awaitable[None]],
    client: str = DEVICE_CLIENT,
    secret: str = "",
    **document: Any,
) -> None:
    async def main() -> None:
        origins = OriginClient(PluginHost(Settings()).services, origin_tls(""))
        try:
            found = {**await ask_about(origins, provider.issuer), **document}
            await check(ProviderClient(found, origins, client, secret, scopes=["groups"]))
        finally:
            await origins.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_device_asks_as_often_as_it_may(
    provider: SignInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    provider.pending = ["authorization_pending", "slow_down", "authorization_pending", "slow_down"]

    async def check(client: ProviderClient) -> None:
        device = await client.begin_device()
        tokens = await client.by_device(device)
        assert tokens.access and tokens.refresh and tokens.access not in repr(tokens)

    asking(provider, check)
    assert [one for one in waited if one >= 1] == [1, 1, 6, 6, 11]


def test_a_device_outlasts_a_provider_that_is_away_for_a_moment(
    provider: SignInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OriginFailed("no answer"), OriginFailed("no answer")]
    fetch = ProviderClient._fetch

    async def failing(self: ProviderClient, client: Any, **fields: str) -> Any:
        if failures:
            raise failures.pop()
        return await fetch(self, client, **fields)

    monkeypatch.setattr(ProviderClient, "_fetch", failing)

    async def check(client: ProviderClient) -> None:
        device = await client.begin_device()
        assert (await client.by_device(device)).access

    asking(provider, check)
    assert not failures


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "text"), "not a JSON object"),
        ((200, {}), "gave no bearer token"),
        ((200, {"access_token": "a", "token_type": "mac"}), "gave no bearer token"),
        ((200, {"access_token": "a\nb", "token_type": "Bearer"}), "gave no bearer token"),
        ((500, {"error": "x"}), "500"),
        ((200, {"access_token": "a" * MAX_DOCUMENT, "token_type": "Bearer"}), "sends more than"),
    ],
)
def test_answers_that_make_no_sense(
    provider: SignInProvider, monkeypatch: pytest.MonkeyPatch, answer: Any, words: str
) -> None:
    monkeypatch.setattr(provider, "post", lambda *given: answer)

    async def check(client: ProviderClient) -> None:
        with pytest.raises(OriginFailed) as caught:
            await client.by_credentials()
        assert words in str(caught.value)

    asking(provider, check, MACHINE, MACHINE_SECRET)


def test_a_provider_sends_nobody_to_where_anybody_listens(provider: SignInProvider) -> None:
    async def check(client: ProviderClient) -> None:
        for work in (client.by_credentials(), client.begin_device(), client.revoke("t")):
            with pytest.raises(OriginFailed, match="names no place"):
                await work
        with pytest.raises(OriginFailed, match="names no place"):
            await client.sign_in_url("https://h/", state="s", nonce="n", verifier="v" * 43)

    elsewhere = "http://192.0.2.1/"
    asking(
        provider,
        check,
        authorization_endpoint=elsewhere,
        token_endpoint=elsewhere,
        device_authorization_endpoint=None,
        revocation_endpoint=elsewhere,
    )
    assert provider.forms == []


@pytest.mark.parametrize("methods", [["client_secret_post"], ["client_secret_basic"], None])
def test_a_secret_is_shown_as_the_provider_wants(
    provider: SignInProvider, methods: list[str] | None
) -> None:
    async def check(client: ProviderClient) -> None:
        assert (await client.by_credentials()).expires > 0

    document = {} if methods is None else {"token_endpoint_auth_methods_supported": methods}
    asking(provider, check, MACHINE, MACHINE_SECRET, **document)
    [form] = provider.forms
    assert ("client_secret" in form) == (methods == ["client_secret_post"])


def test_a_wrong_secret_is_a_refusal_that_does_not_repeat_it(provider: SignInProvider) -> None:
    async def check(client: ProviderClient) -> None:
        with pytest.raises(Refused) as caught:
            await client.by_credentials()
        assert isinstance(caught.value, HawkerError)
        assert caught.value.error == "invalid_client" and "not-it" not in str(caught.value)

    asking(provider, check, MACHINE, "not-it")


def test_a_provider_that_says_nothing_holds_nobody_for_long(
    provider: SignInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.with_info(sub="somebody")

    def late(*given: object) -> tuple[int, object]:
        time.sleep(2)
        return 200, {}

    async def check(client: ProviderClient) -> None:
        monkeypatch.setattr(client_module, "ANSWER_TIMEOUT", 0.2)
        monkeypatch.setattr(provider, "post", late)
        provider.pause = 2.0
        for work in (client.by_credentials(), client.user_info("t"), client.revoke("t")):
            with pytest.raises(OriginFailed, match=r"did not answer in 0\.2 s"):
                await work

    asking(provider, check, MACHINE, MACHINE_SECRET)
