"""The `oidc` authenticator: access tokens (JWT) of an OpenID Connect or OAuth 2.0 provider.

[plugins.options.oidc]
issuer = "https://login.example.com/realms/main"
audience = "hawker"
roles_claim = "realm_access.roles"
tenant_claim = "tenant"

[plugins.options.oidc.verbs]
hawker-reader = ["content"]
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from hawker.core.contracts import Authenticator, Caller, SourceServices
from hawker.core.errors import ConfigError, Unauthenticated, Unavailable
from hawker.core.openid.provider import Provider, is_issuer
from hawker.core.openid.tokens import Claims, Path, TokenChecker, dig, is_path
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.settings import Settings
from hawker.core.tokens import issuer_of
from hawker.pluggy_specs import hookimpl

_TENANT = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")


class OidcOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.options.oidc]`.

    A claim is named by its path, `realm_access.roles`, or by a list of names where a name has dots
    in it. `verbs` says what each role, or scope, may do.
    """

    issuer: str
    audience: str | list[str]
    verbs: dict[str, list[str]]
    roles_claim: Path = "scope"
    tenant_claim: Path = ""
    ca: str = ""


class OidcAuthenticator:
    """Checks tokens of one issuer, and leaves those of others to other authenticators."""

    def __init__(
        self, options: OidcOptions, provider: Provider, now: Callable[[], float] = time.time
    ) -> None:
        self._options = options
        self._provider = provider
        audiences = options.audience
        self._checker = TokenChecker(
            provider, [audiences] if isinstance(audiences, str) else audiences, now
        )

    async def authenticate(self, headers: Mapping[str, str]) -> Caller | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or token.count(".") != 2:
            return None
        if issuer_of(token) not in ("", self._options.issuer):
            return None
        return self._caller(await self._checker.access(token))

    async def close(self) -> None:
        await self._provider.close()

    def _caller(self, claims: Claims) -> Caller:
        roles = _words(dig(claims, self._options.roles_claim))
        verbs = {verb for role in roles for verb in self._options.verbs.get(role, ())}
        return Caller(f"oidc:{claims['sub']}", self._tenant(claims), frozenset(verbs))

    def _tenant(self, claims: Claims) -> str:
        if not self._options.tenant_claim:
            return "default"
        found = dig(claims, self._options.tenant_claim)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not isinstance(found, str) or not _TENANT.match(found):
            raise Unauthenticated(
                "the token names no tenant",
                hint="see plugins.options.oidc.tenant_claim: one name, of up to 64 letters, digits "
                "and . _ @ -",
            )
        return found


class NotSetUp:
    """Installed, and nobody's choice: it is only asked where `auth.plugins` names it."""

    async def authenticate(self, headers: Mapping[str, str]) -> Caller | None:
        raise Unavailable("oidc is not set up", hint="set plugins.options.oidc.issuer")

    async def close(self) -> None:
        return


def _words(value: Any) -> list[str]:
    """Roles from a list, or from words between spaces (RFC 6749 section 3.3)."""
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _read_options(table: Any, where: str) -> OidcOptions:
    """The options; raises ConfigError for any that is missing, unknown or wrong."""
    try:
        options = msgspec.convert(table, OidcOptions)
    except msgspec.ValidationError as exc:
        known = ", ".join(OidcOptions.__struct_fields__)
        raise ConfigError(f"{where}: {exc}", hint=f"there are: {known}") from None
    if not is_issuer(options.issuer):
        raise ConfigError(
            f"{where}.issuer is no issuer",
            hint="write https://host/path as the provider does; http only for this machine",
        )
    audiences = [options.audience] if isinstance(options.audience, str) else options.audience
    if not audiences or not all(audiences):
        raise ConfigError(
            f"{where}.audience is empty", hint="name what the provider writes in `aud` for Hawker"
        )
    if not any(options.verbs.values()):
        raise ConfigError(
            f"{where}.verbs lets nobody do anything", hint='write verbs = { "role" = ["content"] }'
        )
    for setting in ("roles_claim", "tenant_claim"):
        path = getattr(options, setting)
        if (path or setting == "roles_claim") and path != [] and not is_path(path):
            raise ConfigError(f"{where}.{setting} is no path of claims", hint="write a.b.c")
    if not options.roles_claim:
        raise ConfigError(f"{where}.roles_claim is empty")
    return options


@hookimpl
def hawker_authenticator(name: str, settings: Settings, services: SourceServices) -> Authenticator:
    where = f"plugins.options.{name}"
    table = settings.plugins.options.get(name)
    if table is None:
        if name in settings.auth.plugins:
            raise ConfigError(
                f"auth.plugins names {name}, and it is not set up", hint=f"set {where}.issuer"
            )
        return NotSetUp()
    options = _read_options(table, where)
    if options.ca:
        context = origin_tls(options.ca, f"{where}.ca")
    else:
        context = origin_tls(settings.egress.ca)
    return OidcAuthenticator(options, Provider(options.issuer, OriginClient(services, context)))
