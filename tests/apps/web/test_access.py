"""Who may call: open sides are for this machine's own user, roles always show tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hawker.apps.web.access import LOCAL, LOCAL_USER, Access, decide_mode, is_local
from hawker.core.digests import HostKey
from hawker.core.egress import is_loopback
from hawker.core.errors import (
    ConfigError,
    Forbidden,
    HawkerError,
    Unauthenticated,
    UnknownPlugin,
)
from hawker.core.registry import PluginHost
from hawker.core.settings import AuthSettings, PluginSettings, Settings, load
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file
from tests.plugins.identity_provider import AUDIENCE, IdentityProvider

OWN = HostKey.from_bytes(b"h" * 32)
HOST = OWN.host
TASK = "cd" * 32
HERE = {"host": "127.0.0.1:4000"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    create_key_file(tmp_path / "cluster.key")
    return load({"storage.data": str(tmp_path)}, environ={}).settings


@pytest.fixture
def key(settings: Settings) -> ClusterKey:
    return ClusterKey(read_key_file(settings.cluster_key_file), own=OWN)


def _scope(headers: dict[str, str], *, unix: bool = False) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
        "client": None if unix else ("127.0.0.1", 5),
        "server": None if unix else ("127.0.0.1", 4000),
        "extensions": {LOCAL: {}} if unix else {},
    }


def _access(settings: Settings, *, open_: bool = True) -> Access:
    return Access(settings, PluginHost(settings), open_)


def _bearer(token: str) -> dict[str, str]:
    return HERE | {"authorization": f"Bearer {token}"}


def test_a_server_that_names_no_client_is_not_the_unix_socket() -> None:
    assert is_local(_scope({}, unix=True))
    assert not is_local({**_scope({}), "client": None, "server": None})
    assert not is_local({"type": "http", "client": None, "server": None})


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:4000", "127.8.9.1:1", "localhost:4000", "LOCALHOST", "[::1]:4"]
)
def test_open_side_takes_loopback_names(host: str, settings: Settings) -> None:
    caller = asyncio.run(_access(settings).require(_scope({"host": host}), "tasks"))
    assert caller == LOCAL_USER


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:4000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "evil@evil.example",
        "127.0.0.1@evil.example",
        "",
        "[::1",
        "[bad]:80",
    ],
)
def test_open_side_refuses_foreign_names(host: str, settings: Settings) -> None:
    with pytest.raises(Forbidden):
        asyncio.run(_access(settings).require(_scope({"host": host}), "tasks"))


def test_open_side_refuses_a_request_without_a_name(settings: Settings) -> None:
    with pytest.raises(Forbidden):
        asyncio.run(_access(settings).require(_scope({}), "tasks"))


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://[", "file:"]
)
def test_open_side_refuses_pages_of_other_sites(
    origin: str, unix: bool, settings: Settings
) -> None:
    with pytest.raises(Forbidden):
        asyncio.run(_access(settings).require(_scope(HERE | {"origin": origin}, unix=unix), "x"))


def test_open_side_takes_a_page_of_this_machine(settings: Settings) -> None:
    scope = _scope(HERE | {"origin": "http://localhost:3000"})
    assert asyncio.run(_access(settings).require(scope, "tasks")) == LOCAL_USER


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize(
    "name", ["forwarded", "via", "x-real-ip", "x-forwarded-for", "X-Forwarded-Host", "Via"]
)
def test_open_side_refuses_forwarded_requests(name: str, unix: bool, settings: Settings) -> None:
    # A server hands header names on in lower case.
    scope = _scope(HERE | {name.lower(): "1.2.3.4"}, unix=unix)
    with pytest.raises(Forbidden, match="forwarded by a proxy"):
        asyncio.run(_access(settings).require(scope, "tasks"))


@pytest.mark.parametrize("headers", [{}, {"host": "evil.example"}, {"host": "localhost"}])
def test_unix_socket_needs_no_name(headers: dict[str, str], settings: Settings) -> None:
    scope = _scope(headers, unix=True)
    assert asyncio.run(_access(settings).require(scope, "tasks")) == LOCAL_USER


@pytest.mark.parametrize("unix", [False, True])
def test_closed_side_needs_a_token(unix: bool, settings: Settings) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(_access(settings, open_=False).require(_scope(HERE, unix=unix), "tasks"))


def test_token_opens_a_closed_side_from_anywhere(settings: Settings, key: ClusterKey) -> None:
    headers = _bearer(key.mint(HOST, ["tasks"])) | {"host": "peer.example", "via": "1.1 proxy"}
    caller = asyncio.run(_access(settings, open_=False).require(_scope(headers), "tasks"))
    assert caller.host == HOST


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize("open_", [False, True])
def test_verbs_of_roles_need_a_token_always(unix: bool, open_: bool, settings: Settings) -> None:
    access = _access(settings, open_=open_)
    with pytest.raises(Unauthenticated):
        asyncio.run(access.require_token(_scope(HERE, unix=unix), "pieces"))


def test_token_of_a_role_is_for_its_verb_task_and_host(settings: Settings, key: ClusterKey) -> None:
    access = _access(settings)
    scope = _scope(_bearer(key.mint(HOST, ["pieces"], task=TASK)))

    async def refused(verb: str, **named: str) -> None:
        with pytest.raises(Forbidden):
            await access.require_token(scope, verb, **named)

    async def main() -> None:
        caller = await access.require_token(scope, "pieces", task=TASK, host=HOST)
        assert (caller.host, caller.task) == (HOST, TASK)
        await refused("announce", task=TASK)
        await refused("pieces", task="ef" * 32)
        await refused("pieces", task=TASK, host="12" * 16)

    asyncio.run(main())


@pytest.mark.parametrize("verb", ["pieces", "leases", "announce", "decisions", "report", "*"])
def test_a_client_is_no_role_whatever_its_verbs_are(
    verb: str, settings: Settings, key: ClusterKey
) -> None:
    """Leases, for one, tell of all tenants' tasks."""
    access = _access(settings)
    token = key.mint_for_client("ci", [verb], tenant="acme", lifetime=60)

    async def main() -> None:
        asked = "leases" if verb == "*" else verb
        with pytest.raises(Forbidden, match="client:ci is a client"):
            await access.require_token(_scope(_bearer(token)), asked)

    asyncio.run(main())


@pytest.mark.parametrize("open_", [False, True])
def test_a_token_of_no_tenant_is_not_the_default_one_s(
    open_: bool, settings: Settings, key: ClusterKey
) -> None:
    access = _access(settings, open_=open_)
    for token in (
        key.mint(HOST, ["content"], tenant=""),
        key.mint_for_client("ci", ["content"], tenant="", lifetime=60),
    ):
        with pytest.raises(Unauthenticated, match="of no tenant"):
            asyncio.run(access.require(_scope(_bearer(token)), "content"))


def test_holder_of_the_cluster_key_cannot_act_as_another_host(
    settings: Settings, key: ClusterKey
) -> None:
    raw = read_key_file(settings.cluster_key_file)
    thief = HostKey.generate()

    class Forging(HostKey):
        """Says it is HOST, and signs with its own key."""

        host = HOST

        def __init__(self) -> None:
            self._private = thief._private
            self.public = thief.public

    async def main() -> None:
        access = _access(settings)
        for minting in (ClusterKey(raw), ClusterKey(raw, own=thief)):
            scope = _scope(_bearer(minting.mint(HOST, ["announce"])))
            with pytest.raises(Forbidden):
                await access.require_token(scope, "announce", host=HOST)
        forged = _scope(_bearer(ClusterKey(raw, own=Forging()).mint(HOST, ["announce"])))
        with pytest.raises(Unauthenticated):
            await access.require_token(forged, "announce", host=HOST)

    asyncio.run(main())


def test_token_without_the_verb_is_refused_on_an_open_side_too(
    settings: Settings, key: ClusterKey
) -> None:
    scope = _scope(_bearer(key.mint(HOST, ["pieces"])))
    with pytest.raises(Forbidden):
        asyncio.run(_access(settings).require(scope, "tasks:delete"))


def test_token_that_is_not_of_this_cluster_is_refused(settings: Settings, key: ClusterKey) -> None:
    foreign = ClusterKey(bytes(32)).mint(HOST, ["*"])
    good = key.mint(HOST, ["*"])
    head, body, signature = good.split(".")
    late = ClusterKey(read_key_file(settings.cluster_key_file), clock=lambda: 1e9)
    tokens = [
        foreign,
        f"{head}.{body}.{signature[::-1]}",
        f"{head}.{body}x.{signature}",
        "a.b.c",
        "..",
        late.mint(HOST, ["*"]),
    ]

    async def main() -> None:
        access = _access(settings)
        for token in tokens:
            with pytest.raises(Unauthenticated):
                await access.require(_scope(_bearer(token)), "tasks")
        assert await access.caller(_scope(_bearer(good))) is not None
        assert await access.caller(_scope(_bearer("opaque"))) is None

    asyncio.run(main())


def test_mode_is_open_only_where_all_is_local() -> None:
    def mode(value: str) -> Settings:
        return load({"auth.mode": value or None, "listen.host": "10.1.2.3"}, environ={}).settings

    assert decide_mode(mode(""), loopback_only=True)
    assert decide_mode(mode("open"), loopback_only=True)
    assert not decide_mode(mode("required"), loopback_only=True)
    assert not decide_mode(mode("required"), loopback_only=False)


@pytest.mark.parametrize(("mode", "text"), [("", "must be set"), ("open", "may not be open")])
def test_open_mode_beyond_this_machine_is_a_mistake(mode: str, text: str) -> None:
    settings = load({"auth.mode": mode or None, "listen.host": "10.1.2.3"}, environ={}).settings
    with pytest.raises(ConfigError, match=text) as caught:
        decide_mode(settings, loopback_only=False)
    error: HawkerError = caught.value
    assert "10.1.2.3" in error.detail and "auth.mode = required" in error.hint


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("::1234", False),
        ("::1:2:3", False),
        ("localhost.example", False),
        ("127.example", False),
    ],
)
def test_only_loopback_addresses_count_as_this_machine(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    yield made
    made.close()


@pytest.mark.parametrize("order", [["cluster", "oidc"], ["oidc", "cluster"]])
def test_each_authenticator_leaves_to_the_next_what_is_not_its_own(
    order: list[str], settings: Settings, key: ClusterKey, provider: IdentityProvider
) -> None:
    options = {"issuer": provider.issuer, "audience": AUDIENCE, "verbs": {"read": ["content"]}}
    chosen = msgspec.structs.replace(
        settings,
        auth=AuthSettings(plugins=order),
        plugins=PluginSettings(options={"oidc": options}),
    )

    async def main() -> None:
        plugins = PluginHost(chosen)
        access = Access(chosen, plugins, False)

        async def subject(token: str) -> str:
            return (await access.require(_scope(_bearer(token)), "content")).subject

        assert await subject(provider.token()) == "oidc:somebody"
        assert await subject(key.mint(HOST, ["content"])) == f"host:{HOST}"
        with pytest.raises(Forbidden):
            await subject(provider.token(scope="another"))
        for wrong in (
            provider.token(exp=1),
            ClusterKey(b"x" * 32).mint(HOST, ["content"]),
            "a.b.c",
        ):
            with pytest.raises(Unauthenticated):
                await subject(wrong)
        for foreign in ("opaque", provider.token(iss="https://elsewhere.example")):
            with pytest.raises(Unauthenticated, match="nobody here knows such a token"):
                await subject(foreign)
        # A provider's users are no hosts, whatever they may do.
        with pytest.raises(Forbidden, match="is a client"):
            scope = _scope(_bearer(provider.token()))
            await access.require_token(scope, "content", host=HOST)
        await plugins.close()

    asyncio.run(main())


def test_an_authenticator_that_cannot_be_used_is_told_before_anybody_calls(
    settings: Settings,
) -> None:
    for name, words in (("oidc", "not set up"), ("odic", "did you mean 'oidc'")):
        chosen = msgspec.structs.replace(settings, auth=AuthSettings(plugins=["cluster", name]))
        with pytest.raises(UnknownPlugin, match=words):
            _access(chosen)
